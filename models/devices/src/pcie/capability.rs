//! Capabilities: what a function can do beyond the header, laid out for software to find and to switch on.
//!
//! Not here: what the features do. MSI and MSI-X are in `message`, ATS in `atc`, page requests in `pages`.

use super::config::ConfigBuilder;

/// What a function is on its link. Spec: PCIe 6.0, 7.5.3.2 "PCI Express Capabilities Register", Device/Port Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// An endpoint behind a port.
    Endpoint,
    /// A root port.
    RootPort,
    /// An endpoint on the root bus.
    IntegratedEndpoint,
    /// A bridge from PCI Express down to a conventional bus.
    PciBridge,
    /// A device on a conventional bus, which has no link.
    Conventional,
}

impl PortKind {
    /// None for what is no PCI Express device.
    const fn code(self) -> Option<u16> {
        match self {
            Self::Endpoint => Some(0),
            Self::RootPort => Some(4),
            Self::PciBridge => Some(7),
            Self::IntegratedEndpoint => Some(9),
            Self::Conventional => None,
        }
    }
}

/// `Device Control`: Initiate Function Level Reset, from the capability's start.
pub(crate) const DEVICE_CONTROL: usize = 0x08;
pub(crate) const INITIATE_RESET: u16 = 1 << 15;
/// `Device Capabilities 2`, from the capability's start, and its End-End TLP Prefix Supported, with one of them at most (Max End-End TLP Prefixes): PASIDs go in such.
/// Spec: PCIe 6.0, 7.5.3.15 "Device Capabilities 2 Register".
pub(crate) const DEVICE_CAPABILITIES_2: usize = 0x24;
pub(crate) const PASSES_PREFIXES: u32 = 1 << 21 | 1 << 22;
/// `Device Control 2`, from the capability's start, and its ARI Forwarding Enable.
pub(crate) const DEVICE_CONTROL_2: usize = 0x28;
pub(crate) const ARI_FORWARDING: u16 = 1 << 5;

/// `Link Status`, from the capability's start, and its Data Link Layer Link Active. Spec: PCIe 6.0, 7.5.3.8 "Link Status Register".
pub(crate) const LINK_STATUS: usize = 0x12;
pub(crate) const LINK_ACTIVE: u16 = 1 << 13;

/// PCI Express; its place, or none where there is no such capability. Spec: PCIe 6.0, 7.5.3 "PCI Express Capability Structure".
pub(crate) fn express(config: &mut ConfigBuilder, kind: PortKind) -> Option<usize> {
    const ROLE_BASED_ERRORS: u32 = 1 << 15;
    const FUNCTION_LEVEL_RESET: u32 = 1 << 28;
    const GEN3_X4: u32 = 3 | 4 << 4;
    // Every port that leads down and is faster than 5 GT/s has it: 7.5.3.6 "Link Capabilities Register".
    const REPORTS_LINK_ACTIVE: u32 = 1 << 20;
    let code = kind.code()?;
    let at = config.capability(0x10, 0x3c);
    config.set16(at + 0x02, 2 | code << 4);
    let is_bridge = matches!(kind, PortKind::RootPort | PortKind::PciBridge);
    let resettable = if is_bridge { 0 } else { FUNCTION_LEVEL_RESET };
    config.set32(at + 0x04, ROLE_BASED_ERRORS | resettable);
    config.allow16(at + DEVICE_CONTROL, if resettable == 0 { 0x7fff } else { 0xffff });
    config.clearable16(at + 0x0a, 0x000f);
    if kind != PortKind::IntegratedEndpoint {
        config.set32(at + 0x0c, GEN3_X4).allow16(at + 0x10, 0x0fc3);
        config.set16(at + LINK_STATUS, GEN3_X4 as u16);
    }
    if kind == PortKind::RootPort {
        config.set32(at + 0x0c, GEN3_X4 | REPORTS_LINK_ACTIVE);
        const FORWARDS_ARI: u32 = 1 << 5;
        config.set32(at + DEVICE_CAPABILITIES_2, FORWARDS_ARI | PASSES_PREFIXES);
        config.allow16(at + DEVICE_CONTROL_2, ARI_FORWARDING);
    }
    Some(at)
}

/// Address translation services. Spec: PCIe 6.0, 10.5.1 "ATS Extended Capability".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ats {
    /// How many invalidations the function takes before it stops the link, 1 to 32.
    pub queue_depth: u8,
    /// Whether a global invalidation hits every PASID (Global Invalidate Supported). Otherwise it hits the one it names.
    pub global_invalidate: bool,
}

