//! A bus: slots, the functions in them, and who answers.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use model_bus::Width;
use portcullis_types::trace::{Event, Value};

use super::bridge::{Bridge, BridgeOptions};
use super::config::ConfigSpace;
use super::function::Function;
use super::requester::Host;

/// A bus and its slots. Functions come and go while the machine runs.
pub struct PciBus {
    host: Arc<Host>,
    /// Slots that are behind another IOMMU than the rest of the bus.
    elsewhere: RwLock<BTreeMap<u8, Arc<Host>>>,
    /// The bridges above, nearest first.
    above: Vec<Arc<ConfigSpace>>,
    /// It is no link but a bus, whose bridge puts its own name on requests.
    conventional: bool,
    /// Configuration and memory requests get from the bridge above to somebody.
    up: AtomicBool,
    /// Somebody other than the bridge above holds the slots in reset.
    held: AtomicBool,
    functions: RwLock<BTreeMap<u8, Arc<dyn Function>>>,
}

/// The slot is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotTaken {
    /// Device and function number.
    pub devfn: u8,
}

impl fmt::Display for SlotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {:02x}.{} is taken", self.devfn >> 3, self.devfn & 7)
    }
}

impl core::error::Error for SlotTaken {}

impl fmt::Debug for PciBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciBus").field("slots", &self.slots()).finish_non_exhaustive()
    }
}

/// Who answers a memory request, and where in which BAR.
pub(crate) struct Target {
    function: Arc<dyn Function>,
    bar: usize,
    offset: u64,
}

impl Target {
    pub(crate) fn read(&self, width: Width) -> u64 {
        self.function.read_bar(self.bar, self.offset, width)
    }

    pub(crate) fn write(&self, width: Width, value: u64) {
        self.function.write_bar(self.bar, self.offset, width, value);
    }
}

impl PciBus {
    pub(crate) fn new(host: Arc<Host>, above: Vec<Arc<ConfigSpace>>, conventional: bool) -> Arc<Self> {
        let up = AtomicBool::new(above.is_empty());
        let held = AtomicBool::new(false);
        let (elsewhere, functions) = Default::default();
        Arc::new(Self { host, elsewhere, above, conventional, up, held, functions })
    }

    /// What is plugged into the slot `devfn` from now on, and all below it, is behind another IOMMU than the rest of the bus. `host` is one that the root complex knows
    /// ([`RootComplex::add_host`](super::RootComplex::add_host)).
    pub fn lead(&self, devfn: u8, host: &Arc<Host>) {
        self.elsewhere.write().unwrap_or_else(PoisonError::into_inner).insert(devfn, host.clone());
    }

    /// What is above a slot.
    fn host_of(&self, devfn: u8) -> Arc<Host> {
        let elsewhere = self.elsewhere.read().unwrap_or_else(PoisonError::into_inner);
        elsewhere.get(&devfn).unwrap_or(&self.host).clone()
    }

    /// Puts a function into the slot `devfn` (device in bits 7:3, function in 2:0).
    ///
    /// # Errors
    ///
    /// The slot is not free.
    pub fn plug(&self, devfn: u8, function: Arc<dyn Function>) -> Result<(), SlotTaken> {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if functions.contains_key(&devfn) {
            return Err(SlotTaken { devfn });
        }
        if let Some(requester) = function.requester() {
            requester.connect(&self.host_of(devfn), devfn, self.above.clone(), self.conventional);
        }
        functions.insert(devfn, function);
        drop(functions);
        self.train_link();
        self.say("plug", devfn);
        Ok(())
    }

    /// Takes the function out of the slot `devfn`, if there is one. It makes no more requests.
    pub fn unplug(&self, devfn: u8) -> Option<Arc<dyn Function>> {
        let function = self.functions.write().unwrap_or_else(PoisonError::into_inner).remove(&devfn)?;
        if let Some(requester) = function.requester() {
            requester.disconnect();
        }
        self.train_link();
        self.say("unplug", devfn);
        Some(function)
    }

