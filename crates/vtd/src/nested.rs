//! A guest's table before a domain's: PASID table entries whose first stage is the guest's and whose second stage is the parent's.
//!
//! # Ids
//!
//! Each has a domain-id of its own: entries for requests without PASID all have the same PASID, so that only the domain-id tells one guest's table from another in
//! the IOTLB. It is given back only after the hardware has forgotten it.
//!
//! # Who makes the hardware forget what
//!
//! What the guest changes is tagged with this domain-id and with addresses of the guest's: [`Nested::invalidate`]. What the parent's user changes is tagged with this domain-id too, and
//! with guest-physical addresses that nothing remembers, nor has a request that is under way: the IOTLB is made to forget the whole domain-id, and a device TLB
//! everything. Therefore the parent knows the ids and sources of those nested in it ([`Children`]), each from before an entry leads there until after none does.
//!
//! Spec: VT-d 5.10, 3.8 "Nested Translation", 6.5.2.3 "IOTLB Invalidate", Table 23, 6.5.3.3 "Guidance to Software for Invalidations", Table 28.
//! Not here: the parent's part (`domain`), the words of an entry (`lead`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{HwDomain, SyncError};
use portcullis_core::nested::{
    GuestInvalidation, GuestTable, GuestTables, NestedDomain, NestedError, X86Tables,
};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::vtd::pasid::{FSPM_4_LEVELS, FSPM_5_LEVELS};
use portcullis_types::Gpa;

use crate::descriptor::Descriptor;
use crate::domain::{Domain, RID_PASID};
use crate::features::Features;
use crate::hardware::Hardware;
use crate::lead::{Lead, To};
use crate::left::{Kept, Left};
use crate::process::short_pat;
use crate::span::Span;

/// Which guests' tables a unit can walk.
///
/// Spec: VT-d 5.10, 11.4.3 "Extended Capability Register", NEST, FSTS, SSTS, EAFS; 11.4.2 "Capability Register", FS5LP.
pub(crate) fn guest_tables(features: &Features) -> GuestTables {
    let mut tables = GuestTables::default();
    let extended = features.extended;
    if features.scalable && extended.nest() && extended.fsts() && extended.ssts() {
        let levels = if features.capability.fs5lp() { 5 } else { 4 };
        tables.x86 = Some(X86Tables { levels, extended_accessed: extended.eafs() });
    }
    tables
}

/// How a guest's table is walked: what may not differ where the same table is nested in the same parent twice.
///
/// Spec: VT-d 5.10, 6.2.3 "PASID-Cache", "Scalable-Mode PASID-Table Entry Programming Considerations", the tuple {FSPM, EAFE}.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Walked {
    root: Gpa,
    levels: u8,
    extended_accessed: bool,
}

/// What is nested in a domain, by domain-id.
#[derive(Debug, Default)]
pub(crate) struct Children(BTreeMap<u16, Child>);

#[derive(Debug)]
struct Child {
    walked: Walked,
    /// The sources whose entries lead there, or are about to, or did a moment ago.
    uses: BTreeSet<u16>,
}

impl Children {
    /// The domain-ids.
    pub(crate) fn ids(&self) -> Vec<u16> {
        self.0.keys().copied().collect()
    }

    /// The sources of all of them.
    pub(crate) fn sources(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.values().flat_map(|child| child.uses.iter().copied())
    }

    /// Nothing is under this id any more.
    pub(crate) fn remove(&mut self, id: u16) {
        self.0.remove(&id);
    }

    fn conflicts(&self, walked: Walked) -> bool {
        self.0.values().any(|child| child.walked.root == walked.root && child.walked != walked)
    }
}

/// A guest's table before a domain's, that sources of one unit can be attached to.
pub struct Nested<P: Platform, R: Registers + 'static> {
    /// A [`Domain`] of this unit.
    parent: Arc<dyn HwDomain<P>>,
    hardware: Arc<Hardware<P, R>>,
    lead: Lead,
}

