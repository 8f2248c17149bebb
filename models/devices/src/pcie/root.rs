//! The root complex: configuration space and memory windows, as CPUs see them.
//!
//! ECAM turns an address into bus, device, function and register; a window turns it into an address on PCIe. Where no
//! function answers, reads are all ones and writes are gone.
//!
//! It also takes messages of the IOMMU above to the function that has the requester id. There may be several IOMMUs, each before some of the slots
//! ([`RootComplex::add_host`], [`PciBus::lead`]): the messages of one reach what is behind it, and nobody else.
//!
//! Spec: PCIe 6.0, 7.2.2 "PCI Express Enhanced Configuration Access Mechanism (ECAM)".

use core::fmt;
use core::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use model_bus::{Bus, Downstream, Invalidation, Mmio, Occupied, PageResponse, Width};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, PaRange, SourceId};

use super::function::Function;
use super::pci_bus::PciBus;
use super::requester::Host;
use super::rid::Rid;

const BUS_LG2: u32 = 20;

/// A run of CPU addresses that reach memory on PCIe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The CPU's addresses.
    pub cpu: PaRange,
    /// The address on PCIe of the first one.
    pub pci_first: u64,
}

/// Where a root complex lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootLayout {
    /// Where the ECAM begins: 1 MiB for each bus.
    pub ecam: Pa,
    /// The bus numbers below the root complex; the first is the root bus.
    pub buses: RangeInclusive<u8>,
    /// The memory windows.
    pub windows: Vec<Window>,
}

/// A root complex.
pub struct RootComplex {
    host: Arc<Host>,
    layout: RootLayout,
    root_bus: Arc<PciBus>,
    /// The ways down from the IOMMUs above.
    ways: Mutex<Vec<Arc<Way>>>,
}

/// The way down from an IOMMU to what is behind it.
struct Way {
    root: Weak<RootComplex>,
    host: Arc<Host>,
}

