//! Access control services: what keeps functions from reaching each other without passing the IOMMU.
//!
//! Spec: PCIe 6.0, 6.12 "Access Control Services (ACS)".

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::capability::ExtendedId;
use portcullis_spec::pcie::express::PortType;
use portcullis_spec::pcie::extended::{ACS_CAPABILITY, ACS_CONTROL, AcsCapability, AcsControl};
use portcullis_types::mutant;

use crate::ConfigAccess;
use crate::quirks::Isolation;
use crate::topology::{Function, Topology};

/// What a function can keep apart, and what it was found to keep apart after it had been asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acs {
    /// What it can.
    pub capability: AcsCapability,
    /// What it does.
    pub control: AcsControl,
}

/// Asks every function that can to send everything up: source validation, request and completion redirect, upstream forwarding.
///
/// Choice: translation blocking stays off. Requests that claim to be translated are the IOMMU's to refuse, which does so for every function
/// that it was not told to trust.
pub(crate) fn enable_all(config: &(impl ConfigAccess + ?Sized), topology: &mut Topology) {
    for function in &mut topology.functions {
        if let Some(offset) = function.capabilities.find_extended(ExtendedId::ACS) {
            function.acs = Some(enable(config, function.at, offset));
        }
    }
}

fn enable(config: &(impl ConfigAccess + ?Sized), at: Bdf, offset: u16) -> Acs {
    let capability = AcsCapability::from(config.read16(at, offset + ACS_CAPABILITY));
    let wanted = AcsControl::new()
        .with_source_validation(capability.source_validation())
        .with_request_redirect(capability.request_redirect())
        .with_completion_redirect(capability.completion_redirect())
        .with_upstream_forwarding(capability.upstream_forwarding());
    config.write16(at, offset + ACS_CONTROL, wanted.into());
    if mutant!("access-control-not-read-back") {
        return Acs { capability, control: wanted };
    }
    Acs { capability, control: AcsControl::from(config.read16(at, offset + ACS_CONTROL)) }
}

/// Turns on what [`Function::isolation`] said. Answers whether it is on.
pub(crate) fn turn_on(
    config: &(impl ConfigAccess + ?Sized),
    at: Bdf,
    (place, control): (u16, AcsControl),
) -> bool {
    config.write16(at, place, control.into());
    config.read16(at, place) == u16::from(control)
}

impl Function {
    /// Turns on again what enumeration had turned on, after a reset of this function alone: who shares a group with it was decided by that. Answers whether it is
    /// on. It is to send nothing before.
    ///
    /// Observed: Linux 6.x, `pci_restore_state`.
    pub fn restore_isolation(&self, config: &(impl ConfigAccess + ?Sized)) -> bool {
        self.isolation().is_none_or(|isolation| turn_on(config, self.at, isolation))
    }

    /// Where access control is turned on, and what enumeration had turned on there. None if the function has none.
    pub(crate) fn isolation(&self) -> Option<(u16, AcsControl)> {
        let place = self.capabilities.find_extended(ExtendedId::ACS)?;
        Some((place + ACS_CONTROL, self.acs?.control))
    }

    /// Whether requests that come from below this port all go up, and carry ids from below.
    ///
    /// A switch must have every control. A root port lacks redirection if it sends nothing to other ports anyway, and upstream forwarding
    /// if it turns nothing around.
    ///
    /// Spec: PCIe 6.0, 6.12.1.1 "ACS Downstream Ports".
    pub fn isolates_below(&self) -> bool {
        let Some(Acs { capability, control }) = self.acs else {
            return self.isolates_unsaid(Isolation::Below) || mutant!("port-without-access-control-trusted");
        };
        let on_where_there = (control.request_redirect() || !capability.request_redirect())
            && (control.completion_redirect() || !capability.completion_redirect())
            && (control.upstream_forwarding() || !capability.upstream_forwarding());
        let all_there = capability.request_redirect()
            && capability.completion_redirect()
            && capability.upstream_forwarding();
        let complete = self.port == Some(PortType::ROOT_PORT) || all_there;
        control.source_validation()
            && (!control.direct_translated() || mutant!("way-for-translated-requests-overlooked"))
            && on_where_there
            && complete
    }

    /// Whether the function's own requests never go to its siblings in the same device.
    ///
    /// A control that a function does not have is one that it does not need; but a function that says nothing about it may do anything,
    /// unless it is known not to ([`ISOLATING`](crate::ISOLATING)).
    ///
    /// Spec: PCIe 6.0, 6.12.1.2 "ACS Functions in SR-IOV Capable and Multi-Function Devices".
    pub fn isolates_from_siblings(&self) -> bool {
        if matches!(self.port, Some(PortType::ROOT_PORT | PortType::DOWNSTREAM_PORT)) {
            return self.isolates_below();
        }
        let Some(Acs { capability, control }) = self.acs else {
            return self.isolates_unsaid(Isolation::Siblings);
        };
        (control.request_redirect() || !capability.request_redirect())
            && (control.completion_redirect() || !capability.completion_redirect())
            && !control.direct_translated()
    }
}