/// `ATS Control`, from the capability's start: Smallest Translation Unit in 4:0, Enable in 15.
pub(crate) const ATS_CONTROL: usize = 6;
pub(crate) const ATS_ENABLE: u16 = 1 << 15;
pub(crate) const ATS_UNIT: u16 = 0x1f;
const GLOBAL_INVALIDATE: u16 = 1 << 6;

impl Ats {
    /// Lays the capability out; its place.
    pub fn lay_out(self, config: &mut ConfigBuilder) -> usize {
        const PAGE_ALIGNED: u16 = 1 << 5;
        let at = config.extended_capability(0x000f, 1, 8);
        // 32 is said as 0.
        let global = if self.global_invalidate { GLOBAL_INVALIDATE } else { 0 };
        config.set16(at + 4, u16::from(self.queue_depth & 0x1f) | PAGE_ALIGNED | global);
        config.allow16(at + ATS_CONTROL, ATS_ENABLE | ATS_UNIT);
        at
    }
}

/// Page requests. Spec: PCIe 6.0, 10.5.2 "Page Request Extended Capability Structure".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequests {
    /// How many requests the function can have outstanding.
    pub capacity: u32,
    /// Whether responses are to carry the PASID.
    pub response_needs_pasid: bool,
}

/// `Page Request Control`, from the capability's start.
pub(crate) const PRI_CONTROL: usize = 4;
pub(crate) const PRI_ENABLE: u16 = 1;
pub(crate) const PRI_RESET: u16 = 1 << 1;
/// `Page Request Status`, from the capability's start.
pub(crate) const PRI_STATUS: usize = 6;
/// Response Failure.
pub(crate) const PRI_FAILURE: u16 = 1;
/// Unexpected Page Request Group Index.
pub(crate) const PRI_UNEXPECTED: u16 = 1 << 1;
pub(crate) const PRI_STOPPED: u16 = 1 << 8;
/// PRG Response PASID Required.
pub(crate) const PRI_NEEDS_PASID: u16 = 1 << 15;
/// `Outstanding Page Request Capacity` and `Allocation`, from the capability's start.
pub(crate) const PRI_CAPACITY: usize = 8;
pub(crate) const PRI_ALLOCATION: usize = 12;

impl PageRequests {
    /// Lays the capability out; its place. Reset can be written, so that the function sees it; it takes it back at once.
    pub fn lay_out(self, config: &mut ConfigBuilder) -> usize {
        let at = config.extended_capability(0x0013, 1, 16);
        config.allow16(at + PRI_CONTROL, PRI_ENABLE | PRI_RESET);
        let needs_pasid = if self.response_needs_pasid { PRI_NEEDS_PASID } else { 0 };
        config.set16(at + PRI_STATUS, PRI_STOPPED | needs_pasid);
        config.clearable16(at + PRI_STATUS, PRI_FAILURE | PRI_UNEXPECTED);
        config.set32(at + PRI_CAPACITY, self.capacity).allow32(at + PRI_ALLOCATION, u32::MAX);
        at
    }
}

/// Process address space ids. Spec: PCIe 6.0, 7.8.9 "PASID Extended Capability Structure".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pasids {
    /// How many bits the function can send, 0 to 20.
    pub width: u8,
    /// Whether it can ask for execute permission.
    pub execute: bool,
    /// Whether it can mark requests as privileged.
    pub privileged: bool,
}

/// `PASID Capability`, from the capability's start: Max PASID Width in 12:8.
pub(crate) const PASID_CAPABILITY: usize = 4;
/// `PASID Control`, from the capability's start: Enable in 0, execute and privileged in 1 and 2.
pub(crate) const PASID_CONTROL: usize = 6;
pub(crate) const PASID_ENABLE: u16 = 1;

impl Pasids {
    /// Lays the capability out; its place.
    pub fn lay_out(self, config: &mut ConfigBuilder) -> usize {
        let at = config.extended_capability(0x001b, 1, 8);
        let modes = u16::from(self.execute) << 1 | u16::from(self.privileged) << 2;
        config.set16(at + PASID_CAPABILITY, u16::from(self.width & 0x1f) << 8 | modes);
        config.allow16(at + PASID_CONTROL, PASID_ENABLE | modes);
        at
    }
}

/// Access control services: which peer-to-peer traffic a port sends up to be judged. Spec: PCIe 6.0, 7.7.11 "ACS Extended Capability".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Acs {
    /// The services that there are, as in the `ACS Capability` register: 0 source validation, 1 translation blocking, 2 request
    /// redirect, 3 completion redirect, 4 upstream forwarding, 5 egress control, 6 direct translated.
    pub services: u16,
}

