//! Finding functions: buses are numbered depth first.
//!
//! A bridge gets the next number for the bus below it, and until that bus has been looked at, all numbers up to the last
//! (so that configuration requests get through); then the highest number that was used. There is at most one bus for each number, and each
//! has 256 functions, so it ends whatever devices answer.
//!
//! All functions of a bus are looked at, and its bridges closed, before one of the bridges is followed: what firmware left in another would claim numbers
//! that are given out now, and what is behind that one would be taken for what is behind this one.
//!
//! Spec: PCIe 6.0, 7.3 "Configuration Transaction Rules".
//! Observed: Linux 6.x, `pci_scan_bridge_extend`: bridges that are to be numbered anew are closed in a pass before.
//! Not here: placing base address registers (`assign`).

use alloc::vec::Vec;

use portcullis_spec::pcie::capability::ExtendedId;
use portcullis_spec::pcie::express::PortType;
use portcullis_spec::pcie::extended::SR_IOV_CONTROL;
use portcullis_spec::pcie::header::{self, ClassRevision, Command, HeaderType};
use portcullis_spec::pcie::{Bdf, CONFIG_SPACE_BYTES};
use portcullis_types::mutant;

use crate::bar;
use crate::bridge;
use crate::capability::Capabilities;
use crate::config::{ConfigAccess, command, is_there, write_command};
use crate::host::HostBridge;
use crate::problem::{Fault, Problem};
use crate::topology::{Bridge, Function, Kind, Topology};

/// A bus whose bridges are being followed.
struct OpenBus {
    /// The bridge above; none for the first bus.
    bridge: Option<usize>,
    bus: u8,
    /// Its functions that are not in the topology yet, the last one first.
    functions: Vec<Function>,
}

struct Scan<'c, C: ?Sized> {
    config: &'c C,
    topology: Topology,
    open: Vec<OpenBus>,
    /// The highest bus number given out, and the highest that there is.
    highest_bus: u8,
    last_bus: u8,
}

/// Finds every function below `host`, numbers buses, lists capabilities and sizes base address registers.
///
/// Afterwards no function answers or sends requests, and every window of every bridge is closed.
pub(crate) fn scan<C: ConfigAccess + ?Sized>(config: &C, host: &HostBridge) -> Topology {
    let topology = Topology { segment: host.segment, ..Topology::default() };
    if host.buses.is_empty() {
        return topology;
    }
    let (first_bus, last_bus) = (*host.buses.start(), *host.buses.end());
    let mut scan = Scan { config, topology, open: Vec::new(), highest_bus: first_bus, last_bus };
    scan.open_bus(None, first_bus, false);
    while let Some(bus) = scan.open.last_mut() {
        match bus.functions.pop() {
            Some(function) => scan.add(function),
            None => scan.close_bus(),
        }
    }
    scan.topology
}

