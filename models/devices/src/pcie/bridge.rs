//! Bridges: root ports, the ports of switches, and bridges down to a conventional bus.
//!
//! A [`Bridge`] passes configuration requests down to the buses in its range, memory requests down to the addresses in its windows, and
//! its functions' requests up if Bus Master Enable is set.
//!
//! While software holds Secondary Bus Reset, what is below is in reset and the link is down: nothing gets there, and Data Link Layer Link Active says so. It is up
//! at once when software lets go. The slots' own reset lines do the same, by whoever holds them (`PciBus::hold`).
//!
//! A conventional bus has no link and no requester ids: the bridge puts its own name on whatever comes from there, which is that of device 0, function 0 on
//! the bus below.
//!
//! Spec: PCIe 6.0, 7.5.1.3 "Type 1 Configuration Space Header", 7.5.1.3.13 "Bridge Control Register", 6.6.1 "Conventional Reset";
//! PCI Express to PCI/PCI-X Bridge Specification 1.0, 2.3 "Assignment of Requester ID and Tag by the Bridge".
//! Not here: peer-to-peer traffic between the functions below; all requests go up to the IOMMU, as with ACS redirection on.

use std::sync::Arc;

use model_bus::Width;

use super::bar::Bar;
use super::capability::{ARI_FORWARDING, Acs, DEVICE_CONTROL_2, LINK_ACTIVE, LINK_STATUS, PortKind, express};
use super::config::{ConfigBuilder, ConfigSpace, Identity};
use super::function::Function;
use super::pci_bus::PciBus;
use super::requester::Host;

const SECONDARY_BUS: usize = 0x19;
const SUBORDINATE_BUS: usize = 0x1a;
const MEMORY_BASE: usize = 0x20;
const PREFETCHABLE_BASE: usize = 0x24;
const PREFETCHABLE_BASE_UPPER: usize = 0x28;
const BRIDGE_CONTROL: usize = 0x3e;
const SECONDARY_RESET: u16 = 1 << 6;
/// A window's granule.
const MIB_LG2: u32 = 20;
const EXPRESS: usize = 0x40;

/// What a bridge is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Who it says it is.
    pub identity: Identity,
    /// Its access control services; none for a bridge that has none.
    pub acs: Option<Acs>,
    /// What it is: [`PortKind::RootPort`], or [`PortKind::PciBridge`].
    pub port: PortKind,
}

impl BridgeOptions {
    /// A bridge down to a conventional bus.
    pub fn to_pci() -> Self {
        let identity = Identity { vendor: 0x1b36, device: 0x000e, revision: 0, class: 0x06_04_00 };
        Self { identity, acs: None, port: PortKind::PciBridge }
    }
}

impl Default for BridgeOptions {
    /// A root port that isolates what is below it.
    fn default() -> Self {
        let identity = Identity { vendor: 0x1b36, device: 0x000c, revision: 0, class: 0x06_04_00 };
        Self { identity, acs: Some(Acs::ISOLATING), port: PortKind::RootPort }
    }
}

/// A bridge and the bus behind it.
#[derive(Debug)]
pub struct Bridge {
    config: Arc<ConfigSpace>,
    below: Arc<PciBus>,
}

impl Bridge {
    pub(crate) fn new(host: &Arc<Host>, above: &[Arc<ConfigSpace>], options: BridgeOptions) -> Arc<Self> {
        let mut builder = ConfigBuilder::new(options.identity, 1);
        // Primary, secondary, subordinate bus; the latency timer above them stays 0.
        builder.allow32(0x18, 0x00ff_ffff);
        builder.allow32(MEMORY_BASE, 0xfff0_fff0);
        // The low nibbles say that the prefetchable window takes 64-bit addresses.
        builder.set32(PREFETCHABLE_BASE, 0x0001_0001).allow32(PREFETCHABLE_BASE, 0xfff0_fff0);
        builder.allow32(PREFETCHABLE_BASE_UPPER, u32::MAX).allow32(PREFETCHABLE_BASE_UPPER + 4, u32::MAX);
        builder.allow16(BRIDGE_CONTROL, 0x0003 | SECONDARY_RESET);
        let express = express(&mut builder, options.port);
        assert_eq!(express, Some(EXPRESS), "a bridge has it, as the first capability");
        if let Some(acs) = options.acs {
            acs.lay_out(&mut builder);
        }
        let config = Arc::new(builder.build());
        let above = core::iter::once(&config).chain(above).cloned().collect();
        let conventional = options.port == PortKind::PciBridge;
        Arc::new(Self { below: PciBus::new(host.clone(), above, conventional), config })
    }