impl Acs {
    /// Source validation, request and completion redirect, upstream forwarding: what isolates the devices below a port.
    pub const ISOLATING: Self = Self { services: 0x1d };

    /// Lays the capability out; its place.
    pub fn lay_out(self, config: &mut ConfigBuilder) -> usize {
        let services = self.services & 0x7f;
        let at = config.extended_capability(0x000d, 1, 8);
        config.set16(at + 4, services).allow16(at + 6, services);
        at
    }
}

#[cfg(test)]
mod tests {
    use model_bus::Width;

    use super::*;
    use crate::pcie::{ConfigSpace, Identity};

    fn space(lay_out: impl FnOnce(&mut ConfigBuilder) -> usize) -> (ConfigSpace, usize) {
        let mut builder = ConfigBuilder::new(Identity { vendor: 1, device: 2, revision: 0, class: 0 }, 0);
        let at = lay_out(&mut builder);
        (builder.build(), at)
    }

    /// What a 16-bit register reads after all ones were written to it.
    fn ones(config: &ConfigSpace, at: usize) -> u16 {
        config.write(at, Width::Bits16, 0xffff);
        config.read16(at)
    }

    #[test]
    fn the_pci_express_capability_says_what_the_port_is() {
        let (config, at) = space(|builder| express(builder, PortKind::Endpoint).unwrap());
        assert_eq!((config.read16(at + 2), config.read32(at + 4)), (0x0002, 0x1000_8000));
        assert_eq!((config.read32(at + 0xc), config.read16(at + 0x12)), (0x0000_0043, 0x0043));
        let (config, at) = space(|builder| express(builder, PortKind::RootPort).unwrap());
        assert_eq!((config.read16(at + 2), config.read32(at + 4)), (0x0042, 0x0000_8000));
        assert_eq!((config.read32(at + 0x24), ones(&config, at + 0x28)), (0x0060_0020, 0x20));
        let (config, at) = space(|builder| express(builder, PortKind::IntegratedEndpoint).unwrap());
        assert_eq!((config.read16(at + 2), config.read32(at + 0xc)), (0x0092, 0));
        let (config, at) = space(|builder| express(builder, PortKind::PciBridge).unwrap());
        assert_eq!((config.read16(at + 2), config.read32(at + 4)), (0x0072, 0x0000_8000));
        let mut builder = ConfigBuilder::new(Identity { vendor: 1, device: 2, revision: 0, class: 0 }, 0);
        assert_eq!(express(&mut builder, PortKind::Conventional), None);
    }

    #[test]
    fn ats_has_a_queue_depth_and_a_switch() {
        let (config, at) =
            space(|builder| Ats { queue_depth: 32, global_invalidate: false }.lay_out(builder));
        assert_eq!((config.read32(at), config.read16(at + 4)), (0x0001_000f, 0x0020));
        assert_eq!(ones(&config, at + 6), 0x801f);
        let (config, at) = space(|builder| Ats { queue_depth: 8, global_invalidate: true }.lay_out(builder));
        assert_eq!(config.read16(at + 4), 0x0068);
    }

    #[test]
    fn page_requests_are_stopped_at_first() {
        let requests = PageRequests { capacity: 64, response_needs_pasid: true };
        let (config, at) = space(|builder| requests.lay_out(builder));
        assert_eq!(
            (config.read32(at), config.read16(at + 6), config.read32(at + 8)),
            (0x0001_0013, 0x8100, 64)
        );
        assert_eq!(ones(&config, at + 4), 3);
        assert_eq!(ones(&config, at + 6), 0x8100);
        config.update16(at + 6, |status| status | 3);
        assert_eq!((config.read16(at + 6), ones(&config, at + 6)), (0x8103, 0x8100));
    }

    #[test]
    fn pasids_switch_on_only_what_is_there() {
        let pasids = Pasids { width: 20, execute: false, privileged: true };
        let (config, at) = space(|builder| pasids.lay_out(builder));
        assert_eq!((config.read32(at), config.read16(at + 4)), (0x0001_001b, 0x1404));
        assert_eq!(ones(&config, at + 6), 0x0005);
    }

    #[test]
    fn acs_controls_only_the_services_that_are_there() {
        let (config, at) = space(|builder| Acs::ISOLATING.lay_out(builder));
        assert_eq!((config.read32(at), config.read16(at + 4)), (0x0001_000d, 0x001d));
        assert_eq!((config.read16(at + 6), ones(&config, at + 6)), (0, 0x001d));
    }
}
