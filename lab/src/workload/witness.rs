//! A witness of what the DMA API maps and unmaps, and of what the IOMMU's model has to say.
//!
//! It hears the same events as everybody. From core's it knows which addresses a device must not reach any more. It shares nothing with
//! the code it watches but the events' names: addresses that are unmapped without a word are found by the count of mappings at the end.
//! From the models' it knows what the IOMMU recorded and what was done to it, or to a function's services, that the book forbids, to say so when a run fails.
//!
//! Not here: trying the addresses (`proof`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis::types::trace::{Event, Sink, Value};

use crate::trace::SharedSink;

/// Stall, in word 1 of an event record. Spec: SMMUv3 H.a, 7.3 "Event records".
const STALL: u64 = 1 << 31;

/// A sink that passes everything on, and remembers what was mapped and unmapped for one device.
pub(super) struct Witness {
    device: String,
    next: SharedSink,
    /// Whether no model speaks.
    alone: bool,
    seen: Mutex<Seen>,
}

/// Ranges by first address, with their lengths.
#[derive(Default)]
struct Seen {
    live: BTreeMap<u64, u64>,
    gone: BTreeMap<u64, u64>,
    /// Pages of doorbells: mapped until the device is detached.
    doorbells: Vec<u64>,
    users: Users,
    /// What the IOMMU recorded is expected, and not told.
    expecting: bool,
    faults: Statements,
    forbidden: Statements,
    /// Where the faults were that the driver read: their pages.
    fault_pages: BTreeSet<u64>,
    /// What the driver told its hardware: commands by name.
    commands: BTreeMap<String, u64>,
    /// Whether that is a VT-d unit.
    of_vtd: bool,
}

/// What a user has mapped through VFIO.
#[derive(Default)]
struct Users {
    live: BTreeMap<u64, u64>,
    /// Everything that ever was, first to last.
    ever: Vec<(u64, u64)>,
    maps: u64,
    unmaps: u64,
    /// Where the device was told to write for interrupts.
    doorbells: BTreeSet<u64>,
}

/// The first of each of the first few kinds of things, and how many there were.
#[derive(Default)]
struct Statements {
    /// By kind.
    first: Vec<(String, String)>,
    count: usize,
}

impl Statements {
    const KEPT: usize = 3;

    fn add(&mut self, kind: String, statement: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::KEPT && self.first.iter().all(|(known, _)| *known != kind) {
            self.first.push((kind, statement()));
        }
    }

    fn tell(&self, heading: &str) -> String {
        match self.count {
            0 => String::new(),
            count => {
                let first: Vec<&str> = self.first.iter().map(|(_, statement)| statement.as_str()).collect();
                format!("; {heading} {count}: {}", first.join(", "))
            }
        }
    }
}

impl Seen {
    fn note_model(&mut self, event: &Event<'_>) {
        match event.name {
            "pe_freeze" if !self.expecting => {
                let (kind, at) = (word(event, "cause"), number(event, "addr").unwrap_or(0));
                self.faults.add(kind.clone(), || format!("{kind} at {at:#x}"));
            }
            // A stall is a question, not a fault.
            "event_record" if !self.expecting && number(event, "w1").unwrap_or(0) & STALL == 0 => {
                let kind = word(event, "kind");
                let at = number(event, "addr").unwrap_or(0);
                self.faults.add(kind.clone(), || format!("{kind} at {at:#x}"));
            }
            "unpredictable" => {
                let clause = word(event, "clause");
                self.forbidden.add(clause.clone(), || format!("{clause} ({})", word(event, "detail")));
            }
            _ => {}
        }
    }

    /// Events of the driver: where no model tells, the faults that it reads are what the hardware recorded.
    fn note_driver(&mut self, event: &Event<'_>, alone: bool) {
        match event.name {
            "cmd" => *self.commands.entry(word(event, "op")).or_default() += 1,
            "event_record" => {
                let at = number(event, "iova").unwrap_or(0);
                self.fault_pages.insert(at & !0xfff);
                if alone && !self.expecting {
                    let kind = word(event, "name");
                    self.faults.add(kind.clone(), || format!("{kind} at {at:#x}"));
                }
            }
            _ => {}
        }
    }