    /// The bus behind the bridge: where devices are plugged in.
    pub fn secondary(&self) -> &Arc<PciBus> {
        &self.below
    }

    /// The number of the bus behind a bridge, and the highest bus number behind it.
    pub(crate) fn buses(config: &ConfigSpace) -> (u8, u8) {
        let byte = |at| config.read(at, Width::Bits8) as u8;
        (byte(SECONDARY_BUS), byte(SUBORDINATE_BUS))
    }

    pub(crate) fn forwards_ari(config: &ConfigSpace) -> bool {
        config.read16(EXPRESS + DEVICE_CONTROL_2) & ARI_FORWARDING != 0
    }

    /// Whether software holds what is below in reset.
    pub(crate) fn holds_reset(config: &ConfigSpace) -> bool {
        config.read16(BRIDGE_CONTROL) & SECONDARY_RESET != 0
    }

    /// Says whether the link below is up.
    pub(crate) fn show_link(config: &ConfigSpace, up: bool) {
        let active = if up { LINK_ACTIVE } else { 0 };
        config.update16(EXPRESS + LINK_STATUS, |status| status & !LINK_ACTIVE | active);
    }

    /// Whether a bridge passes a memory request down, if there is a way.
    pub(crate) fn forwards(config: &ConfigSpace, address: u64, len_bytes: u64) -> bool {
        let Some(last) = address.checked_add(len_bytes.saturating_sub(1)) else { return false };
        let inside = |(base, end): (u64, u64)| base <= address && last <= end;
        config.memory_enabled() && (inside(memory_window(config)) || inside(prefetchable_window(config)))
    }
}

/// The first and the last address of the 32-bit window. Spec: PCIe 6.0, 7.5.1.3.8 "Memory Base Register/Memory Limit Register".
fn memory_window(config: &ConfigSpace) -> (u64, u64) {
    let base = u64::from(config.read16(MEMORY_BASE) & 0xfff0) << 16;
    let limit = u64::from(config.read16(MEMORY_BASE + 2) & 0xfff0) << 16;
    (base, limit | ((1 << MIB_LG2) - 1))
}

/// The same of the 64-bit window. Spec: PCIe 6.0, 7.5.1.3.9 "Prefetchable Memory Base/Prefetchable Memory Limit Registers".
fn prefetchable_window(config: &ConfigSpace) -> (u64, u64) {
    let upper = |at| u64::from(config.read32(at)) << 32;
    let base = u64::from(config.read16(PREFETCHABLE_BASE) & 0xfff0) << 16;
    let limit = u64::from(config.read16(PREFETCHABLE_BASE + 2) & 0xfff0) << 16;
    (base | upper(PREFETCHABLE_BASE_UPPER), limit | upper(PREFETCHABLE_BASE_UPPER + 4) | ((1 << MIB_LG2) - 1))
}

impl Function for Bridge {
    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn bars(&self) -> &[Bar] {
        &[]
    }

    fn read_bar(&self, _: usize, _: u64, _: Width) -> u64 {
        u64::MAX
    }

    fn write_bar(&self, _: usize, _: u64, _: Width, _: u64) {}

    fn below(&self) -> Option<&Arc<PciBus>> {
        Some(&self.below)
    }

    fn config_written(&self, offset: usize) {
        let wrote_control = (0x3c..0x40).contains(&offset);
        if wrote_control {
            self.below.train_link();
            if Self::holds_reset(&self.config) {
                self.below.reset();
            }
        }
    }

    fn reset(&self) {
        self.config.reset();
        self.below.reset();
        self.below.train_link();
    }
}
