//! Address services of a function: translations that it keeps (ATS), pages that it asks for (PRI), address spaces that it tells apart (PASID).
//!
//! [`AddressServices::find`] says what a function has of them, and of each that it has not, why: the capability is not there or makes no sense, or something
//! above the function does not pass what the service sends. [`Ats`], [`Pri`] and [`Pasids`] turn single services on and off; [`AddressServices`]
//! knows the order. [`AtsSwitch`] is what core's drivers hold.
//!
//! # Order
//!
//! | step | who |
//! |---|---|
//! | PASIDs on, page requests reset and on | [`AddressServices::enable`] |
//! | the IOMMU told that the device shares, then ATS on | the IOMMU's driver, by the [`AtsSwitch`] |
//! | ... | |
//! | ATS off, then the IOMMU told | the IOMMU's driver, by the [`AtsSwitch`] |
//! | page requests off and come to an end, ATS off if it is still on, PASIDs off | [`AddressServices::disable`] |
//!
//! PASIDs do not change while ATS is on (the book: undefined), hence first on and last off. A reset of the function turns everything off:
//! [`AddressServices::save`] before, [`AddressServices::restore`] after.
//!
//! # Trust
//!
//! A function with ATS says of its own requests that their address is translated, and the IOMMU lets them through. So ATS is for functions inside the
//! machine only, below host bridges of which firmware says that they pass it ([`HostTrust`]).
//!
//! # Locking
//!
//! None: one caller at a time for each function, except for an [`AtsSwitch`], which only writes the register of ATS and may be used beside everything else.
//!
//! Spec: PCIe 6.0, 10 "ATS Specification", 6.20 "PASID TLP Prefix", 7.8.9 "PASID Extended Capability".
//! Not here: what an IOMMU does with requests (`smmuv3`), who answers page requests (`core::iopf`).

mod ats;
mod error;
mod pasid;
mod path;
mod pri;

use core::num::NonZeroU32;

use portcullis_core::sva::DeviceSvaFacts;
use portcullis_hal::Clock;
use portcullis_spec::pcie::capability::ExtendedId;
use portcullis_spec::pcie::{ABSENT, Bdf, CONFIG_SPACE_BYTES};
use portcullis_types::mutant;

pub use ats::{Ats, AtsSwitch};
pub use error::{Missing, ServiceError};
pub use pasid::{PasidPermissions, Pasids};
pub use path::HostTrust;
pub use pri::Pri;

use crate::ConfigAccess;
use crate::capability::Capabilities;
use crate::topology::Topology;
use path::Path;

/// What a function has of address services, and why not the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressServices {
    /// Translations that it keeps.
    pub ats: Result<Ats, Missing>,
    /// Pages that it asks for. Without ATS it has none of that either.
    pub pri: Result<Pri, Missing>,
    /// Address spaces that it tells apart.
    pub pasids: Result<Pasids, Missing>,
}

/// What was on, to be on again after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SavedServices {
    pasids: Option<PasidPermissions>,
    pri: Option<NonZeroU32>,
    ats: Option<portcullis_types::SizeLg2>,
}

impl AddressServices {
    /// What a function has, with everything above it and what firmware says of the host bridge taken into account.
    ///
    /// `function` is an index into [`Topology::functions`]; of one that is not there, everything is missing.
    pub fn find(
        config: &(impl ConfigAccess + ?Sized),
        topology: &Topology,
        function: usize,
        trust: &HostTrust<'_>,
    ) -> Self {
        let Some(own) = topology.functions.get(function) else {
            let missing = Missing::Gone;
            return Self { ats: Err(missing), pri: Err(missing), pasids: Err(missing) };
        };
        let path = Path { config, topology, function };
        let found = Ats::find(config, own);
        let ats = found.and_then(|ats| path.carries_translations(trust).map(|()| ats));
        let pri = ats.map_err(|_| Missing::NoAts).and_then(|_| Pri::find(config, own));
        let ats_offset = own.capabilities.find_extended(ExtendedId::ATS);
        let pasids = Pasids::find(config, own, ats_offset);
        let pasids = pasids.and_then(|pasids| path.carries_pasids().map(|()| pasids));
        Self { ats, pri, pasids }
    }