    /// A descriptor of VT-d's invalidation queue. Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface", the types.
    fn note_descriptor(&mut self, event: &Event<'_>) {
        let name = match number(event, "type").unwrap_or(0) {
            1 => "INVALIDATE_CONTEXT",
            2 | 6 => "INVALIDATE_IOTLB",
            3 | 8 => "INVALIDATE_DEVICE_TLB",
            4 => "INVALIDATE_INTERRUPT_ENTRY",
            5 => "WAIT",
            7 => "INVALIDATE_PASID",
            _ => "OTHER",
        };
        self.of_vtd = true;
        *self.commands.entry(name.into()).or_default() += 1;
    }

    /// A fault that core was told of. The SMMU's driver tells more of them itself.
    fn note_fault(&mut self, event: &Event<'_>, alone: bool) {
        let at = number(event, "iova").unwrap_or(0);
        self.fault_pages.insert(at & !0xfff);
        if self.of_vtd && alone && !self.expecting {
            let kind = word(event, "name");
            self.faults.add(kind.clone(), || format!("{kind} at {at:#x}"));
        }
    }

    /// Events of core: `dma_alloc`, `dma_map`, `dma_map_sg` give a device addresses, `dma_free`, `dma_unmap`, `dma_unmap_sg` take them away.
    fn note(&mut self, name: &str, iova: u64, len: Option<u64>) {
        if name.starts_with("dma_map") || name == "dma_alloc" {
            self.live.extend(len.filter(|&len| len > 0).map(|len| (iova, len)));
        } else if name.starts_with("dma_unmap") || name == "dma_free" {
            self.gone.extend(self.live.remove(&iova).map(|len| (iova, len)));
        } else if name == "msi_map" {
            self.doorbells.push(iova);
        }
    }
}

impl Seen {
    /// Events of VFIO. An unmap of everything names no range; a container that loses its last group loses all without a word.
    fn note_user(&mut self, event: &Event<'_>) {
        let Self { users, gone, .. } = self;
        match event.name {
            "vfio_map" => {
                if let (Some(iova), Some(len)) = (number(event, "iova"), number(event, "len")) {
                    users.live.insert(iova, len);
                    users.ever.push((iova, iova + (len - 1)));
                    users.maps += 1;
                }
            }
            "vfio_unmap" => {
                let len = number(event, "len").unwrap_or(0);
                let one = number(event, "iova").filter(|iova| users.live.get(iova) == Some(&len));
                let all = users.live.values().sum::<u64>() == len;
                match one {
                    Some(iova) => gone.extend(users.live.remove(&iova).map(|len| (iova, len))),
                    None if all => gone.append(&mut users.live),
                    None => {}
                }
                users.unmaps += number(event, "mappings").unwrap_or(1);
            }
            "vfio_msix" => users.doorbells.extend(number(event, "address")),
            "vfio_unset_container" => gone.append(&mut users.live),
            _ => {}
        }
    }
}

impl Witness {
    pub(super) fn new(device: &str, next: SharedSink) -> Self {
        Self { device: device.into(), next, alone: false, seen: Mutex::default() }
    }

    /// The same, for hardware that is no model: only the driver tells what it recorded.
    pub(super) fn without_models(device: &str, next: SharedSink) -> Self {
        Self { alone: true, ..Self::new(device, next) }
    }

    /// The pages of the faults that the driver read since the last call.
    pub(super) fn take_fault_pages(&self) -> BTreeSet<u64> {
        core::mem::take(&mut self.seen().fault_pages)
    }