impl fmt::Debug for RootComplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootComplex").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl RootComplex {
    /// A root complex with nothing below it. It makes itself known to the translator of `host`.
    pub fn new(layout: RootLayout, host: Host) -> Arc<Self> {
        let host = Arc::new(host);
        let root_bus = PciBus::new(host.clone(), Vec::new(), false);
        let root = Arc::new(Self { root_bus, host: host.clone(), layout, ways: Mutex::default() });
        root.add_way(host);
        root
    }

    /// One more IOMMU above, for slots that are led to it. It is made known to its translator.
    pub fn add_host(self: &Arc<Self>, host: Host) -> Arc<Host> {
        let host = Arc::new(host);
        self.add_way(host.clone());
        host
    }

    fn add_way(self: &Arc<Self>, host: Arc<Host>) {
        let way = Arc::new(Way { root: Arc::downgrade(self), host });
        let downstream = Arc::downgrade(&way);
        way.host.translator.connect(downstream);
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).push(way);
    }

    /// Where it lies.
    pub fn layout(&self) -> &RootLayout {
        &self.layout
    }

    /// The root bus: integrated endpoints and root ports are plugged in here.
    pub fn root_bus(&self) -> &Arc<PciBus> {
        &self.root_bus
    }

    /// Lets the root complex answer on `bus`.
    ///
    /// # Errors
    ///
    /// Something else answers in one of its regions.
    ///
    /// # Panics
    ///
    /// If the ECAM would pass the end of the address space.
    pub fn connect(self: &Arc<Self>, bus: &Bus) -> Result<(), Occupied> {
        let count = self.layout.buses.len() as u64;
        let ecam =
            PaRange::new(self.layout.ecam, count << BUS_LG2).expect("the ECAM lies in the address space");
        bus.add_registers("pcie ecam", ecam, Arc::new(Ecam(self.clone())))?;
        self.layout.windows.iter().try_for_each(|window| {
            bus.add_registers("pcie window", window.cpu, self.memory_from(window.pci_first))
        })
    }

    /// Memory on PCIe from this address on, as registers of a CPU's.
    pub fn memory_from(self: &Arc<Self>, pci_first: u64) -> Arc<dyn Mmio> {
        Arc::new(Through { root: self.clone(), pci_first })
    }

    /// Reads the register at `offset` of a function's configuration space, aligned to `width`; all ones if nobody answers.
    pub fn read_config(&self, rid: Rid, offset: usize, width: Width) -> u64 {
        let [devfn, bus] = rid.0.to_le_bytes();
        match self.root_bus.find_function(*self.layout.buses.start(), bus, devfn) {
            Some(function) => function.config().read(offset, width),
            None => ones(width),
        }
    }

    /// Writes the register at `offset` of a function's configuration space.
    pub fn write_config(&self, rid: Rid, offset: usize, width: Width, value: u64) {
        let [devfn, bus] = rid.0.to_le_bytes();
        let Some(function) = self.root_bus.find_function(*self.layout.buses.start(), bus, devfn) else {
            return;
        };
        if let Some(requester) = function.requester() {
            requester.capture_bus(bus);
        }
        function.config().write(offset, width, value);
        function.config_written(offset);
    }

    /// Asserts the slots' reset lines (PERST#), or lets go of them: everything below the root ports is reset, and out of reach until they are released. The
    /// root ports themselves, and what is integrated, notice nothing but that their links are down.
    ///
    /// Spec: PCIe 6.0, 6.6.1 "Conventional Reset": a fundamental reset, and everything below loses all of its state.
    pub fn hold_slots(&self, held: bool) {
        self.root_bus.hold_slots(held);
        let fields = &[("held", Value::Dec(held.into()))];
        self.host.sink.event(&Event { source: "model.pcie", name: "fundamental_reset", fields });
    }

    /// Whether the link of any root port is up.
    pub fn has_link(&self) -> bool {
        self.root_bus.has_link()
    }

    /// Reads memory on PCIe; all ones if nobody answers.
    pub fn read_memory(&self, address: u64, width: Width) -> u64 {
        match self.root_bus.find_memory(address, width.bytes()) {
            Some(target) => target.read(width),
            None => {
                self.unclaimed("read", address);
                ones(width)
            }
        }
    }

    /// Writes memory on PCIe.
    pub fn write_memory(&self, address: u64, width: Width, value: u64) {
        match self.root_bus.find_memory(address, width.bytes()) {
            Some(target) => target.write(width, value),
            None => self.unclaimed("write", address),
        }
    }

    /// The function that the IOMMU of `host` knows as `source`. None if it was taken out, is behind another, or no bridge leads there.
    fn function_of(&self, host: &Arc<Host>, source: SourceId) -> Option<Arc<dyn Function>> {
        host.stream_ids.rids(source).find_map(|rid| {
            let [devfn, bus] = rid.0.to_le_bytes();
            let function = self.root_bus.find_function(*self.layout.buses.start(), bus, devfn)?;
            function.requester()?.is_below(host).then_some(function)
        })
    }

    fn undelivered(&self, message: &str, source: SourceId) {
        let fields = &[("message", Value::Str(message)), ("source", Value::Hex(u64::from(source.0)))];
        self.host.sink.event(&Event { source: "model.pcie", name: "unsupported_request", fields });
    }

    fn unclaimed(&self, access: &str, address: u64) {
        let fields = &[("access", Value::Str(access)), ("address", Value::Addr(address))];
        self.host.sink.event(&Event { source: "model.pcie", name: "unsupported_request", fields });
    }
}

impl Way {
    /// Takes a message to the function that it is for.
    fn deliver(&self, message: &str, source: SourceId, take: impl FnOnce(&dyn Function) -> bool) -> bool {
        let Some(root) = self.root.upgrade() else { return false };
        let taken = root.function_of(&self.host, source).is_some_and(|function| take(&*function));
        if !taken {
            root.undelivered(message, source);
        }
        taken
    }
}

impl Downstream for Way {
    fn invalidate(&self, message: &Invalidation) -> bool {
        self.deliver("invalidate", message.source, |function| function.invalidate(message))
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        self.deliver("page_response", message.source, |function| function.page_response(message))
    }
}

fn ones(width: Width) -> u64 {
    u64::MAX >> (64 - 8 * width.bytes())
}

/// The ECAM's registers: bus in bits 27:20 of the offset, device in 19:15, function in 14:12, register in 11:0.
struct Ecam(Arc<RootComplex>);

impl Ecam {
    fn place(&self, offset: u64) -> (Rid, usize) {
        let bus = u64::from(*self.0.layout.buses.start()) + (offset >> BUS_LG2);
        let devfn = (offset >> 12 & 0xff) as u8;
        (Rid::new(bus as u8, devfn), (offset & 0xfff) as usize)
    }
}

impl Mmio for Ecam {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let (rid, register) = self.place(offset);
        self.0.read_config(rid, register, width)
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        let (rid, register) = self.place(offset);
        self.0.write_config(rid, register, width, value);
    }
}

struct Through {
    root: Arc<RootComplex>,
    pci_first: u64,
}

impl Mmio for Through {
    fn read(&self, offset: u64, width: Width) -> u64 {
        self.root.read_memory(self.pci_first.wrapping_add(offset), width)
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        self.root.write_memory(self.pci_first.wrapping_add(offset), width, value);
    }
}
