//! Finding functions: buses are numbered depth first.
//!
//! A bridge gets the next number for the bus below it, and until that bus has been looked at, all numbers up to the last
//! (so that configuration requests get through); then the highest number that was used. There is at most one bus for each number, and each
//! has 256 functions, so it ends whatever devices answer.
//!
//! Spec: PCIe 6.0, 7.3 "Configuration Transaction Rules".
//! Not here: placing base address registers (`assign`).

use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::express::PortType;
use portcullis_spec::pcie::header::{self, ClassRevision, Command, HeaderType};
use portcullis_types::mutant;

use crate::bar;
use crate::bridge;
use crate::capability::Capabilities;
use crate::config::{ConfigAccess, command, is_there, write_command};
use crate::host::HostBridge;
use crate::problem::{Fault, Problem};
use crate::topology::{Bridge, Function, Kind, Topology};

/// A bus that is being looked at.
struct OpenBus {
    /// The bridge above; none for the first bus.
    bridge: Option<usize>,
    bus: u8,
    /// Whether only device 0 can be there.
    single_device: bool,
    /// The next function to look at; 256 when through.
    next_devfn: u16,
    /// Whether function 0 of the device under way says that there are others.
    multi_function: bool,
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
    let first = OpenBus::new(None, *host.buses.start(), false);
    let (highest_bus, last_bus) = (first.bus, *host.buses.end());
    let mut scan = Scan { config, topology, open: alloc::vec![first], highest_bus, last_bus };
    while let Some(bus) = scan.open.last_mut() {
        match bus.next() {
            Some(at) => scan.look_at(at),
            None => scan.close_bus(),
        }
    }
    scan.topology
}

impl OpenBus {
    fn new(bridge: Option<usize>, bus: u8, single_device: bool) -> Self {
        Self { bridge, bus, single_device, next_devfn: 0, multi_function: false }
    }

    /// The next function to look at.
    fn next(&mut self) -> Option<Bdf> {
        // Functions other than 0 only where function 0 said so.
        if !self.next_devfn.is_multiple_of(8) && !self.multi_function {
            self.next_devfn = self.next_devfn.next_multiple_of(8);
        }
        let devfn = u8::try_from(self.next_devfn).ok()?;
        if self.single_device && devfn >= 8 {
            return None;
        }
        self.next_devfn += 1;
        Some(Bdf::from_requester_id(u16::from_be_bytes([self.bus, devfn])))
    }
}

impl<C: ConfigAccess + ?Sized> Scan<'_, C> {
    fn problem(&mut self, at: Bdf, fault: Fault) {
        self.topology.problems.push(Problem { at, fault });
    }

    fn look_at(&mut self, at: Bdf) {
        let there = is_there(self.config, at);
        let header_type = HeaderType::from(self.config.read8(at, header::HEADER_TYPE));
        if let Some(bus) = self.open.last_mut().filter(|_| at.function() == 0) {
            bus.multi_function = there && header_type.multi_function();
        }
        if there {
            self.add(at, header_type.layout());
        }
    }

    fn add(&mut self, at: Bdf, layout: u8) {
        let id = self.config.read32(at, header::VENDOR_ID).to_le_bytes();
        self.quieten(at);
        let capabilities = Capabilities::read(self.config, at).unwrap_or_else(|fault| {
            self.problem(at, Fault::Capabilities(fault));
            Capabilities::default()
        });
        let mut function = Function {
            at,
            above: self.open.last().and_then(|bus| bus.bridge),
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
                self.topology.functions.push(function);
            }
            HeaderType::LAYOUT_BRIDGE => {
                self.size_bars(&mut function, header::TYPE1_BAR_COUNT);
                self.add_bridge(function);
            }
            _ => {
                self.problem(at, Fault::Layout(layout));
                self.topology.functions.push(Function { kind: Kind::Unknown, ..function });
            }
        }
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

    fn size_bars(&mut self, function: &mut Function, count: u8) {
        match bar::size_all(self.config, function.at, count) {
            Ok(bars) => function.bars = bars,
            Err((bar, fault)) => self.problem(function.at, Fault::Bar { bar, fault }),
        }
    }

    /// Adds a bridge and opens the bus below it, if there is a number left.
    fn add_bridge(&mut self, mut function: Function) {
        let at = function.at;
        bridge::close(self.config, at);
        bridge::disable_rom(self.config, at);
        let (prefetchable, io) = bridge::widths(self.config, at);
        let secondary = self.number_below(at);
        let subordinate = secondary.unwrap_or_default();
        function.kind = Kind::Bridge(Bridge { secondary, subordinate, prefetchable, io });
        let single_device = is_link_below(function.port);
        self.topology.functions.push(function);
        if let Some(bus) = secondary {
            let bridge = self.topology.functions.len() - 1;
            self.open.push(OpenBus::new(Some(bridge), bus, single_device));
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
