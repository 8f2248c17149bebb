//! Devices that are not as the book says: their requests carry another id than their own, or they keep apart what they do not say they do.
//!
//! An [`AliasQuirk`] names a device and one id that it uses; a device may have several. What is in [`ALIASES`] is found by enumeration;
//! an embedder gives its own to [`enumerate_with`](crate::enumerate_with), or tells of a single function with
//! [`Topology::add_alias`]. Ids are only ever added: a device that claims to be one of these shares its group with more functions than it would
//! have to, and reaches nothing by it.
//!
//! An alias lies on the function's own bus, and may be nobody's: it is an id of the function all the same ([`Topology::requester_ids`]).
//!
//! A function in [`ISOLATING`] has no access control capability and yet does what it would be for. Only its maker can know that; so the table is short, and counts
//! where a lie harms the liar alone: for ports of the root complex, which nobody can plug in, and for functions of one device.
//!
//! Not here: ids that bridges put on what they pass up (`topology`). Not in the table: a card whose requests may carry any id of its bus (Intel
//! Visual Compute Accelerator); who has one adds them.

use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::express::PortType;
use portcullis_spec::pcie::header::{SUBSYSTEM_ID, SUBSYSTEM_VENDOR_ID};

use crate::ConfigAccess;
use crate::topology::{Function, Kind, Topology};

/// What a function without an access control capability keeps apart all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// A port of the root complex sends all that comes from below up, and checks the ids of it.
    Below,
    /// A function of a device sends nothing to its siblings.
    Siblings,
}

/// Functions that isolate without the capability: vendor, first and last device number, and what they keep apart.
///
/// Observed: Linux 6.18, drivers/pci/quirks.c: `pci_quirk_cavium_acs`, `pci_quirk_xgene_acs`, `pci_quirk_qcom_rp_acs`, `pci_quirk_al_acs`,
/// `pci_quirk_brcm_acs`, `pci_quirk_mf_endpoint_acs`.
pub const ISOLATING: &[(u16, u16, u16, Isolation)] = &[
    // Root ports of Cavium ThunderX, X2 and X3. `pci_quirk_cavium_acs`
    (0x177d, 0xa000, 0xa7ff, Isolation::Below),
    (0x177d, 0xaf84, 0xaf84, Isolation::Below),
    (0x177d, 0xb884, 0xb884, Isolation::Below),
    // Root ports of APM X-Gene and Ampere. `pci_quirk_xgene_acs`
    (0x10e8, 0xe004, 0xe004, Isolation::Below),
    (0x1def, 0xe005, 0xe00c, Isolation::Below),
    // Root ports of Qualcomm QDF2xxx. `pci_quirk_qcom_rp_acs`
    (0x17cb, 0x0400, 0x0401, Isolation::Below),
    // Root ports of Annapurna Labs. `pci_quirk_al_acs`
    (0x1c36, 0x0031, 0x0031, Isolation::Below),
    // Root ports of Broadcom iProc. `pci_quirk_brcm_acs`
    (0x14e4, 0xd714, 0xd714, Isolation::Below),
    // Network controllers: Intel 82576 and I350, Solarflare. `pci_quirk_mf_endpoint_acs`
    (0x8086, 0x10c9, 0x10c9, Isolation::Siblings),
    (0x8086, 0x10e6, 0x10e8, Isolation::Siblings),
    (0x8086, 0x1521, 0x1524, Isolation::Siblings),
    (0x1924, 0x0903, 0x0903, Isolation::Siblings),
    (0x1924, 0x0923, 0x0923, Isolation::Siblings),
    (0x1924, 0x0a03, 0x0a03, Isolation::Siblings),
];

/// A device whose requests carry another id than its own, at times or always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AliasQuirk {
    /// Who made it.
    pub vendor: u16,
    /// Which of the vendor's devices it is.
    pub device: u16,
    /// Vendor and number of the card that it is on, if only that card's is meant.
    pub subsystem: Option<(u16, u16)>,
    /// The id.
    pub alias: Alias,
}

/// An id that a function uses besides its own, on its own bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// That of the function with this number, below 8, in the same device.
    Function(u8),
    /// That of the function with this number, below 8, in the device with this one, below 32.
    Fixed(u8, u8),
}

