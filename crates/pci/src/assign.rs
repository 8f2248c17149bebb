//! Placing: every base address register gets an address, every bridge a window around what is below it.
//!
//! From the bottom up, what each bridge's windows have to hold is packed, largest alignment first; from the top down, the packages are
//! placed in the host bridge's windows and opened. There are three kinds of packages, as bridges have three kinds of windows:
//!
//! | kind | holds | in a host window |
//! |---|---|---|
//! | I/O | I/O registers | I/O |
//! | memory | all other memory registers | not prefetchable, below 4 GiB |
//! | prefetchable | 64-bit prefetchable registers, where every bridge above has a window for them | any, above 4 GiB first |
//!
//! A function is let answer in a space only if all its registers of that space found room; a bridge that does not answer passes
//! nothing down, and what is below it has no place. A 64-bit register right below the host bridge may also go above 4 GiB if there is no room below. What is larger than any host
//! window is refused first, so that it does not keep what is beside it from being placed.
//!
//! Where the host bridge tells devices apart by address ([`HostBridge::segment_bytes`]), windows of bridges and what lies right below the host bridge take whole
//! segments: what two bridges lead to never lies in one.
//!
//! Spec: PCIe 6.0, 7.5.1.2.1 "Base Address Registers (Offset 10h - 24h)", 7.5.1.3 "Type 1 Configuration Space Header".

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use portcullis_spec::pcie::header::{IoWindow, MemoryWindow};
use portcullis_spec::pcie::{Bdf, HostWindow, Space};

use crate::bar::{self, Bar, Placed};
use crate::bridge::{self, IoWidth, PrefetchableWidth};
use crate::config::{ConfigAccess, command, write_command};
use crate::host::HostBridge;
use crate::problem::{Fault, Problem};
use crate::topology::Topology;

/// Which window of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Io,
    Memory,
    Prefetchable,
}

const WINDOWS: [Window; 3] = [Window::Io, Window::Memory, Window::Prefetchable];

/// Something that wants addresses.
#[derive(Clone, Copy, Debug)]
struct Item {
    /// Whose: an index into the topology.
    function: usize,
    what: What,
    size: u64,
    align: u64,
    /// Which window of the bridge above it goes into.
    into: Window,
    /// Whether addresses above 4 GiB will do.
    anywhere: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// A register, by its place in the function's list.
    Bar(usize),
    /// A window of a bridge.
    Window(Window),
}

/// Items that have been packed: each with its distance from the first address.
#[derive(Clone, Debug, Default)]
struct Package {
    items: Vec<(Item, u64)>,
    size: u64,
    align: u64,
}

/// What a bridge's windows hold, in the order of [`WINDOWS`].
type Packages = [Package; 3];

fn align_up(address: u64, align: u64) -> Option<u64> {
    address.checked_next_multiple_of(align)
}

impl Window {
    /// Addresses of the window are multiples of this.
    fn unit(self) -> u64 {
        match self {
            Self::Io => IoWindow::UNIT_BYTES,
            Self::Memory | Self::Prefetchable => MemoryWindow::UNIT_BYTES,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Io => 0,
            Self::Memory => 1,
            Self::Prefetchable => 2,
        }
    }
}

impl Package {
    /// Packs items, the most aligned first. Those for which there is no more room in 64 bits come back.
    fn pack(mut items: Vec<Item>, unit: u64) -> (Self, Vec<Item>) {
        items.sort_by_key(|item| core::cmp::Reverse((item.align, item.size)));
        let mut package = Self { items: Vec::new(), size: 0, align: unit };
        let mut refused = Vec::new();
        for item in items {
            let place = align_up(package.size, item.align)
                .and_then(|offset| Some((offset, align_up(offset.checked_add(item.size)?, unit)?)));
            let Some((offset, _)) = place else {
                refused.push(item);
                continue;
            };
            package.size = offset + item.size;
            package.align = package.align.max(item.align);
            package.items.push((item, offset));
        }
        package.size = align_up(package.size, unit).unwrap_or(package.size);
        (package, refused)
    }
}

