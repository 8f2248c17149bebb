//! A guest's table before a domain's: a context bank of stage 1 whose SMMU_CBARn names the parent's bank of stage 2.
//!
//! # Order
//!
//! As of a domain's bank (`bank`), and within the life of the parent's, which stays on for as long as a bank names it: what is nested here holds on to its parent.
//! The parent knows that something is nested in it from before the bank is turned on until hardware has forgotten what came from both, and makes more be
//! forgotten for so long (`domain`).
//!
//! # What is forgotten
//!
//! What a guest changes by its own addresses, in its own bank: the VMID is the parent's, the ASID the bank's. When it names none, or when the bank is given back, it is everything of stage 1
//! under the VMID, since a guest's entries may be global and then have no ASID. Two guests' tables before one parent see each other's global entries, as two address
//! spaces of one guest do; neither reaches what the parent does not map.
//!
//! Spec: SMMUv2 D.c, 2.6.2 "The Context Bank Attribute Register, SMMU_CBARn", 10.2.1 "SMMU_CBARn, Context Bank Attribute Registers", 5.4.1 "Scope of the TLB maintenance
//! operations".
//! Not here: the parent's part (`domain`), the words of the bank (`table`).

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_core::iommu::{HwDomain, SyncError};
use portcullis_core::nested::{
    GuestInvalidation, GuestTable, GuestTables, NestedDomain, NestedError, Vmsa64Tables,
};
use portcullis_hal::{Platform, Registers};
use portcullis_types::{Iova, IovaRange, SizeLg2};

use crate::bank::{Role, asid};
use crate::domain::Domain;
use crate::features::Features;
use crate::hardware::Hardware;
use crate::invalidate::{Step, steps};
use crate::left::{Kept, Left};
use crate::table::guest_words;

/// Whether the hardware has stage 1 followed by stage 2.
pub(crate) fn possible(features: &Features) -> bool {
    features.nested && features.stage1 && features.stage2
}

/// Which guests' tables an SMMU can walk.
pub(crate) fn guest_tables<P: Platform, R: Registers>(hardware: &Hardware<P, R>) -> GuestTables {
    let mut tables = GuestTables::default();
    let Features { granules, input_bits, ipa_bits, .. } = hardware.features;
    tables.vmsa64 = hardware.parents.map(|_| Vmsa64Tables { granules, input_bits, output_bits: ipa_bits });
    tables
}

/// A guest's table before a domain's, that streams of one SMMU can be attached to.
pub struct Nested<P: Platform, R: Registers + 'static> {
    /// A [`Domain`] of this SMMU.
    parent: Arc<dyn HwDomain<P>>,
    hardware: Arc<Hardware<P, R>>,
    bank: usize,
    granule: SizeLg2,
    /// What the guest's table translates.
    aperture: IovaRange,
    /// Streams were led here, and away again without the hardware's word.
    doubted: AtomicBool,
}

impl<P: Platform, R: Registers> fmt::Debug for Nested<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nested")
            .field("smmu", &self.hardware.config.name)
            .field("bank", &self.bank)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Nested<P, R> {
    pub(crate) fn new(
        hardware: &Arc<Hardware<P, R>>,
        parent: &Arc<dyn HwDomain<P>>,
        table: &GuestTable,
    ) -> Result<Self, NestedError> {
        let tables = guest_tables(hardware);
        if tables.is_empty() || hardware.is_off() {
            return Err(NestedError::Unsupported);
        }
        let ours = Domain::ours(hardware, parent).ok_or(NestedError::ForeignParent)?;
        let nested = ours.nested().ok_or(NestedError::NotParent)?;
        tables.check(table, ours.aperture())?;
        let coherent = hardware.features.coherent && hardware.config.coherent;
        let words = guest_words(table, coherent).ok_or(NestedError::Format)?;
        let &GuestTable::Vmsa64 { granule, input_bits, .. } = table else { return Err(NestedError::Format) };
        let last = Iova::new(u64::MAX >> (64 - input_bits));
        let aperture = IovaRange::from_ends(Iova::new(0), last).ok_or(NestedError::InputBits(input_bits))?;
        let role = Role::Nested { parent: asid(ours.bank()) };
        let bank = hardware.banks.lock().take(role).ok_or(NestedError::NoIds)?;
        nested.fetch_add(1, Ordering::SeqCst);
        // Nobody but the guest could say whether a transaction that faulted is to be retried.
        hardware.set_up_bank(bank, role, &words, false);
        let doubted = AtomicBool::new(false);
        Ok(Self { parent: parent.clone(), hardware: hardware.clone(), bank, granule, aperture, doubted })
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
    }

    /// The number of the context bank.
    pub fn bank(&self) -> usize {
        self.bank
    }

    /// Something may be under way by its bank though no stream leads there.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
    }
}

impl<P: Platform, R: Registers> NestedDomain for Nested<P, R> {
    fn invalidate(&self, what: GuestInvalidation) -> Result<(), SyncError> {
        let GuestInvalidation::Range { range, leaves_only } = what else {
            return self.hardware.forget_bank(self.bank);
        };
        // Nothing else was ever translated.
        let Some(range) = range.intersection(self.aperture) else { return Ok(()) };
        let mut steps = steps(range, self.granule, self.granule, !leaves_only).peekable();
        if !self.hardware.config.wide_writes || steps.peek() == Some(&Step::All) {
            return self.hardware.forget_bank(self.bank);
        }
        self.hardware.sync_bank(self.bank, || {
            for step in steps {
                if let Step::Address { iova, leaf } = step {
                    self.hardware.post_address(self.bank, false, iova, leaf);
                }
            }
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Nested<P, R> {
    fn drop(&mut self) {
        // The parent's tables must stay what they are until nothing is left of this.
        let (under_way, kept) = (*self.doubted.get_mut(), Kept::Parent(self.parent.clone()));
        self.hardware.bury(Left { bank: self.bank, under_way, kept });
    }
}

#[cfg(test)]
mod tests;
