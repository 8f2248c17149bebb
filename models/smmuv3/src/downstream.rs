//! What the SMMU sends of its own accord, to memory and to devices.
//!
//! Whatever is to be sent waits in the state's outbox until the lock is given back, and is sent in that order. Nothing is held
//! meanwhile: a device may answer from within, and come back to any of the model's faces.
//!
//! Not here: writing messages to memory (`smmu`), who takes them to devices (`model_bus::Ways`), which invalidations are under way (`atc`).

use model_bus::{Invalidation, PageResponse};

use crate::state::Message;

/// Something to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// An interrupt, to memory.
    Message(Message),
    /// An invalidation, to an ATC. The number is its own for as long as the model lives; a tag is not.
    Invalidate(Invalidation, u64),
    /// What became of a group of page requests, to its device.
    Respond(PageResponse),
}