/// Gives every base address register an address and every bridge its windows, and lets functions answer that have all they want.
pub(crate) fn assign(config: &(impl ConfigAccess + ?Sized), host: &HostBridge, topology: &mut Topology) {
    let mut windows: Vec<Free> = Vec::new();
    for &window in &host.windows {
        // What two windows have would be given out twice.
        if windows.iter().all(|free| !overlap(&free.window, &window)) {
            windows.push(Free::new(window));
        }
    }
    let packages = topology.functions.iter().map(|_| Packages::default()).collect();
    let mut below: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (index, function) in topology.functions.iter().enumerate() {
        below.entry(function.above).or_default().push(index);
    }
    let segment = if host.segment_bytes.is_power_of_two() { host.segment_bytes } else { 1 };
    let mut assign = Assign { config, topology, windows, packages, below, segment };
    assign.pack();
    let items = assign.wanted(None);
    assign.place_all(items);
    assign.let_answer();
}

/// Whether two windows have addresses in common, on PCI or for the CPU.
fn overlap(one: &HostWindow, two: &HostWindow) -> bool {
    let cross = |one: u64, two: u64, bytes: [u64; 2]| {
        let last = |first: u64, bytes: u64| first.saturating_add(bytes.saturating_sub(1));
        one <= last(two, bytes[1]) && two <= last(one, bytes[0])
    };
    let bytes = [one.size_bytes, two.size_bytes];
    let same_space = (one.space == Space::Io) == (two.space == Space::Io);
    same_space && cross(one.bus_first, two.bus_first, bytes)
        || cross(one.cpu_first.get(), two.cpu_first.get(), bytes)
}

/// What is left of a window of the host bridge: everything from `next` on.
#[derive(Clone, Copy, Debug)]
struct Free {
    window: HostWindow,
    /// None if nothing is left.
    next: Option<u64>,
}

impl Free {
    fn new(window: HostWindow) -> Self {
        // Address 0 means "not placed" to many devices and drivers: it is left out.
        let first = if window.bus_first == 0 { 1 } else { window.bus_first };
        Self { window, next: Some(first) }
    }

    /// Where an item would go; none if it does not fit.
    fn place(&self, item: &Item) -> Option<u64> {
        let first = align_up(self.next?, item.align)?;
        let last = first.checked_add(item.size.checked_sub(1)?)?;
        let highest = if item.anywhere { u64::MAX } else { u32::MAX.into() };
        (last <= self.window.bus_last() && last <= highest).then_some(first)
    }

    /// How well a window suits an item, 0 best; none if not at all.
    fn rank(&self, item: &Item) -> Option<u8> {
        let above = self.window.bus_first > u64::from(u32::MAX);
        match (item.into, self.window.space, self.window.prefetchable) {
            (Window::Io, Space::Io, _) => Some(0),
            (Window::Io, ..) | (_, Space::Io, _) => None,
            (Window::Memory, _, true) => None,
            (Window::Memory, _, false) => Some(above.into()),
            (Window::Prefetchable, _, prefetchable) => Some(2 * u8::from(!above) + u8::from(!prefetchable)),
        }
    }
}

struct Assign<'a, C: ?Sized> {
    config: &'a C,
    topology: &'a mut Topology,
    windows: Vec<Free>,
    /// What each function's windows hold; empty for those that are no bridges.
    packages: Vec<Packages>,
    /// What is right below each bridge, and below the host bridge.
    below: BTreeMap<Option<usize>, Vec<usize>>,
    /// What memory windows and what is right below the host bridge are multiples of.
    segment: u64,
}

