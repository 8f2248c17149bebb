//! Devices that get processes' memory: what they have of what that needs, and turning it on and off.
//!
//! The order is that of `pci` and of core: PASIDs and page requests on, the IOMMU told, which turns ATS on when it may; and the same backwards.
//! Refusals say what is missing, and on which side.
//!
//! Not here: binding processes (`workload`), the devices' drivers.

use core::fmt;
use core::num::NonZeroU32;
use std::sync::Arc;

use portcullis::core::sva::{
    DeviceSvaFacts, DeviceSwitches, EnableError, EnableSvaError, NoSwitches, Side, SvaDevice, SvaLimits,
    SvaRefusal,
};
use portcullis::firmware::ExternalPorts;
use portcullis::pci::{AddressServices, HostTrust, PasidPermissions};
use portcullis::types::SizeLg2;

use super::unit::Unit;
use super::{Endpoint, FixedDevice, HostBridge, Standing, System};
use crate::error::RunError;
use crate::platform::LabPlatform;

/// How many page requests a function may have under way: fewer than the PRI queue holds, so that it does not overflow.
const PAGE_REQUESTS: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// How long the last page requests of a function may take to be answered, in nanoseconds.
const STOP_LIMIT_NS: u64 = 1_000_000_000;

const HINT: &str = "choose another machine or device: `portcullis machine NAME` says what each can share";

/// A device that was enabled, and what was turned on for it.
#[derive(Debug)]
pub struct Sharer {
    /// The device.
    pub device: Arc<SvaDevice<LabPlatform>>,
    services: Option<AddressServices>,
}

/// Why a device does not share, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why(String);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl System {
    /// What a function has of address services.
    pub fn services(&self, host: &HostBridge, endpoint: &Endpoint) -> AddressServices {
        let firmware = &self.firmware.pci_hosts[host.index];
        let (all_external, external_facing): (bool, &[_]) = match &firmware.external {
            ExternalPorts::All => (true, &[]),
            ExternalPorts::Ports(ports) => (false, ports),
        };
        let at = host.topology.functions[endpoint.function].at;
        let trust = HostTrust { ats_supported: firmware.passes_ats(at), all_external, external_facing };
        AddressServices::find(&*host.config, &host.topology, endpoint.function, &trust)
    }

    /// What a function with these services has of what sharing needs: no more bits of PASID than its host bridge passes on.
    pub fn function_facts(&self, host: &HostBridge, services: &AddressServices) -> DeviceSvaFacts {
        let mut facts = services.sva_facts();
        if let Some(passed_on) = self.firmware.pci_hosts[host.index].pasid_bits {
            facts.pasid_bits = facts.pasid_bits.min(passed_on);
        }
        facts
    }

    /// What a device of firmware's has of what sharing needs.
    pub fn fixed_facts(&self, fixed: &FixedDevice) -> DeviceSvaFacts {
        let node = &self.firmware.devices[fixed.index];
        DeviceSvaFacts { pasid_bits: node.pasid_bits, can_stall: node.can_stall, ..DeviceSvaFacts::default() }
    }

    /// Lets a function share.
    ///
    /// # Errors
    ///
    /// [`RunError::Refused`] says what is missing; [`RunError::Wrong`] what did not do as it was told.
    pub fn share_function(&self, host: &HostBridge, endpoint: &Endpoint) -> Result<Sharer, RunError> {
        let services = self.services(host, endpoint);
        let wrong = |what: &dyn fmt::Display| {
            RunError::wrong(&endpoint.name, format!("its address services: {what}"), HINT)
        };
        let facts = self.function_facts(host, &services);
        self.check(&endpoint.name, &endpoint.standing, &facts)
            .map_err(|why| RunError::refused(&endpoint.name, with_services(&why, &services), HINT))?;
        let switches: Arc<dyn DeviceSwitches> = match &services.ats {
            Ok(ats) => {
                let switch = ats.switch(host.config.clone(), SizeLg2::KIB_4);
                Arc::new(switch.map_err(|error| wrong(&error))?)
            }
            Err(_) => Arc::new(NoSwitches),
        };
        services
            .enable(&*host.config, PasidPermissions::default(), PAGE_REQUESTS)
            .map_err(|error| wrong(&error))?;
        match self.enable(&endpoint.name, &endpoint.standing, &facts, switches) {
            Ok(device) => Ok(Sharer { device, services: Some(services) }),
            Err(error) => {
                let _ = services.disable(&*host.config, &*self.platform, 0);
                Err(error)
            }
        }
    }

    /// Lets a device of firmware's share.
    ///
    /// # Errors
    ///
    /// As for [`share_function`](Self::share_function).
    pub fn share_fixed(&self, fixed: &FixedDevice) -> Result<Sharer, RunError> {
        let facts = self.fixed_facts(fixed);
        self.check(&fixed.name, &fixed.standing, &facts)
            .map_err(|why| RunError::refused(&fixed.name, why, HINT))?;
        let device = self.enable(&fixed.name, &fixed.standing, &facts, Arc::new(NoSwitches))?;
        Ok(Sharer { device, services: None })
    }

    /// Takes [`share_function`](Self::share_function) or [`share_fixed`](Self::share_fixed) back. `host` is a function's.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: a bond lives, a page request has no answer, or hardware did not confirm.
    pub fn unshare(&self, sharer: Sharer, host: Option<&HostBridge>) -> Result<(), RunError> {
        let name = sharer.device.device().name().to_owned();
        let wrong = |what: String| RunError::wrong(&name, what, "run with -v to see what led to it");
        sharer.device.disable().map_err(|error| wrong(format!("it shares still: {error:?}")))?;
        match (sharer.services, host) {
            (Some(services), Some(host)) => services
                .disable(&*host.config, &*self.platform, STOP_LIMIT_NS)
                .map_err(|error| wrong(format!("its address services are on still: {error}"))),
            _ => Ok(()),
        }
    }

    /// Whether a device with these facts could share, and if not, why.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn check(&self, name: &str, standing: &Standing, facts: &DeviceSvaFacts) -> Result<SvaLimits, Why> {
        let Standing::Behind { device, .. } = standing else {
            return Err(Why(format!("no IOMMU covers {name}")));
        };
        if self.cpus.facts().is_none() {
            return Err(why(&SvaRefusal::CpusUnknown));
        }
        let sva = device.iommu().sva().ok_or_else(|| Why("its IOMMU shares nothing".into()))?;
        sva.check(device.sources(), facts).map_err(|refusal| why(&refusal))
    }

    fn enable(
        &self,
        name: &str,
        standing: &Standing,
        facts: &DeviceSvaFacts,
        switches: Arc<dyn DeviceSwitches>,
    ) -> Result<Arc<SvaDevice<LabPlatform>>, RunError> {
        let Standing::Behind { device, group } = standing else {
            return Err(RunError::refused(name, "no IOMMU covers it", HINT));
        };
        let unit = self.unit_of(device.iommu().name());
        let unit = unit.ok_or_else(|| RunError::refused(name, "its IOMMU is not up", HINT))?;
        unit.sva.enable(device, group, facts, switches).map_err(|error| match error {
            EnableError::NoSupport => RunError::refused(name, "its IOMMU shares nothing", HINT),
            EnableError::Driver(EnableSvaError::Refused(refusal)) => {
                RunError::refused(name, why(&refusal), HINT)
            }
            error => RunError::wrong(name, format!("it was not enabled to share: {error:?}"), HINT),
        })
    }

    /// The IOMMU with this name.
    pub fn unit_of(&self, name: &str) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.unit.iommu().name() == name)
    }
}

