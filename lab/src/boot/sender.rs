//! As whom a function's messages arrive at its VT-d unit, for the entries of the unit's table to ask.
//!
//! Choice: an alias that no bridge gives is of the function's DMA, and nobody knows of messages that carry it. To let in its bus for it would let in neighbours.
//! Observed: Linux 6.18, `set_msi_sid`, takes the function's own name then, and of a bridge that has one, the bridge's.
//!
//! Spec: VT-d 5.10, 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts", SVT.

use portcullis::pci::{Function, Topology};
use portcullis::types::SourceId;
use portcullis::vtd::Requester;

/// By its own name; or by the last bridge's, if that puts its own on messages; or, where they may have the name of the bus below a bridge, by some name of the buses there.
pub(super) fn sender(topology: &Topology, function: usize) -> Option<Requester> {
    let Function { at, aliases, .. } = topology.functions.get(function)?;
    let mut ids = topology.requester_ids(function);
    ids.retain(|id| id == at || !aliases.contains(id));
    let last = *ids.last()?;
    let is_its_own = |bridge: usize| topology.functions[bridge].at == last;
    if last == *at || topology.bridges_above(function).any(is_its_own) {
        return Some(Requester::Source(SourceId(last.requester_id().into())));
    }
    let buses = || ids.iter().map(|id| id.bus());
    Some(Requester::Buses { first: buses().min()?, last: buses().max()? })
}

#[cfg(test)]
mod tests {
    use portcullis::pci::{Bdf, Bridge, Capabilities, IoWidth, Kind, PrefetchableWidth};
    use portcullis::spec::pcie::express::PortType;
    use portcullis::spec::pcie::header::ClassRevision;

    use super::*;

    fn at(bus: u8, device: u8) -> Bdf {
        Bdf::new(bus, device, 0).unwrap()
    }

    fn function(at: Bdf, above: Option<usize>, port: Option<PortType>) -> Function {
        Function {
            at,
            above,
            vendor: 0x1b36,
            device: 0x10,
            class: ClassRevision::from_bits(0),
            kind: Kind::Endpoint,
            port,
            capabilities: Capabilities::default(),
            bars: Vec::new(),
            acs: None,
            aliases: Vec::new(),
        }
    }

    fn bridge(at: Bdf, above: Option<usize>, port: Option<PortType>, secondary: u8) -> Function {
        let (prefetchable, io) = (PrefetchableWidth::None, IoWidth::None);
        let kind =
            Kind::Bridge(Bridge { secondary: Some(secondary), subordinate: secondary, prefetchable, io });
        Function { kind, ..function(at, above, port) }
    }

    fn of_last(functions: Vec<Function>) -> Requester {
        let last = functions.len() - 1;
        let topology = Topology { functions, ..Topology::default() };
        sender(&topology, last).unwrap()
    }

    #[test]
    fn messages_are_asked_for_the_functions_own_name_whatever_aliases_its_dma_has() {
        let disk = function(at(0, 3), None, Some(PortType::ENDPOINT));
        assert_eq!(of_last(vec![disk.clone()]), Requester::Source(SourceId(0x18)));
        let aliased = Function { aliases: vec![at(0, 4)], ..disk };
        assert_eq!(of_last(vec![aliased]), Requester::Source(SourceId(0x18)));
    }

    #[test]
    fn messages_from_a_conventional_bus_are_asked_for_the_buses_below_a_bridge_from_pcie_and_for_any_others_own_name()
     {
        let port = bridge(at(0, 6), None, Some(PortType::ROOT_PORT), 4);
        let down = bridge(at(4, 0), Some(0), Some(PortType::EXPRESS_TO_PCI_BRIDGE), 5);
        let disk = function(at(5, 1), Some(1), None);
        assert_eq!(of_last(vec![port, down, disk]), Requester::Buses { first: 5, last: 5 });
        // One on the root bus, where others are as well.
        let conventional = bridge(at(0, 0x1e), None, None, 1);
        let disk = function(at(1, 2), Some(0), None);
        assert_eq!(of_last(vec![conventional, disk]), Requester::Source(SourceId(0xf0)));
    }
}
