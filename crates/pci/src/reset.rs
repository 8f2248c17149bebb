//! Resetting everything below a bridge, and setting it up again.
//!
//! A [`Below`] is made after enumeration and remembers what that had made of the functions below. The steps of a reset:
//!
//! 1. [`Below::prepare`]: what has changed since and belongs to the way there, not to a device, is noted: which bridges pass requests up.
//! 2. [`Below::hot_reset`], or the slot's own signal, which is the embedder's.
//! 3. [`Below::await_ready`]: the link is up, and the functions answer.
//! 4. [`Below::set_up`]: configuration is as enumeration had left it. Endpoints send neither requests nor messages.
//!
//! Everything below is reset, whosever it is: the caller sees to it that it is one's ([`Below::functions`]).
//!
//! Spec: PCIe 6.0, 6.6.1 "Conventional Reset", 7.5.1.3.13 "Bridge Control Register (Offset 3Eh)", Secondary Bus Reset.
//! Not here: resets of one function (`portcullis-vfio`), power.

use alloc::vec::Vec;

use portcullis_hal::{Clock, pause, wait_for};
use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::capability::Id;
use portcullis_spec::pcie::express::{
    CAPABILITIES, Capabilities, DEVICE_CONTROL, DEVICE_CONTROL_2, LINK_CAPABILITIES, LINK_STATUS,
    LinkCapabilities, LinkStatus,
};
use portcullis_spec::pcie::extended::AcsControl;
use portcullis_spec::pcie::header::{
    BAR0, BRIDGE_CONTROL, BUS_NUMBERS, BridgeControl, CACHE_LINE_SIZE, Command, IO_BASE, IO_BASE_UPPER,
    MEMORY_BASE, PREFETCHABLE_BASE, PREFETCHABLE_BASE_UPPER, PREFETCHABLE_LIMIT_UPPER, TYPE0_BAR_COUNT,
    TYPE1_BAR_COUNT, VENDOR_ID,
};

use crate::acs;
use crate::config::{ConfigAccess, command, is_there, write_command};
use crate::scan::is_link_below;
use crate::topology::{Function, Topology};

/// How long the reset is held. Spec: PCI 3.0, 4.3.2 "Timing Parameters", Trst: 1 ms. Observed: Linux 6.x, `pci_reset_secondary_bus`: 2 ms.
const HOLD_NS: u64 = 2_000_000;
/// How long what is below is left alone, counted from when the link is up. Spec: PCIe 6.0, 6.6.1 "Conventional Reset".
const SETTLE_NS: u64 = 100_000_000;
/// How long a link may take, and then a function, before it counts as broken. Spec: PCIe 6.0, 6.6.1 "Conventional Reset": 1 s.
const LIMIT_NS: u64 = 1_000_000_000;

/// Why what is below did not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetError {
    /// The link did not come up: what its status was at last.
    Link {
        /// The port above it.
        port: Bdf,
        /// Its link status.
        status: u16,
    },
    /// A function does not answer.
    Silent(Bdf),
    /// A function does not keep apart any more what enumeration found it to: who shares a group was decided by that. It answers no requests, and passes none on.
    NotApart(Bdf),
}

/// Everything below one bridge.
#[derive(Clone, Debug)]
pub struct Below {
    bridge: Port,
    /// Depth first, bridges before what is below them.
    saved: Vec<Saved>,
}

/// A bridge, and how its link can be seen.
#[derive(Clone, Copy, Debug)]
struct Port {
    at: Bdf,
    /// The PCI Express capability of a port that says whether its link is up.
    reports: Option<u16>,
}

/// One function, as enumeration had left it.
#[derive(Clone, Debug)]
struct Saved {
    index: usize,
    above: Option<usize>,
    at: Bdf,
    command: Command,
    /// The bridge in it, if it is one that leads somewhere.
    port: Option<Port>,
    /// Words, in the order in which they are written.
    words: Vec<(u16, u32)>,
    /// Half words whose neighbours are cleared by writing ones, and get zeroes.
    halves: Vec<(u16, u16)>,
    /// Where access control is turned on, and how enumeration found it then.
    isolation: Option<(u16, AcsControl)>,
}