/// What a refusal says, in words.
pub fn why(refusal: &SvaRefusal) -> Why {
    let whose = |side: Side| match side {
        Side::Device => "the device has",
        Side::Iommu => "the IOMMU has",
    };
    Why(match *refusal {
        SvaRefusal::UnknownSource(source) => format!("the IOMMU does not know its stream {source}"),
        SvaRefusal::CpusUnknown => "the CPUs have no tables that all of them can walk".into(),
        SvaRefusal::NotCoherent => {
            "the IOMMU does not walk tables through the CPUs' caches (not coherent)".into()
        }
        SvaRefusal::NoFirstStage => "the IOMMU has no stage 1 (of VT-d, a first stage in scalable mode), which alone can walk processes' tables".into(),
        SvaRefusal::Granule(size) => format!("the IOMMU cannot walk tables of {size} pages, as the CPUs do"),
        SvaRefusal::InputSize { cpu, iommu } => {
            format!("processes' addresses have {cpu} bits, and the IOMMU translates {iommu}")
        }
        SvaRefusal::OutputSize { cpu, iommu } => {
            format!("the CPUs' physical addresses have {cpu} bits, and the IOMMU's {iommu}")
        }
        SvaRefusal::AsidSize { cpu, iommu } => {
            format!("the CPUs' ASIDs have {cpu} bits, and the IOMMU's {iommu}")
        }
        SvaRefusal::BreakBeforeMake { cpu, iommu } => {
            format!("the kernel relies on break-before-make level {cpu}, and the IOMMU has {iommu}")
        }
        SvaRefusal::NoPasids(side) => format!("{} no PASIDs", whose(side)),
        SvaRefusal::NoStall => "the IOMMU cannot stall the device, which has no other way to wait".into(),
        SvaRefusal::NoAts(side) => {
            format!("{} no translation requests (ATS), and the device may not be stalled", whose(side))
        }
        SvaRefusal::NoPri(side) => {
            format!("{} no page requests (PRI), and the device may not be stalled", whose(side))
        }
        SvaRefusal::ResponsePasid => {
            "the IOMMU puts a PASID in each response to a page request that had one, and the device takes none there".into()
        }
        _ => format!("something is missing: {refusal:?}"),
    })
}

/// A refusal, and what the function lacks of address services, if it is that.
fn with_services(why: &Why, services: &AddressServices) -> String {
    let mut text = why.0.clone();
    let missing =
        [("ATS", services.ats.err()), ("PRI", services.pri.err()), ("PASID", services.pasids.err())];
    for (name, missing) in missing {
        if let Some(missing) = missing.filter(|_| text.starts_with("the device has no")) {
            text.push_str(&format!("; {name}: {missing}"));
        }
    }
    text
}
