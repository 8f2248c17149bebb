//! What domains and processes leave behind: ids of which hardware has not confirmed that it has forgotten them, and what those keep.
//!
//! Whoever goes has hardware asked once. If it does not confirm, it is asked again with the next errors that are handled, and nothing is left once the SMMU is off ([`Estate`]).
//!
//! Not here: what is kept for streams whose entries hardware may still have (`streams`).
//!
//! [`Estate`]: portcullis_paging::Estate

use alloc::sync::Arc;

use portcullis_core::iommu::{Flushed, SyncError};
use portcullis_core::mm::ProcessMemory;
use portcullis_hal::{Platform, Registers};
use portcullis_paging::Mappings;
use portcullis_pgtable::arm::{Stage1, Stage2};
use portcullis_types::mutant;
use portcullis_types::trace::{Event, Value};

use crate::domain::TagIds;
use crate::hardware::Hardware;

/// What one of them leaves.
#[expect(clippy::large_enum_variant, reason = "a box could not be had in the middle of a drop")]
pub(crate) enum Left<P: Platform> {
    /// What tags a domain's entries in TLBs, and its tables.
    Domain { ids: TagIds, mappings: Mappings<P::Mutex, Stage1, Stage2> },
    /// A process's ASID, which is shared and pinned as long as TLBs may have it.
    Process { asid: u16, mm: Arc<dyn ProcessMemory> },
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Its domain or process is gone.
    pub(crate) fn bury(&self, left: Left<P>) {
        self.left.bury(left, |left| self.give_up(left), |left| self.keep(left), || self.is_off());
    }

    fn keep(&self, left: &Left<P>) {
        let (name, field, id) = match left {
            Left::Domain { ids, .. } => {
                // Nobody is there to give way.
                if !self.stage2 {
                    let mut asids = self.asids.lock();
                    ids.each().for_each(|id| asids.lose(id));
                }
                ("domain_kept", "id", ids.id)
            }
            Left::Process { asid, .. } => ("asid_kept", "asid", *asid),
        };
        self.platform.event(&Event { source: "smmuv3", name, fields: &[(field, Value::Dec(id.into()))] });
    }

    /// Asks again of everything that was left.
    pub(crate) fn settle(&self) {
        self.left.settle(|left| self.give_up(left), || self.is_off());
    }

    /// Makes the hardware forget an id, and gives it back with what it kept once it has.
    fn give_up(&self, left: &mut Left<P>) -> Result<(), SyncError> {
        match left {
            Left::Domain { ids, mappings } => {
                let forgotten = mappings.flush_all(&*self.platform, || {
                    self.run(|batch| ids.each().for_each(|id| batch.add(self.forget_tag(id))))
                });
                let forgotten = forgotten.or_else(|error| {
                    if mutant!("tag-reused-though-not-forgotten") {
                        Ok(Flushed::completed())
                    } else {
                        Err(error)
                    }
                })?;
                ids.each().for_each(|id| self.give_tag_back(id));
                mappings.destroy(&*self.platform, forgotten);
            }
            Left::Process { asid, mm } => {
                self.run(|batch| batch.add(self.forget_asid(*asid)))?;
                self.asids.lock().unshare(*asid);
                mm.unpin_asid();
            }
        }
        Ok(())
    }
}