impl Below {
    /// What is below `bridge`, an index into the topology. None if that is no bridge, or nothing is there.
    pub fn new(config: &(impl ConfigAccess + ?Sized), topology: &Topology, bridge: usize) -> Option<Self> {
        let above = topology.functions.get(bridge)?;
        above.bridge()?.secondary?;
        let is_below = |&index: &usize| topology.bridges_above(index).any(|above| above == bridge);
        let below = (0..topology.functions.len()).filter(is_below);
        let saved: Vec<_> = below.map(|index| Saved::of(config, index, &topology.functions[index])).collect();
        (!saved.is_empty()).then(|| Self { bridge: Port::of(config, above), saved })
    }

    /// Who is reset, as indexes into the topology.
    pub fn functions(&self) -> impl Iterator<Item = usize> {
        self.saved.iter().map(|saved| saved.index)
    }

    /// Notes which bridges pass requests up: they will again. To be called before a reset begins.
    pub fn prepare(&mut self, config: &(impl ConfigAccess + ?Sized)) {
        for bridge in self.saved.iter_mut().filter(|saved| saved.port.is_some() && is_there(config, saved.at))
        {
            bridge.command.set_bus_master(command(config, bridge.at).bus_master());
        }
    }

    /// Resets everything below by the bridge's link. Nobody uses what is below meanwhile.
    pub fn hot_reset(&self, config: &(impl ConfigAccess + ?Sized), clock: &impl Clock) {
        let control = BridgeControl::from(config.read16(self.bridge.at, BRIDGE_CONTROL));
        let write = |held| {
            config.write16(self.bridge.at, BRIDGE_CONTROL, control.with_secondary_bus_reset(held).into());
        };
        write(true);
        // The load sees to it that the store has arrived when time begins to count.
        config.read16(self.bridge.at, BRIDGE_CONTROL);
        pause(clock, HOLD_NS);
        write(false);
    }

    /// Waits until the functions right below can be configured: the link is up, they had their time, and they answer.
    ///
    /// # Errors
    ///
    /// As [`ResetError`] says.
    pub fn await_ready(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        clock: &impl Clock,
    ) -> Result<(), ResetError> {
        self.bridge.await_link(config, clock)?;
        pause(clock, SETTLE_NS);
        let bus = self.saved[0].at.bus();
        self.saved
            .iter()
            .filter(|saved| saved.at.bus() == bus)
            .try_for_each(|saved| saved.await_answer(config, clock))
    }

    /// Whether nobody right below answers memory or I/O requests, or sends any: so it is out of reset, before anything is set up.
    pub fn was_reset(&self, config: &(impl ConfigAccess + ?Sized)) -> bool {
        let bus = self.saved[0].at.bus();
        self.saved.iter().filter(|saved| saved.at.bus() == bus).all(|saved| {
            let command = command(config, saved.at);
            !command.memory_space() && !command.io_space() && !command.bus_master()
        })
    }

    /// Writes everything's configuration as it was after enumeration. Endpoints send no requests then, and have no messages enabled.
    ///
    /// # Errors
    ///
    /// As [`ResetError`] says; what comes before the culprit is set up.
    pub fn set_up(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        clock: &impl Clock,
    ) -> Result<(), ResetError> {
        for saved in &self.saved {
            saved.await_answer(config, clock)?;
            saved.write(config)?;
            let leads_on = self.saved.iter().any(|other| other.above == Some(saved.index));
            if let Some(port) = saved.port.filter(|_| leads_on) {
                port.await_trained(config, clock)?;
            }
        }
        Ok(())
    }
}

impl Port {
    fn of(config: &(impl ConfigAccess + ?Sized), bridge: &Function) -> Self {
        let express = bridge.capabilities.find(Id::EXPRESS).filter(|_| is_link_below(bridge.port));
        let says = |&express: &u16| {
            LinkCapabilities::from(config.read32(bridge.at, express + LINK_CAPABILITIES))
                .reports_link_active()
        };
        Self { at: bridge.at, reports: express.filter(says) }
    }

