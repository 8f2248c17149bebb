//! What domains and guests' tables leave behind: context banks of which hardware has not confirmed that it has forgotten what they put into TLBs, and what those keep.
//!
//! Whoever goes has hardware asked once. If it does not confirm, it is asked again with the next errors that are handled, and nothing is left once the SMMU is off ([`Estate`]).
//! Until then the bank stays taken, with its translation off. It is turned off at once, unless streams were led there by an attach that was not confirmed: what arrived then may be
//! under way by it still, and would get through. So that is waited for first.
//!
//! Not here: banks that were firmware's (`reset`).
//!
//! [`Estate`]: portcullis_paging::Estate

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use portcullis_core::iommu::{HwDomain, SyncError};
use portcullis_hal::{Platform, Registers};
use portcullis_paging::Mappings;
use portcullis_pgtable::arm::{Stage1, Stage2};
use portcullis_types::trace::{Event, Value};

use crate::domain::Domain;
use crate::hardware::Hardware;

/// What one of them leaves.
pub(crate) struct Left<P: Platform> {
    pub(crate) bank: usize,
    /// Something may be under way by the bank: it is on.
    pub(crate) under_way: bool,
    pub(crate) kept: Kept<P>,
}

/// What has to stay as it is until then.
#[expect(clippy::large_enum_variant, reason = "a box could not be had in the middle of a drop")]
pub(crate) enum Kept<P: Platform> {
    /// A domain's tables.
    Tables(Mappings<P::Mutex, Stage1, Stage2>),
    /// A guest's table is the guest's; the domain behind it.
    Parent(Arc<dyn HwDomain<P>>),
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Its domain or guest's table is gone, and no stream leads to the bank any more.
    pub(crate) fn bury(&self, left: Left<P>) {
        if !left.under_way {
            self.turn_off_unless_off(left.bank);
        }
        let kept = |left: &Left<P>| {
            self.platform.event(&Event {
                source: "smmuv2",
                name: "domain_kept",
                fields: &[("bank", Value::Dec(left.bank as u64))],
            });
        };
        self.left.bury(left, |left| self.give_up(left), kept, || self.is_off());
    }

    fn turn_off_unless_off(&self, bank: usize) {
        if !self.is_off() {
            self.turn_bank_off(bank);
        }
    }

    /// Asks again of everything that was left.
    pub(crate) fn settle(&self) {
        self.left.settle(|left| self.give_up(left), || self.is_off());
    }

    /// Makes the hardware forget what a bank put into TLBs, and gives the bank back with what it kept once it has.
    fn give_up(&self, left: &mut Left<P>) -> Result<(), SyncError> {
        let forget = || self.forget_bank(left.bank);
        if left.under_way {
            forget()?;
            self.turn_off_unless_off(left.bank);
            left.under_way = false;
        }
        match &mut left.kept {
            Kept::Tables(mappings) => {
                let forgotten = mappings.flush_all(&*self.platform, forget)?;
                mappings.destroy(&*self.platform, forgotten);
            }
            Kept::Parent(parent) => {
                forget()?;
                let nested = parent.as_any().downcast_ref::<Domain<P, R>>().and_then(Domain::nested);
                nested.into_iter().for_each(|nested| _ = nested.fetch_sub(1, Ordering::SeqCst));
            }
        }
        if !self.is_off() {
            self.leave_bank(left.bank);
        }
        self.banks.lock().give_back(left.bank);
        Ok(())
    }
}
