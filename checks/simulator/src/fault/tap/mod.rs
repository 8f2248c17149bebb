//! What stands between a driver and its IOMMU's registers: it counts flushes, falsifies commands, and holds back what makes hardware confirm.
//!
//! An IOMMU that is held back has stopped, as far as its driver can see: for some turns of a wait, or until the operation returns.
//!
//! | file | what |
//! |---|---|
//! | `commands` | an SMMUv3's command queue |
//! | `descriptors` | a VT-d unit's invalidation queue |
//! | `syncs` | an SMMUv2's registers of TLB maintenance |

mod commands;
mod descriptors;
mod syncs;

use std::sync::Mutex;

use model_bus::Bus;
use portcullis::types::Pa;

use super::{FaultKind, Faults};
use crate::hub::locked;

pub(crate) use commands::CommandTap;
pub(crate) use descriptors::DescriptorTap;
pub(crate) use syncs::SyncTap;

/// A register that is about to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) offset: usize,
    pub(crate) value: u64,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// What hardware gets; none if nothing now.
    pub(crate) passes: Option<u64>,
    /// Whether it makes hardware forget everything of a domain, or of all.
    pub(crate) flushes: bool,
}

impl Taken {
    fn passed(value: u64) -> Self {
        Self { passes: Some(value), flushes: false }
    }
}

/// What stands there.
pub(crate) trait Tap: Send + Sync {
    /// A register is about to be written.
    fn written(&self, bus: &Bus, faults: &Faults, written: Written) -> Taken;
    /// A register was read: what the driver gets.
    fn answered(&self, _offset: usize, value: u64) -> u64 {
        value
    }
    /// Somebody has waited for a turn.
    fn waited(&self, bus: &Bus);
    /// The operation has returned: hardware goes on.
    fn release(&self, bus: &Bus);
    /// Whether hardware is held back.
    fn is_held(&self) -> bool;
    /// Where the entry of a source lies, as hardware sees it now; none if no table leads to one.
    fn entry_of(&self, _bus: &Bus, _source: u32) -> Option<Pa> {
        None
    }
}

/// How long hardware is held back, once a fault fired that does that.
#[derive(Debug)]
pub(super) struct Hold<T> {
    state: Mutex<Option<Held<T>>>,
}

#[derive(Clone, Copy, Debug)]
struct Held<T> {
    what: T,
    /// How many turns of a wait are left; none: until the operation returns.
    turns: Option<u32>,
}

/// Turns of a wait that a late sync takes.
const LATE_TURNS: u32 = 3;

impl<T> Default for Hold<T> {
    fn default() -> Self {
        Self { state: Mutex::new(None) }
    }
}

impl<T> Hold<T> {
    /// Holds `what` back if it is time for that, adding it to what is held already by `add`. Answers it if not.
    fn hold(&self, faults: &Faults, what: T, add: impl FnOnce(&mut T, T)) -> Option<T> {
        let mut state = locked(&self.state);
        if let Some(held) = &mut *state {
            add(&mut held.what, what);
            return None;
        }
        let turns = if faults.fires(FaultKind::NoSync) {
            None
        } else if faults.fires(FaultKind::LateSync) {
            Some(LATE_TURNS)
        } else {
            return Some(what);
        };
        *state = Some(Held { what, turns });
        None
    }

    /// Somebody has waited for a turn. Answers what passes now.
    fn waited(&self) -> Option<T> {
        let mut state = locked(&self.state);
        match &mut state.as_mut()?.turns {
            Some(0) => state.take().map(|held| held.what),
            Some(left) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    /// The operation has returned. Answers what passes now.
    fn release(&self) -> Option<T> {
        locked(&self.state).take().map(|held| held.what)
    }

    fn is_held(&self) -> bool {
        locked(&self.state).is_some()
    }
}