/// Devices known to use other ids.
///
/// Observed: Linux 6.18, drivers/pci/quirks.c: `quirk_dma_func0_alias`, `quirk_dma_func1_alias`, `quirk_fixed_dma_alias`, `quirk_mic_x200_dma_alias`.
pub const ALIASES: &[AliasQuirk] = &[
    // Ricoh multifunction readers: all functions send as function 0. `quirk_dma_func0_alias`
    of_function(0x1180, 0xe832, 0),
    of_function(0x1180, 0xe476, 0),
    // Glenfly graphics: audio sends as function 0. `quirk_dma_func0_alias`
    of_function(0x6766, 0x3d40, 0),
    of_function(0x6766, 0x3d41, 0),
    // Marvell SATA controllers: the disks' side sends as function 1, which some of them do not have. `quirk_dma_func1_alias`
    of_function(0x1b4b, 0x9120, 1),
    of_function(0x1b4b, 0x9123, 1),
    of_function(0x1b4b, 0x9125, 1),
    of_function(0x1b4b, 0x9128, 1),
    of_function(0x1b4b, 0x9130, 1),
    of_function(0x1b4b, 0x9170, 1),
    of_function(0x1b4b, 0x9172, 1),
    of_function(0x1b4b, 0x917a, 1),
    of_function(0x1b4b, 0x9182, 1),
    of_function(0x1b4b, 0x9183, 1),
    of_function(0x1b4b, 0x91a0, 1),
    of_function(0x1b4b, 0x9215, 1),
    of_function(0x1b4b, 0x9220, 1),
    of_function(0x1b4b, 0x9230, 1),
    of_function(0x1b4b, 0x9235, 1),
    // The same chips under other names: HighPoint RocketRAID 642L and 644L, Plextor M6e. `quirk_dma_func1_alias`
    of_function(0x1103, 0x0642, 1),
    of_function(0x1103, 0x0645, 1),
    of_function(0x1c28, 0x0122, 1),
    // JMicron JMB388: another function than the one that is asked sends. `quirk_dma_func1_alias`
    of_function(0x197b, 0x2392, 1),
    // Adaptec 3405 and 3805: an engine that configuration space does not show does the DMA. `quirk_fixed_dma_alias`
    AliasQuirk {
        vendor: 0x9005,
        device: 0x0285,
        subsystem: Some((0x9005, 0x02bb)),
        alias: Alias::Fixed(1, 0),
    },
    AliasQuirk {
        vendor: 0x9005,
        device: 0x0285,
        subsystem: Some((0x9005, 0x02bc)),
        alias: Alias::Fixed(1, 0),
    },
    // Xeon Phi x200: requests from the other side of its bridge. `quirk_mic_x200_dma_alias`
    fixed(0x8086, 0x2260, 0x10, 0),
    fixed(0x8086, 0x2260, 0x11, 0),
    fixed(0x8086, 0x2260, 0x12, 3),
    fixed(0x8086, 0x2264, 0x10, 0),
    fixed(0x8086, 0x2264, 0x11, 0),
    fixed(0x8086, 0x2264, 0x12, 3),
];

const fn of_function(vendor: u16, device: u16, function: u8) -> AliasQuirk {
    AliasQuirk { vendor, device, subsystem: None, alias: Alias::Function(function) }
}

const fn fixed(vendor: u16, device: u16, slot: u8, function: u8) -> AliasQuirk {
    AliasQuirk { vendor, device, subsystem: None, alias: Alias::Fixed(slot, function) }
}

impl AliasQuirk {
    fn concerns(&self, config: &(impl ConfigAccess + ?Sized), function: &Function) -> bool {
        let card = || {
            let id = [SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID].map(|offset| config.read16(function.at, offset));
            // Bridges have something else there.
            (function.kind == Kind::Endpoint).then_some((id[0], id[1]))
        };
        (self.vendor, self.device) == (function.vendor, function.device)
            && (self.subsystem.is_none() || self.subsystem == card())
    }
}

impl Alias {
    /// The id that a function at `at` uses; none if the numbers cannot be.
    fn of(self, at: Bdf) -> Option<Bdf> {
        match self {
            Self::Function(function) => at.sibling(function),
            Self::Fixed(device, function) => Bdf::new(at.bus(), device, function),
        }
    }
}

/// Notes the ids of functions that our table or the embedder's knows.
pub(crate) fn note_aliases(
    config: &(impl ConfigAccess + ?Sized),
    topology: &mut Topology,
    more: &[AliasQuirk],
) {
    for function in &mut topology.functions {
        let known = ALIASES.iter().chain(more).filter(|quirk| quirk.concerns(config, function));
        let ids: Vec<Bdf> = known.filter_map(|quirk| quirk.alias.of(function.at)).collect();
        ids.into_iter().for_each(|id| function.note_alias(id));
    }
}

impl Function {
    /// Whether it is known to isolate although it says nothing about it. Only to be asked where it has no capability: one that has it is believed that, and no more.
    pub(crate) fn isolates_unsaid(&self, wanted: Isolation) -> bool {
        let known = |&(vendor, first, last, isolation): &(u16, u16, u16, Isolation)| {
            isolation == wanted && vendor == self.vendor && (first..=last).contains(&self.device)
        };
        let fits = match wanted {
            Isolation::Below => self.port == Some(PortType::ROOT_PORT) && self.above.is_none(),
            Isolation::Siblings => self.kind == Kind::Endpoint,
        };
        fits && ISOLATING.iter().any(known)
    }

    fn note_alias(&mut self, id: Bdf) {
        if id != self.at && !self.aliases.contains(&id) {
            self.aliases.push(id);
        }
    }
}

impl Topology {
    /// Tells of an id that requests of a function may carry besides its own. Before the function's group is asked for. Does nothing if
    /// there is no such function.
    pub fn add_alias(&mut self, function: usize, id: Bdf) {
        if let Some(function) = self.functions.get_mut(function) {
            function.note_alias(id);
        }
    }
}
