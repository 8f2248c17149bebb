//! The DMA API: how a driver gives memory to its device and takes it back.
//!
//! A driver gets a [`DmaHandle`] for its device. With it, it shares a [`Coherent`] buffer with the device for long, or gives it a
//! buffer for one transfer ([`Mapping`], [`SgMapping`]), and asks where the device must write an interrupt
//! ([`MsiMessage`]).
//!
//! Where the group's domain translates, the device gets I/O virtual addresses, mapped for just what the direction allows, and they are
//! reused only when hardware has forgotten them. Where it does not, addresses are physical, and a buffer that the device
//! cannot reach is refused. The driver cannot tell, and need not.
//!
//! Not here: who may use the DMA API of a device (`group`), the allocator of addresses (`portcullis-iova`).

mod coherent;
mod handle;
mod msi;
mod sg;
mod space;
mod types;

pub use handle::{DmaHandle, compose_msi};
pub(crate) use msi::MsiPages;
pub(crate) use space::DmaSpace;
pub use types::{
    Coherent, Direction, DmaMapError, DmaStats, DmaUnmapError, Mapping, MsiError, MsiMessage, Refused,
    Segment, SgMapping,
};