    /// How many commands with this in their name the driver gave. The empty name is in all.
    pub(super) fn commands(&self, part: &str) -> u64 {
        let seen = self.seen();
        seen.commands.iter().filter(|(name, _)| name.contains(part)).map(|(_, count)| count).sum()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many ranges are mapped.
    pub(super) fn live(&self) -> usize {
        let seen = self.seen();
        seen.live.len() + seen.users.live.len()
    }

    /// Every range that a user ever had mapped, first to last.
    pub(super) fn users_ranges(&self) -> Vec<(u64, u64)> {
        self.seen().users.ever.clone()
    }

    /// Pages in which a user's device was told to write for interrupts.
    pub(super) fn users_doorbells(&self) -> Vec<u64> {
        self.seen().users.doorbells.iter().copied().collect()
    }

    /// How many mappings users have made, and taken away.
    pub(super) fn users_maps(&self) -> (u64, u64) {
        let Users { maps, unmaps, .. } = &self.seen().users;
        (*maps, *unmaps)
    }

    /// Does something whose faults are expected.
    pub(super) fn expecting<T>(&self, act: impl FnOnce() -> T) -> T {
        self.seen().expecting = true;
        let done = act();
        self.seen().expecting = false;
        done
    }

    /// What the IOMMU recorded unexpectedly and what the driver did that the book forbids, to be added to a sentence. Empty if nothing.
    pub(super) fn testimony(&self) -> String {
        let seen = self.seen();
        seen.faults.tell("unexpected events:") + &seen.forbidden.tell("forbidden by the book:")
    }

    /// What is mapped: first to last.
    pub(super) fn mapped(&self) -> Vec<(u64, u64)> {
        let seen = self.seen();
        let live = seen.live.iter().chain(&seen.users.live);
        live.map(|(&first, &len)| (first, first + (len - 1))).collect()
    }

    /// Addresses of doorbells, which are mapped for as long as the device is attached.
    pub(super) fn doorbells(&self) -> Vec<u64> {
        self.seen().doorbells.clone()
    }

    /// What was unmapped since the last call, first to last, as far as nothing that is mapped overlaps it.
    pub(super) fn take_gone(&self) -> Vec<(u64, u64)> {
        let mut seen = self.seen();
        let gone = core::mem::take(&mut seen.gone);
        let ranges = gone.into_iter().map(|(first, len)| (first, first + (len - 1)));
        let overlaps = |first: u64, last: u64| {
            let reaches = |live: &BTreeMap<u64, u64>| {
                live.range(..=last).next_back().is_some_and(|(&at, len)| at + (len - 1) >= first)
            };
            reaches(&seen.live) || reaches(&seen.users.live)
        };
        ranges.filter(|&(first, last)| !overlaps(first, last)).collect()
    }
}

/// The number in an event's field.
pub(super) fn number(event: &Event<'_>, name: &str) -> Option<u64> {
    event.fields.iter().find(|(key, _)| *key == name).and_then(|(_, value)| match value {
        Value::Dec(number) | Value::Hex(number) | Value::Addr(number) => Some(*number),
        Value::Str(_) => None,
    })
}

/// The word in an event's field.
fn word(event: &Event<'_>, name: &str) -> String {
    let field = event.fields.iter().find(|(key, _)| *key == name);
    field.map_or_else(String::new, |(_, value)| value.to_string())
}

impl Sink for Witness {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        if event.source == "core"
            && event.fields.first() == Some(&("dev", Value::Str(&self.device)))
            && let Some(iova) = number(event, "iova")
        {
            self.seen().note(event.name, iova, number(event, "len"));
        }
        if event.source == "vfio" {
            self.seen().note_user(event);
        }
        if matches!(event.source, "smmuv3" | "smmuv2") {
            self.seen().note_driver(event, self.alone);
        }
        if event.source == "vtd" && event.name == "descriptor" {
            self.seen().note_descriptor(event);
        }
        if event.source == "core" && event.name == "fault" {
            self.seen().note_fault(event, self.alone);
        }
        if matches!(
            event.source,
            "model.smmuv3" | "model.smmuv2" | "model.vtd" | "model.ioda2" | "model.pcie"
        ) {
            self.seen().note_model(event);
        }
        if self.next.listening() {
            self.next.event(event);
        }
    }
}