impl<P: Platform, R: Registers> fmt::Debug for Nested<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nested")
            .field("unit", &self.hardware.name)
            .field("id", &self.lead.did)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Nested<P, R> {
    pub(crate) fn new(
        hardware: &Arc<Hardware<P, R>>,
        parent: &Arc<dyn HwDomain<P>>,
        table: &GuestTable,
    ) -> Result<Self, NestedError> {
        let tables = guest_tables(&hardware.features);
        if tables.is_empty() {
            return Err(NestedError::Unsupported);
        }
        let ours = Domain::ours(hardware, parent).ok_or(NestedError::ForeignParent)?;
        let children = ours.children().ok_or(NestedError::NotParent)?;
        tables.check(table, ours.aperture())?;
        let &GuestTable::X86 { root, levels, pat, write_protect, extended_accessed } = table else {
            return Err(NestedError::Format);
        };
        let Some(Lead { to: To::Second { root: second, aw }, .. }) = ours.lead() else {
            return Err(NestedError::NotParent);
        };
        let walked = Walked { root, levels, extended_accessed };
        let mut children = children.lock();
        if children.conflicts(walked) {
            return Err(NestedError::Conflict(root));
        }
        let did = hardware.ids.lock().take().ok_or(NestedError::NoIds)?;
        children.0.insert(did, Child { walked, uses: BTreeSet::new() });
        drop(children);
        let to = To::Nested {
            root,
            fspm: if levels == 5 { FSPM_5_LEVELS } else { FSPM_4_LEVELS },
            pat: short_pat(pat),
            write_protect,
            extended_accessed,
            second,
            aw,
        };
        Ok(Self { parent: parent.clone(), hardware: hardware.clone(), lead: Lead { did, to } })
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
    }

    /// The domain-id.
    pub fn id(&self) -> u16 {
        self.lead.did
    }

    /// Where an entry leads that leads here.
    pub(crate) fn lead(&self) -> Lead {
        self.lead
    }

    /// An entry of this source is about to lead here.
    pub(crate) fn expect(&self, sid: u16) {
        self.with_uses(|uses| {
            uses.insert(sid);
        });
    }

    /// No entry of this source leads here any more, and hardware has confirmed it.
    pub(crate) fn forget(&self, sid: u16) {
        self.with_uses(|uses| {
            uses.remove(&sid);
        });
    }

    fn with_uses<T>(&self, look: impl FnOnce(&mut BTreeSet<u16>) -> T) -> Option<T> {
        let children = Domain::ours(&self.hardware, &self.parent)?.children()?;
        let mut children = children.lock();
        Some(look(&mut children.0.get_mut(&self.lead.did)?.uses))
    }

    fn forget_devices(&self, span: Option<Span>) -> Result<(), SyncError> {
        let sources = self.with_uses(|uses| uses.clone()).unwrap_or_default();
        let forget: Vec<_> =
            sources.into_iter().map(|sid| (sid, Descriptor::device_tlb(sid, span))).collect();
        self.hardware.run_on_devices(&forget, false)
    }
}

impl<P: Platform, R: Registers> NestedDomain for Nested<P, R> {
    fn invalidate(&self, what: GuestInvalidation) -> Result<(), SyncError> {
        let (span, leaves_only) = match what {
            GuestInvalidation::All => (None, false),
            GuestInvalidation::Range { range, leaves_only } => (Span::covering(range), leaves_only),
        };
        let did = self.lead.did;
        let largest = self.hardware.features.largest_mask;
        let forget = match span.filter(|span| largest.is_some_and(|mask| span.mask <= mask)) {
            Some(pages) => Descriptor::iotlb_pasid_pages(did, RID_PASID, pages, leaves_only),
            None => Descriptor::iotlb_pasid(did, RID_PASID),
        };
        self.hardware.run(&[forget])?;
        self.forget_devices(span)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Nested<P, R> {
    fn drop(&mut self) {
        let did = self.lead.did;
        // The parent's tables must stay what they are until then, and what is unmapped there is forgotten under this id, too.
        let kept = Kept::Parent(self.parent.clone());
        self.hardware.bury(Left { did, forget: Descriptor::iotlb_domain(did), kept });
    }
}

#[cfg(test)]
mod tests;
