//! What domains, processes and guests' tables leave behind: domain-ids of which hardware has not confirmed that it has forgotten them, and what those keep.
//!
//! Whoever goes has hardware asked once. If it does not confirm, it is asked again with the next errors that are handled, and nothing is left once the unit is off ([`Estate`]).
//!
//! Not here: what is kept for sources whose entries hardware may still have (`devices`).
//!
//! [`Estate`]: portcullis_paging::Estate

use alloc::sync::Arc;

use portcullis_core::iommu::{HwDomain, SyncError};
use portcullis_hal::{Platform, Registers};
use portcullis_paging::Mappings;
use portcullis_pgtable::vtd::{FirstStage, SecondStage};
use portcullis_types::trace::{Event, Value};

use crate::descriptor::Descriptor;
use crate::domain::Domain;
use crate::hardware::Hardware;

/// What one of them leaves.
pub(crate) struct Left<P: Platform> {
    /// What its entries in the IOTLB are tagged with.
    pub(crate) did: u16,
    /// What makes hardware forget it.
    pub(crate) forget: Descriptor,
    pub(crate) kept: Kept<P>,
}

/// What has to stay as it is until then.
#[expect(clippy::large_enum_variant, reason = "a box could not be had in the middle of a drop")]
pub(crate) enum Kept<P: Platform> {
    /// A domain's tables.
    Tables(Mappings<P::Mutex, FirstStage, SecondStage>),
    /// A guest's table is the guest's; the domain behind it.
    Parent(Arc<dyn HwDomain<P>>),
    /// A process's table is the process's.
    Nothing,
}

impl<P: Platform, R: Registers + 'static> Hardware<P, R> {
    /// Its domain, process or guest's table is gone.
    pub(crate) fn bury(&self, left: Left<P>) {
        let kept = |left: &Left<P>| {
            self.platform.event(&Event {
                source: "vtd",
                name: "domain_kept",
                fields: &[("id", Value::Dec(left.did.into()))],
            });
        };
        self.left.bury(left, |left| self.give_up(left), kept, || self.is_off());
    }

    /// Asks again of everything that was left.
    pub(crate) fn settle(&self) {
        self.left.settle(|left| self.give_up(left), || self.is_off());
    }

    /// Makes the hardware forget an id, and gives it back with what it kept once it has.
    fn give_up(&self, left: &mut Left<P>) -> Result<(), SyncError> {
        let forget = || self.run(&[left.forget]);
        match &mut left.kept {
            Kept::Tables(mappings) => {
                let forgotten = mappings.flush_all(&*self.platform, forget)?;
                mappings.destroy(&*self.platform, forgotten);
            }
            Kept::Parent(parent) => {
                forget()?;
                let children = parent.as_any().downcast_ref::<Domain<P, R>>().and_then(Domain::children);
                children.into_iter().for_each(|children| children.lock().remove(left.did));
            }
            Kept::Nothing => forget()?,
        }
        self.ids.lock().give_back(left.did);
        Ok(())
    }
}
