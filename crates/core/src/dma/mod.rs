//! The DMA API: how a driver gives memory to its device and takes it back.
//!
//! A driver gets a [`DmaHandle`] for its device. With it, it shares a [`Coherent`] buffer with the device for long, or gives it a
//! buffer for one transfer ([`Mapping`], [`SgMapping`]), and asks where the device must write an interrupt
//! ([`MsiMessage`]).
//!
//! Not here: who may use the DMA API of a device (`group`), the allocator of addresses (`portcullis-iova`).

mod handle;
mod types;

pub use handle::DmaHandle;
pub use types::{
    Coherent, Direction, DmaMapError, DmaStats, DmaUnmapError, Mapping, MsiError, MsiMessage, Refused,
    Segment, SgMapping,
};