    fn is_up(self, config: &(impl ConfigAccess + ?Sized)) -> bool {
        let up = |express| LinkStatus::from(config.read16(self.at, express + LINK_STATUS)).link_active();
        self.reports.is_none_or(up)
    }

    /// The same, and the time that what is below is to have, if the link was down.
    fn await_trained(
        self,
        config: &(impl ConfigAccess + ?Sized),
        clock: &impl Clock,
    ) -> Result<(), ResetError> {
        if self.is_up(config) {
            return Ok(());
        }
        self.await_link(config, clock)?;
        pause(clock, SETTLE_NS);
        Ok(())
    }

    /// Waits until the link is up; not at all where the port does not say.
    fn await_link(self, config: &(impl ConfigAccess + ?Sized), clock: &impl Clock) -> Result<(), ResetError> {
        let Some(express) = self.reports else { return Ok(()) };
        let up = || self.is_up(config).then_some(());
        let down =
            |_| ResetError::Link { port: self.at, status: config.read16(self.at, express + LINK_STATUS) };
        wait_for(clock, LIMIT_NS, up).map_err(down)
    }
}

impl Saved {
    fn of(config: &(impl ConfigAccess + ?Sized), index: usize, function: &Function) -> Self {
        let at = function.at;
        let is_bridge = function.bridge().is_some();
        let bars = if is_bridge { TYPE1_BAR_COUNT } else { TYPE0_BAR_COUNT };
        let mut places: Vec<u16> = (0..bars).map(|bar| BAR0 + 4 * u16::from(bar)).collect();
        places.push(CACHE_LINE_SIZE & !3);
        let mut halves = Vec::new();
        if is_bridge {
            places.extend([
                BUS_NUMBERS,
                IO_BASE_UPPER,
                MEMORY_BASE,
                PREFETCHABLE_BASE_UPPER,
                PREFETCHABLE_BASE,
                PREFETCHABLE_LIMIT_UPPER,
            ]);
            halves.push(IO_BASE);
        }
        // Interrupt line, and of a bridge its control.
        places.push(BRIDGE_CONTROL & !3);
        if let Some(express) = function.capabilities.find(Id::EXPRESS) {
            halves.push(express + DEVICE_CONTROL);
            let version = Capabilities::from(config.read16(at, express + CAPABILITIES)).version();
            halves.extend((version >= 2).then_some(express + DEVICE_CONTROL_2));
        }
        let words = places.into_iter().map(|place| (place, config.read32(at, place))).collect();
        let halves = halves.into_iter().map(|place| (place, config.read16(at, place))).collect();
        let port = function.bridge().and_then(|bridge| bridge.secondary).map(|_| Port::of(config, function));
        let command = command(config, at).with_bus_master(false);
        Self {
            index,
            above: function.above,
            at,
            command,
            port,
            words,
            halves,
            isolation: function.isolation(),
        }
    }

    fn await_answer(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        clock: &impl Clock,
    ) -> Result<(), ResetError> {
        let answers = || is_there(config, self.at).then_some(());
        wait_for(clock, LIMIT_NS, answers).map_err(|_| ResetError::Silent(self.at))
    }

    fn write(&self, config: &(impl ConfigAccess + ?Sized)) -> Result<(), ResetError> {
        // A function learns its bus number from the first write that it gets.
        config.write32(self.at, VENDOR_ID, 0);
        // A bridge that was not reset passes requests up as it did.
        let passes = self.port.is_some() && command(config, self.at).bus_master();
        // Registers move while nobody reaches them.
        write_command(
            config,
            self.at,
            self.command.with_memory_space(false).with_io_space(false).with_bus_master(false),
        );
        self.words.iter().for_each(|&(place, word)| config.write32(self.at, place, word));
        for &(place, half) in &self.halves {
            if place.is_multiple_of(4) {
                config.write32(self.at, place, half.into());
            } else {
                config.write16(self.at, place, half);
            }
        }
        if self.isolation.is_some_and(|isolation| !acs::turn_on(config, self.at, isolation)) {
            return Err(ResetError::NotApart(self.at));
        }
        write_command(config, self.at, self.command.with_bus_master(self.command.bus_master() || passes));
        Ok(())
    }
}
