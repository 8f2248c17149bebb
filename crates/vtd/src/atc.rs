//! Device TLBs: which are in use, and how they are made to forget.
//!
//! A device whose ATS is off has nothing in its device TLB and answers no invalidation: the request times out, and takes along whatever waits behind it. So the
//! sources whose ATS is on are known here, and nothing is sent to others.
//!
//! # Order
//!
//! A source is known from before its ATS is turned on until after it was turned off. An invalidation that finds it known and is sent when it has gone off
//! fails; then, with the source no longer known, what is left to forget is sent once more.
//!
//! Spec: VT-d 5.10, 6.5.2.5 "Device-TLB Invalidate Descriptor", 6.5.2.6 "PASID-based-Device-TLB Invalidate Descriptor", 6.5.2.9 "Invalidation Wait Descriptor"; PCIe 6.0, 10.5.1.3
//! "ATS Control Register", Enable.
//! Not here: when ATS is turned on and off (`sharing`, `vtd`).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers};
use portcullis_types::mutant;

use crate::descriptor::Descriptor;
use crate::hardware::Hardware;

/// The sources whose device may have translations.
#[derive(Debug, Default)]
pub(crate) struct Atcs(BTreeSet<u16>);

impl Atcs {
    /// ATS of these sources is about to be turned on.
    pub(crate) fn turn_on(&mut self, sids: &[u16]) {
        self.0.extend(sids);
    }

    /// ATS of these sources has been turned off.
    pub(crate) fn turned_off(&mut self, sids: &[u16]) {
        self.0.retain(|sid| !sids.contains(sid));
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Makes device TLBs forget, each what stands beside its source, and waits. The IOTLB has forgotten it before. If `drain`, page requests that had been received are in
    /// their queue then.
    pub(crate) fn run_on_devices(&self, forget: &[(u16, Descriptor)], drain: bool) -> Result<(), SyncError> {
        let mut sent = self.with_atc(forget);
        loop {
            let Err(error) = self.run_and_drain(&sent, drain) else { return Ok(()) };
            let left = self.with_atc(forget);
            if left.len() >= sent.len() {
                if mutant!("vtd-atc-silent-device-taken-for-done") {
                    return Ok(());
                }
                return Err(error);
            }
            sent = left;
        }
    }

    fn with_atc(&self, forget: &[(u16, Descriptor)]) -> Vec<Descriptor> {
        let atcs = self.atcs.lock();
        let on = |sid: &u16| atcs.0.contains(sid) || mutant!("vtd-atc-asked-though-off");
        let told = forget.iter().filter(|(sid, _)| on(sid)).map(|&(_, descriptor)| descriptor);
        let mut told: Vec<_> = told.collect();
        if mutant!("vtd-atc-one-device-told") {
            told.truncate(1);
        }
        told
    }
}
