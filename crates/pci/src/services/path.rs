//! Whether everything above a function passes what address services send.
//!
//! - Translation requests, translated requests and their answers go through root ports and switches as other requests do. A bridge to or from conventional PCI
//!   has no words for them, and a port may block what claims to be translated.
//! - A PASID is a prefix. Whatever is between the function and the root complex must pass prefixes; what is in the root complex is not between.
//! - A request with a PASID must not be turned around below the root complex: there its address would be taken for a bus address.
//!
//! Spec: PCIe 6.0, 6.20 "PASID TLP Prefix", 7.5.3.15 "Device Capabilities 2 Register (Offset 24h)" and its neighbour, 6.12.1.1 "ACS Downstream
//! Ports", 10 "ATS Specification".
//! Observed: Linux 6.12, `pci_ats_supported`, `pci_enable_pasid`, `pci_configure_eetlp_prefix` (which does not look at blocking).

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::capability::Id;
use portcullis_spec::pcie::express::{
    CAPABILITIES, Capabilities, DEVICE_CAPABILITIES_2, DEVICE_CONTROL_2, DeviceCapabilities2, DeviceControl2,
    PortType,
};
use portcullis_types::mutant;

use super::error::Missing;
use crate::ConfigAccess;
use crate::topology::{Function, Topology};

/// The second device registers are there from this version of the PCI Express capability on.
const VERSION_2: u8 = 2;

/// What firmware says of a host bridge. Without such words nothing is trusted with ATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HostTrust<'a> {
    /// It passes what ATS needs (`ats-supported`).
    pub ats_supported: bool,
    /// All of its ports lead out of the machine.
    pub all_external: bool,
    /// Ports that lead out of the machine (`external-facing`): everything below is what somebody plugged in.
    pub external_facing: &'a [Bdf],
}

/// A function and what is above it.
pub(super) struct Path<'a, C: ?Sized> {
    pub(super) config: &'a C,
    pub(super) topology: &'a Topology,
    pub(super) function: usize,
}

impl<C: ConfigAccess + ?Sized> Path<'_, C> {
    fn own(&self) -> &Function {
        &self.topology.functions[self.function]
    }

    fn bridges(&self) -> impl Iterator<Item = &Function> {
        self.topology.bridges_above(self.function).map(|bridge| &self.topology.functions[bridge])
    }

    /// Whether the function may keep translations.
    pub(super) fn carries_translations(&self, trust: &HostTrust<'_>) -> Result<(), Missing> {
        if !trust.ats_supported {
            return Err(Missing::HostBridge);
        }
        for bridge in self.bridges() {
            if trust.external_facing.contains(&bridge.at)
                && !mutant!("translations-of-what-is-plugged-in-trusted")
            {
                return Err(Missing::External { port: bridge.at });
            }
            is_express(bridge)?;
            if bridge.acs.is_some_and(|acs| acs.control.translation_blocking()) {
                return Err(Missing::TranslationsBlocked { port: bridge.at });
            }
        }
        let own = self.own().at;
        if trust.all_external || trust.external_facing.contains(&own) {
            return Err(Missing::External { port: own });
        }
        Ok(())
    }

    /// Whether requests with PASIDs arrive at the root complex, and nowhere else.
    pub(super) fn carries_pasids(&self) -> Result<(), Missing> {
        let own = self.own();
        if own.port != Some(PortType::ROOT_COMPLEX_ENDPOINT) {
            self.has_prefixes(own)?;
        }
        if self.has_siblings() && !own.isolates_from_siblings() {
            return Err(Missing::NotApart { at: own.at });
        }
        for bridge in self.bridges() {
            is_express(bridge)?;
            self.has_prefixes(bridge)?;
            if self.blocks_prefixes(bridge) {
                return Err(Missing::PrefixesBlocked { port: bridge.at });
            }
            // An upstream port turns nothing around; it leaves that to the ports below.
            if bridge.port != Some(PortType::UPSTREAM_PORT) && !bridge.isolates_below() {
                return Err(Missing::NotApart { at: bridge.at });
            }
        }
        Ok(())
    }

    fn has_siblings(&self) -> bool {
        let own = self.own().at;
        let same_device = |other: &Function| other.at != own && other.at.sibling(0) == own.sibling(0);
        self.topology.functions.iter().any(same_device)
    }

    fn has_prefixes(&self, function: &Function) -> Result<(), Missing> {
        let word = self.second_registers(function).map(|offset| {
            let word = self.config.read32(function.at, offset + DEVICE_CAPABILITIES_2);
            DeviceCapabilities2::from(word)
        });
        let has = word.is_some_and(|word| word.end_to_end_prefixes());
        if has { Ok(()) } else { Err(Missing::NoPrefixes { at: function.at }) }
    }

    fn blocks_prefixes(&self, function: &Function) -> bool {
        self.second_registers(function).is_some_and(|offset| {
            let word = self.config.read16(function.at, offset + DEVICE_CONTROL_2);
            DeviceControl2::from(word).end_to_end_prefix_blocking()
        })
    }

    /// The offset of the PCI Express capability, if it has the second device registers.
    fn second_registers(&self, function: &Function) -> Option<u16> {
        let offset = function.capabilities.find(Id::EXPRESS)?;
        let version = Capabilities::from(self.config.read16(function.at, offset + CAPABILITIES)).version();
        (version >= VERSION_2 && offset + DEVICE_CONTROL_2 < 0x100).then_some(offset)
    }
}

fn is_express(bridge: &Function) -> Result<(), Missing> {
    match bridge.port {
        Some(PortType::ROOT_PORT | PortType::UPSTREAM_PORT | PortType::DOWNSTREAM_PORT) => Ok(()),
        _ => Err(Missing::Conventional { bridge: bridge.at }),
    }
}