impl<C: ConfigAccess + ?Sized> Scan<'_, C> {
    fn problem(&mut self, at: Bdf, fault: Fault) {
        self.topology.problems.push(Problem { at, fault });
    }

    /// Looks at every function of the bus below a bridge. Afterwards none of its bridges passes configuration requests on.
    fn open_bus(&mut self, bridge: Option<usize>, bus: u8, single_device: bool) {
        let mut functions = Vec::new();
        // Functions other than 0 only where function 0 said so.
        let mut multi_function = false;
        let last = if single_device { 7 } else { u8::MAX };
        for devfn in 0..=last {
            let at = Bdf::from_requester_id(u16::from_be_bytes([bus, devfn]));
            if at.function() != 0 && !multi_function {
                continue;
            }
            let there = is_there(self.config, at);
            let header_type = HeaderType::from(self.config.read8(at, header::HEADER_TYPE));
            if at.function() == 0 {
                multi_function = there && header_type.multi_function();
            }
            if there {
                functions.push(self.look_at(at, bridge, header_type.layout()));
            }
        }
        functions.reverse();
        self.open.push(OpenBus { bridge, bus, functions });
    }

    fn look_at(&mut self, at: Bdf, above: Option<usize>, layout: u8) -> Function {
        let id = self.config.read32(at, header::VENDOR_ID).to_le_bytes();
        self.quieten(at);
        let capabilities = Capabilities::read(self.config, at).unwrap_or_else(|fault| {
            self.problem(at, Fault::Capabilities(fault));
            Capabilities::default()
        });
        self.end_virtual_functions(at, &capabilities);
        let mut function = Function {
            at,
            above,
            vendor: u16::from_le_bytes([id[0], id[1]]),
            device: u16::from_le_bytes([id[2], id[3]]),
            class: ClassRevision::from(self.config.read32(at, header::REVISION_ID)),
            kind: Kind::Endpoint,
            port: capabilities.port_type(self.config, at),
            capabilities,
            bars: Vec::new(),
            acs: None,
            aliases: Vec::new(),
        };
        match layout {
            HeaderType::LAYOUT_FUNCTION => {
                self.config.write32(at, header::TYPE0_EXPANSION_ROM, 0);
                self.size_bars(&mut function, header::TYPE0_BAR_COUNT);
            }
            HeaderType::LAYOUT_BRIDGE => {
                self.size_bars(&mut function, header::TYPE1_BAR_COUNT);
                bridge::close(self.config, at);
                bridge::disable_rom(self.config, at);
                let (prefetchable, io) = bridge::widths(self.config, at);
                function.kind = Kind::Bridge(Bridge { secondary: None, subordinate: 0, prefetchable, io });
            }
            _ => {
                self.problem(at, Fault::Layout(layout));
                function.kind = Kind::Unknown;
            }
        }
        function
    }

    /// Keeps a function from answering and from sending requests; INTx, too.
    fn quieten(&self, at: Bdf) {
        let kept = command(self.config, at);
        let quiet = Command::new()
            .with_parity_error_response(kept.parity_error_response())
            .with_serr_enable(kept.serr_enable())
            .with_bus_master(kept.bus_master() && mutant!("functions-send-on-after-the-scan"))
            .with_interrupt_disable(true);
        write_command(self.config, at, quiet);
    }

    /// Ends the virtual functions that firmware, or a kernel before, had of a function: they answer where registers are placed now, and send by their own leave.
    fn end_virtual_functions(&self, at: Bdf, capabilities: &Capabilities) {
        let place = capabilities.find_extended(ExtendedId::SR_IOV);
        // The other half is the status: zeroes clear none of it.
        if let Some(offset) = place.filter(|offset| offset + SR_IOV_CONTROL < CONFIG_SPACE_BYTES) {
            self.config.write32(at, offset + SR_IOV_CONTROL, 0);
        }
    }

    fn size_bars(&mut self, function: &mut Function, count: u8) {
        match bar::size_all(self.config, function.at, count) {
            Ok(bars) => function.bars = bars,
            Err((bar, fault)) => self.problem(function.at, Fault::Bar { bar, fault }),
        }
    }

    /// Adds a function, and opens the bus below it, if it is a bridge and there is a number left.
    fn add(&mut self, mut function: Function) {
        let place = self.topology.functions.len();
        let (at, single_device) = (function.at, is_link_below(function.port));
        let below = match &mut function.kind {
            Kind::Bridge(bridge) => {
                bridge.secondary = self.number_below(at);
                bridge.subordinate = bridge.secondary.unwrap_or_default();
                bridge.secondary
            }
            Kind::Endpoint | Kind::Unknown => None,
        };
        self.topology.functions.push(function);
        if let Some(bus) = below {
            self.open_bus(Some(place), bus, single_device);
        }
    }

    /// A number for the bus below a bridge, which passes on requests for it and all numbers after it.
    fn number_below(&mut self, at: Bdf) -> Option<u8> {
        let next = self.highest_bus.checked_add(1).filter(|&next| next <= self.last_bus);
        let Some(next) = next else {
            self.problem(at, Fault::NoBusNumber);
            return None;
        };
        match bridge::set_buses(self.config, at, next, self.last_bus) {
            Ok(()) => {
                self.highest_bus = next;
                Some(next)
            }
            Err(fault) => {
                bridge::close(self.config, at);
                self.problem(at, fault);
                None
            }
        }
    }

    /// The innermost bus has been looked at: its bridge passes on only what has been numbered below.
    fn close_bus(&mut self) {
        let Some(OpenBus { bridge: Some(index), bus, .. }) = self.open.pop() else { return };
        let highest = self.highest_bus;
        let function = &mut self.topology.functions[index];
        let at = function.at;
        if let Kind::Bridge(bridge) = &mut function.kind {
            bridge.subordinate = highest;
        }
        if let Err(fault) = bridge::set_buses(self.config, at, bus, highest) {
            // The numbers after those are others'.
            bridge::close(self.config, at);
            self.problem(at, fault);
        }
    }
}

/// Whether a bridge has a link below it, to one device with number 0.
///
/// Spec: PCIe 6.0, 7.3.1 "Device Number": downstream ports answer requests for other devices by themselves.
pub(crate) fn is_link_below(port: Option<PortType>) -> bool {
    matches!(port, Some(PortType::ROOT_PORT | PortType::DOWNSTREAM_PORT | PortType::PCI_TO_EXPRESS_BRIDGE))
}
