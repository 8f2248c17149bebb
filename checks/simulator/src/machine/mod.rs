//! The machine: models, the drivers' view of them, and devices that go where they are told.
//!
//! | file | what |
//! |---|---|
//! | `spec` | what a machine is like, drawn from a seed |
//! | `platform`, `lock` | the CPU that drivers run on |
//! | `iron` | IOMMUs: their models, their drivers |
//! | `wire` | an IOMMU's way to memory |
//! | `engine` | devices |
//! | `fan` | several IOMMUs as one |
//! | `function` | devices as VFIO has them |
//! | `power` | POWER8's bridge |
//! | `hungry` | the memory of processes' kernel |
//! | `pool` | memory that drivers and users give to devices |

pub(crate) mod engine;
mod fan;
mod function;
mod hungry;
mod iron;
mod lock;
pub(crate) mod platform;
mod pool;
mod power;
mod spec;
mod wire;

pub(crate) use engine::{Engine, FORGED, Form, Move, Root, Shared, Switch};
pub(crate) use fan::Fan;
pub(crate) use function::{BAR_BYTES, Bell, DOORBELL_PAGE, DOORBELLS, SimFunction, SimSlot};
pub(crate) use hungry::Hungry;
pub(crate) use iron::{Bit, Driver, FAR, Guest, Iron, Place, Remapping, Sight, bits_of};
pub(crate) use lock::{forget_held, held};
pub(crate) use platform::SimPlatform;
pub(crate) use pool::Pool;
pub(crate) use power::{
    BRIDGE, BridgeRegisters, BridgeWire, SPARE_BRIDGE, SPARE_DOORBELL, draw as draw_power,
};
pub(crate) use spec::{DeviceSpec, MOST_DEVICES, Spec, UnitSpec};