    /// Adds a bridge in the slot `devfn`.
    ///
    /// # Errors
    ///
    /// The slot is not free.
    pub fn add_bridge(&self, devfn: u8, options: BridgeOptions) -> Result<Arc<Bridge>, SlotTaken> {
        let bridge = Bridge::new(&self.host_of(devfn), &self.above, options);
        self.plug(devfn, bridge.clone())?;
        Ok(bridge)
    }

    /// The taken slots.
    pub fn slots(&self) -> Vec<u8> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(crate) fn function(&self, devfn: u8) -> Option<Arc<dyn Function>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&devfn).cloned()
    }

    fn all(&self) -> Vec<Arc<dyn Function>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The function at `devfn` of `bus`, if this bus, whose number is `here`, or one below is it.
    pub(crate) fn find_function(&self, here: u8, bus: u8, devfn: u8) -> Option<Arc<dyn Function>> {
        if here == bus {
            return self.function(devfn).filter(|_| self.reaches(devfn));
        }
        if !self.reaches(0) {
            return None;
        }
        let functions = self.all();
        let mut behind = functions.iter().filter_map(|function| {
            let below = function.below()?;
            let (secondary, subordinate) = Bridge::buses(function.config());
            (secondary..=subordinate).contains(&bus).then(|| below.find_function(secondary, bus, devfn))
        });
        behind.next()?
    }

    /// Whether configuration requests get to `devfn`: on a root bus they do, and on a conventional one; a link that is up carries them to device 0, or to every one with ARI
    /// forwarding.
    /// Spec: PCIe 6.0, 7.3.1 "Device Number".
    fn reaches(&self, devfn: u8) -> bool {
        let Some(bridge) = self.above.first() else { return true };
        self.is_up() && (devfn < 8 || self.conventional || Bridge::forwards_ari(bridge))
    }

    /// Whether requests get from the bridge above to somebody.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    /// Somebody was plugged in, or taken out; or a reset begins or ends. A link's bridge lets software see whether there is anybody.
    pub(crate) fn train_link(&self) {
        if let Some(bridge) = self.above.first() {
            let held = self.held.load(Ordering::SeqCst) || Bridge::holds_reset(bridge);
            let up = !held && !self.slots().is_empty();
            self.up.store(up, Ordering::SeqCst);
            if !self.conventional {
                Bridge::show_link(bridge, up);
            }
        }
    }

    /// Holds the slots in reset, or lets go of them: while they are held, the link is down, and everything below has been reset.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
        self.train_link();
        if held {
            self.reset();
        }
    }

    /// For each bridge on this bus: holds the slots below it in reset, or lets go of them.
    pub(crate) fn hold_slots(&self, held: bool) {
        self.all().iter().filter_map(|function| function.below()).for_each(|below| below.hold(held));
    }

    /// Whether the link below any bridge on this bus is up.
    pub(crate) fn has_link(&self) -> bool {
        self.all().iter().filter_map(|function| function.below()).any(|below| below.is_up())
    }

    /// Who answers for `len_bytes` bytes at `address`, here or below.
    pub(crate) fn find_memory(&self, address: u64, len_bytes: u64) -> Option<Target> {
        self.all().into_iter().find_map(|function| {
            let config = function.config();
            let here = function
                .bars()
                .iter()
                .find_map(|bar| Some((bar.index, bar.offset_of(config, address, len_bytes)?)));
            if let Some((bar, offset)) = here {
                return Some(Target { function, bar, offset });
            }
            let below = function.below()?;
            let down = below.is_up() && Bridge::forwards(config, address, len_bytes);
            down.then(|| below.find_memory(address, len_bytes))?
        })
    }

    /// Resets every function here and below.
    pub(crate) fn reset(&self) {
        self.all().iter().for_each(|function| function.reset());
    }

    fn say(&self, name: &'static str, devfn: u8) {
        let fields =
            &[("device", Value::Dec(u64::from(devfn >> 3))), ("function", Value::Dec(u64::from(devfn & 7)))];
        self.host.sink.event(&Event { source: "model.pcie", name, fields });
    }
}