    /// The same as core takes it. No PCI Express function can be stalled: its link would deadlock.
    pub fn sva_facts(&self) -> DeviceSvaFacts {
        DeviceSvaFacts {
            ats: self.ats.is_ok(),
            pri: self.pri.is_ok(),
            response_pasid: self.pri.is_ok_and(|pri| pri.response_pasid_required()),
            pasid_bits: self.pasids.map_or(0, |pasids| pasids.bits()),
            can_stall: false,
        }
    }

    /// Turns on PASIDs with `permissions`, then page requests, of which `requests` may be under way at most, or as many as the function can.
    /// ATS is to be off, and stays so: the IOMMU's driver turns it on. What the function has not, is left out. Answers how many requests may be under way.
    ///
    /// # Errors
    ///
    /// As [`ServiceError`] says; then what this call turned on is off again.
    pub fn enable(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        permissions: PasidPermissions,
        requests: NonZeroU32,
    ) -> Result<u32, ServiceError> {
        if let Ok(pasids) = &self.pasids {
            pasids.enable(config, permissions)?;
        }
        let Ok(pri) = &self.pri else { return Ok(0) };
        let enabled = pri.reset(config).and_then(|()| pri.enable(config, requests));
        enabled.map(NonZeroU32::get).inspect_err(|_| {
            if let Ok(pasids) = &self.pasids
                && !mutant!("failed-services-leave-pasids-on")
            {
                // It was off, and so is ATS: nothing is in the way.
                let _ = pasids.disable(config);
            }
        })
    }

    /// Turns everything off. Every PASID has been given up before, so all requests of the function have their responses, or will have them soon.
    ///
    /// # Errors
    ///
    /// [`ServiceError::NotStopped`]: the function has page requests under way for longer than `limit_ns`. It sends no more of them;
    /// everything else is as it was. Wait again, or reset the function.
    pub fn disable(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        clock: &impl Clock,
        limit_ns: u64,
    ) -> Result<(), ServiceError> {
        if let Ok(pri) = &self.pri {
            pri.disable(config);
            if !mutant!("services-off-under-page-requests") {
                pri.wait_stopped(config, clock, limit_ns)?;
            }
        }
        if let Ok(ats) = &self.ats {
            ats.disable(config);
        }
        self.pasids.map_or(Ok(()), |pasids| pasids.disable(config))
    }

    /// What is on. To be called before a reset of the function.
    pub fn save(&self, config: &(impl ConfigAccess + ?Sized)) -> SavedServices {
        SavedServices {
            pasids: self.pasids.ok().and_then(|pasids| pasids.enabled(config)),
            pri: self.pri.ok().and_then(|pri| pri.allocation(config)),
            ats: self.ats.ok().and_then(|ats| ats.enabled(config)),
        }
    }

    /// Turns on again what was on before a reset, in the order of the module's table. The IOMMU's side has not changed meanwhile.
    ///
    /// # Errors
    ///
    /// As [`ServiceError`] says: the function is not as after a reset, or does not keep what is written. What came before the failing step is on.
    pub fn restore(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        saved: &SavedServices,
    ) -> Result<(), ServiceError> {
        if let (Ok(pasids), Some(permissions)) = (&self.pasids, saved.pasids) {
            pasids.enable(config, permissions)?;
        }
        if let (Ok(pri), Some(requests)) = (&self.pri, saved.pri) {
            pri.enable(config, requests)?;
        }
        if let (Ok(ats), Some(unit)) = (&self.ats, saved.ats) {
            ats.enable(config, unit)?;
        }
        Ok(())
    }
}

/// Where a capability of `len_bytes` bytes is, if there is room for all of it: neither the end of configuration space nor another capability lies in it.
fn place(capabilities: &Capabilities, id: ExtendedId, len_bytes: u16) -> Result<u16, Missing> {
    let offset = capabilities.find_extended(id).ok_or(Missing::NoCapability)?;
    let end = u32::from(offset) + u32::from(len_bytes);
    let inside = |&(_, other): &(ExtendedId, u16)| other > offset && u32::from(other) < end;
    if end > u32::from(CONFIG_SPACE_BYTES) || capabilities.extended().iter().any(inside) {
        return Err(Missing::Misplaced { offset });
    }
    Ok(offset)
}

/// The first word behind a capability's header. No capability here has all ones in it.
fn first_word(config: &(impl ConfigAccess + ?Sized), at: Bdf, offset: u16) -> Result<[u16; 2], Missing> {
    match config.read32(at, offset + 4) {
        ABSENT => Err(Missing::Gone),
        word => {
            let [a, b, c, d] = word.to_le_bytes();
            Ok([u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])])
        }
    }
}