impl<C: ConfigAccess + ?Sized> Assign<'_, C> {
    /// Packs what is below each bridge, the deepest first.
    fn pack(&mut self) {
        // Depth first: what is below a bridge comes after it.
        for bridge in (0..self.topology.functions.len()).rev() {
            if !self.below.contains_key(&Some(bridge)) {
                continue;
            }
            let mut wanted = self.wanted(Some(bridge));
            for window in WINDOWS {
                let items = wanted.extract_if(.., |item| item.into == window).collect();
                let (package, refused) = Package::pack(items, window.unit().max(self.segment_of(window)));
                self.packages[bridge][window.index()] = package;
                refused.iter().for_each(|item| self.refuse(item));
            }
        }
    }

    /// What functions right below a bridge (or below the host bridge) want.
    fn wanted(&mut self, above: Option<usize>) -> Vec<Item> {
        let mut items = Vec::new();
        for &function in self.below.get(&above).map_or(&[][..], Vec::as_slice) {
            let bars = 0..self.topology.functions[function].bars.len();
            items.extend(bars.map(|bar| self.bar_item(above, function, bar)));
            items.extend(WINDOWS.into_iter().filter_map(|window| self.window_item(above, function, window)));
        }
        let (possible, refused): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| self.fits_alone(item));
        refused.iter().for_each(|item| self.refuse(item));
        possible
    }

    fn segment_of(&self, window: Window) -> u64 {
        if window == Window::Io { 1 } else { self.segment }
    }

    fn fits_alone(&self, item: &Item) -> bool {
        let suits = |free: &&Free| free.rank(item).is_some();
        self.windows.iter().filter(suits).any(|free| Free::new(free.window).place(item).is_some())
    }

    fn bar_item(&self, above: Option<usize>, function: usize, bar: usize) -> Item {
        let Bar { space, prefetchable, size_bytes, .. } = self.topology.functions[function].bars[bar];
        let into = match space {
            Space::Io => Window::Io,
            Space::Memory64 if prefetchable && self.prefetchable_64(above) => Window::Prefetchable,
            Space::Memory32 | Space::Memory64 => Window::Memory,
        };
        let anywhere = space == Space::Memory64 && (above.is_none() || into == Window::Prefetchable);
        let unit = if above.is_none() { self.segment_of(into) } else { 1 };
        let size = align_up(size_bytes, unit).unwrap_or(size_bytes);
        Item { function, what: What::Bar(bar), size, align: size_bytes.max(unit), into, anywhere }
    }

    /// What a bridge's window wants; none if it has nothing to hold.
    fn window_item(&self, above: Option<usize>, function: usize, window: Window) -> Option<Item> {
        let Package { size, align, ref items } = self.packages[function][window.index()];
        if items.is_empty() {
            return None;
        }
        let into = match window {
            Window::Prefetchable if !self.prefetchable_64(above) => Window::Memory,
            other => other,
        };
        let anywhere = into == Window::Prefetchable;
        Some(Item { function, what: What::Window(window), size, align, into, anywhere })
    }

    /// Whether a bridge passes prefetchable memory down wherever it is; the host bridge does.
    fn prefetchable_64(&self, bridge: Option<usize>) -> bool {
        let bridge = bridge.and_then(|bridge| self.topology.functions[bridge].bridge());
        bridge.is_none_or(|bridge| bridge.prefetchable == PrefetchableWidth::Bits64)
    }

    /// Places items in the host bridge's windows, and what is in their packages.
    fn place_all(&mut self, mut items: Vec<Item>) {
        items.sort_by_key(|item| core::cmp::Reverse((item.align, item.size)));
        for item in items {
            let places = self.windows.iter().enumerate().filter_map(|(index, free)| {
                let (rank, first) = (free.rank(&item)?, free.place(&item)?);
                Some((rank, index, first))
            });
            match places.min() {
                Some((_, index, first)) => {
                    self.windows[index].next = first.checked_add(item.size);
                    self.place(item, first, self.windows[index].window);
                }
                None => self.refuse(&item),
            }
        }
    }

    /// Places an item at a PCI address, and everything in its package.
    fn place(&mut self, item: Item, first: u64, host: HostWindow) {
        let mut work = alloc::vec![(item, first)];
        while let Some((item, first)) = work.pop() {
            match item.what {
                What::Bar(bar) => self.place_bar(item.function, bar, first, host),
                What::Window(window) => {
                    let package = core::mem::take(&mut self.packages[item.function][window.index()]);
                    if self.open(item.function, window, first, first + (package.size - 1)) {
                        work.extend(package.items.into_iter().map(|(item, offset)| (item, first + offset)));
                    } else {
                        package.items.iter().for_each(|(item, _)| self.refuse(item));
                    }
                }
            }
        }
    }

    fn place_bar(&mut self, function: usize, bar: usize, bus_address: u64, host: HostWindow) {
        let function = &mut self.topology.functions[function];
        let bar = &mut function.bars[bar];
        bar::write(self.config, function.at, bar, bus_address);
        bar.placed = host.to_cpu(bus_address).map(|cpu_first| Placed { bus_address, cpu_first });
    }

    /// Opens a window of a bridge; false if the bridge cannot have that.
    fn open(&self, function: usize, window: Window, first: u64, last: u64) -> bool {
        let function = &self.topology.functions[function];
        let io = function.bridge().map_or(IoWidth::None, |bridge| bridge.io);
        match window {
            Window::Memory => bridge::open_memory(self.config, function.at, first, last),
            Window::Prefetchable => bridge::open_prefetchable(self.config, function.at, first, last),
            Window::Io if io == IoWidth::Bits32 || io == IoWidth::Bits16 && last <= u64::from(u16::MAX) => {
                bridge::open_io(self.config, function.at, first, last);
            }
            Window::Io => return false,
        }
        true
    }

    /// Notes that there is no room for an item, and for anything in its package.
    fn refuse(&mut self, item: &Item) {
        let mut work = alloc::vec![*item];
        while let Some(item) = work.pop() {
            match item.what {
                What::Bar(bar) => {
                    let bar = self.topology.functions[item.function].bars[bar];
                    self.give_up(item.function, &bar);
                }
                What::Window(window) => {
                    let package = core::mem::take(&mut self.packages[item.function][window.index()]);
                    work.extend(package.items.into_iter().map(|(item, _)| item));
                }
            }
        }
    }

    /// Takes registers back that are behind a bridge which will not answer memory requests, and so passes none down: a register of its own found no room, or nobody knows what
    /// it wants.
    fn take_back_unreachable(&mut self, unknown: &BTreeSet<Bdf>) {
        let mut silent = BTreeSet::new();
        // A bridge comes before what is below it.
        for index in 0..self.topology.functions.len() {
            let function = &self.topology.functions[index];
            let is_reached = function.above.is_none_or(|above| !silent.contains(&above));
            let answers = function.is_placed() && !unknown.contains(&function.at);
            if function.bridge().is_some() && !(is_reached && answers) {
                silent.insert(index);
            }
            let lost = |bar: &&Bar| !is_reached && bar.space != Space::Io && bar.placed.is_some();
            let lost: Vec<Bar> = function.bars.iter().filter(lost).copied().collect();
            lost.iter().for_each(|bar| self.give_up(index, bar));
        }
    }

    /// Notes that a register has no place.
    fn give_up(&mut self, function: usize, bar: &Bar) {
        let Bar { index, space, size_bytes, .. } = *bar;
        let function = &mut self.topology.functions[function];
        bar::write(self.config, function.at, bar, 0);
        function.bars.iter_mut().filter(|own| own.index == index).for_each(|own| own.placed = None);
        let fault = Fault::NoRoom { bar: index, space, size_bytes };
        self.topology.problems.push(Problem { at: function.at, fault });
    }

    /// Lets functions answer in a space if all their registers of that space are placed. Bridges must answer to pass anything down.
    fn let_answer(&mut self) {
        let unknown: BTreeSet<Bdf> =
            self.topology.problems.iter().filter_map(Problem::unknown_bars).collect();
        self.take_back_unreachable(&unknown);
        for function in self.topology.functions.iter().filter(|function| !unknown.contains(&function.at)) {
            let is_bridge = function.bridge().is_some();
            let answers = |io: bool| {
                let mut bars = function.bars.iter().filter(|bar| (bar.space == Space::Io) == io).peekable();
                (is_bridge || bars.peek().is_some()) && bars.all(|bar| bar.placed.is_some())
            };
            let quiet = command(self.config, function.at);
            let answering = quiet.with_memory_space(answers(false)).with_io_space(answers(true));
            write_command(self.config, function.at, answering);
        }
    }
}
