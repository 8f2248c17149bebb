//! The memory of processes' kernel, which may get none either: its frames and its tables are allocated past the drivers' platform.

use std::sync::Arc;

use portcullis::hal::BlockLayout;
use portcullis::types::Pa;
use portcullis_lab::tamper::{Hands, Tamper};

use crate::fault::FaultKind;
use crate::hub::Hub;

/// Who lets its allocations fail.
pub(crate) struct Hungry(pub(crate) Arc<Hub>);

impl Tamper for Hungry {
    fn alloc(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        if self.0.faults.fires(FaultKind::AllocationFails) { None } else { hands.alloc(layout) }
    }

    fn alloc_buffer(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        if self.0.faults.fires(FaultKind::AllocationFails) { None } else { hands.alloc_buffer(layout) }
    }
}
