//! QEMU's model takes a case.
//!
//! Devices that write are QEMU's `iommu-testdev`, which writes at once when told, and looks for what it wrote at the physical address that our
//! model says. Devices that read are `edu`, whose timers cost nothing in a machine whose clock jumps while its CPU sleeps; what they
//! have read they write to memory once the SMMU is off.
//!
//! Observed: QEMU 11.1, docs/specs/iommu-testdev.rst, docs/specs/edu.rst.

use core::ops::Range;
use std::collections::BTreeMap;

use portcullis_qemu::{Arch, Machine, MachineOptions, Qemu, QemuError, Step as Op, Version, Width};
use portcullis_types::Pa;

use crate::answer::{Answer, Record, UNKNOWN};
use crate::case::{Access, Case, READERS, WRITERS};
use crate::devices::{BUFFER_BYTES, Script, WRITE_FAILED, WRITTEN};
use crate::layout::{
    COMMAND_LG2, COMMANDS, DATA, DATA_END, EVENT_LG2, EVENTS, READ_BACK, is_data, pattern_address,
    pattern_bytes,
};
use crate::ours::Verdict;
use crate::program::{self, CR0, EVENTQ_PROD, FLUSH, Step};

/// The SMMU's registers.
const SMMU: u64 = 0x0905_0000;
/// PCI's configuration space.
const ECAM: u64 = 0x40_1000_0000;
/// Where BARs are put: a MiB each.
const BARS: u64 = 0x1000_0000;
/// The oldest QEMU with all that is needed.
pub const OLDEST: Version = Version::new(11, 1);

/// The newest QEMU for a test; none where there is none that is new enough, which is said on standard error.
pub(crate) fn newest_for_test(arch: Arch) -> Option<Qemu> {
    let qemus = portcullis_qemu::testing::qemus(arch);
    let newest = qemus.iter().filter(|qemu| qemu.version() >= OLDEST).max_by_key(|qemu| qemu.version());
    if newest.is_none() {
        eprintln!("skipped: QEMU {OLDEST} or later is wanted");
    }
    newest.cloned()
}

/// Puts the pattern of an area of data, of whole pages, into QEMU's memory.
pub(crate) fn fill(machine: &Machine, data: Range<u64>) {
    for at in data.step_by(0x1000) {
        machine.ram().write(Pa::new(at), &pattern_bytes(at, 0x1000));
    }
}

/// QEMU's machine.
pub struct Theirs {
    machine: Machine,
    /// Where the devices' registers are.
    bars: BTreeMap<u32, u64>,
    prod: u32,
}

/// Where the answers to one access will be found.
enum Place {
    /// A write: its result, and the event queue behind it.
    Write { result: usize, events: usize },
    /// A read: which bytes of the reader's buffer, and the event queue behind it.
    Read { offset: u64, events: usize },
}

impl Theirs {
    /// Starts a machine.
    ///
    /// # Errors
    ///
    /// There is no QEMU, or it does not do what it is told.
    pub fn start() -> Result<Self, QemuError> {
        let qemu = Qemu::newest(Arch::Aarch64)?;
        Self::start_with(&qemu, "iommu=smmuv3")
    }

    /// A machine for a test; none where there is no QEMU that is new enough, which is said on standard error.
    ///
    /// # Panics
    ///
    /// If there is one, and it does not start.
    pub fn for_test() -> Option<Self> {
        let qemu = newest_for_test(Arch::Aarch64)?;
        Some(Self::start_with(&qemu, "iommu=smmuv3").unwrap_or_else(|error| panic!("{error}")))
    }

    /// Starts a machine of this QEMU with these machine properties.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(qemu: &Qemu, properties: &str) -> Result<Self, QemuError> {
        let mut options =
            MachineOptions::virt(properties).argument("-icount").argument("shift=auto,sleep=off");
        let ids = WRITERS.into_iter().map(|id| (id, "iommu-testdev")).chain(READERS.map(|id| (id, "edu")));
        let mut behind = Vec::new();
        for (id, device) in ids {
            let mask = if device == "edu" { ",dma_mask=0xffffffffffffffff" } else { "" };
            let (bus, slot, function) = (id >> 8, id >> 3 & 0x1f, id & 7);
            if bus == 0 {
                options =
                    options.device(&format!("{device},addr={slot:02x}.{function},multifunction=on{mask}"));
                continue;
            }
            // Behind a root port of its own.
            let port = 0x10 + behind.len();
            behind.push((bus, port));
            options = options
                .device(&format!("pcie-root-port,id=port{port},chassis={port},slot={port},addr={port:02x}.0"))
                .device(&format!("{device},bus=port{port},addr=00.0{mask}"));
        }
        let machine = qemu.start(&options)?;
        let mut theirs = Self { machine, bars: BTreeMap::new(), prod: 0 };
        theirs.enumerate(&behind)?;
        theirs.fill();
        Ok(theirs)
    }

    /// Gives root ports their buses and windows, and devices their BARs.
    fn enumerate(&mut self, behind: &[(u32, usize)]) -> Result<(), QemuError> {
        let mut script = Script::default();
        for (index, id) in (0u64..).zip(WRITERS.into_iter().chain(READERS)) {
            let bar = BARS + (index << 20);
            if let Some(&(bus, slot)) = behind.iter().find(|&&(bus, _)| bus == id >> 8) {
                let port = ECAM + (u64::try_from(slot).unwrap_or(0) << 15);
                script.store32(port + 0x18, u64::from(bus) << 16 | u64::from(bus) << 8);
                let window = bar >> 16 & 0xfff0;
                script.store32(port + 0x20, window << 16 | window);
                script.store32(port + 4, 6);
            }
            let config = ECAM + (u64::from(id) << 12);
            script.store32(config + 0x10, bar);
            script.store32(config + 4, 6);
            self.bars.insert(id, bar);
        }
        script.play(&self.machine)
    }

    /// Puts into memory what stays there.
    fn fill(&self) {
        let ram = self.machine.ram();
        for (slot, [low, high]) in (0..1 << COMMAND_LG2).zip(FLUSH.into_iter().cycle()) {
            ram.store64(Pa::new(COMMANDS + slot * 16), low);
            ram.store64(Pa::new(COMMANDS + slot * 16 + 8), high);
        }
        self.fill_data();
    }

    fn fill_data(&self) {
        fill(&self.machine, DATA..DATA_END);
    }

    /// Which QEMU it is.
    pub fn version(&self) -> Version {
        self.machine.version()
    }

    /// The value of a register of the SMMU.
    ///
    /// # Errors
    ///
    /// Here and below: QEMU does not do what it is told.
    pub fn register(&self, offset: u64) -> Result<u32, QemuError> {
        let value = self.machine.load(Pa::new(SMMU + offset), Width::Bits32)?;
        Ok(u32::try_from(value).unwrap_or(u32::MAX))
    }

    /// Runs a case. `verdicts` are our model's, one for each access: what a device may not reach here is not tried, and has no answer.
    pub fn run(&mut self, case: &Case, verdicts: &[Verdict]) -> Result<Vec<Option<Answer>>, QemuError> {
        let ram = self.machine.ram().clone();
        case.image.words().for_each(|(at, word)| ram.store64(Pa::new(at), word));
        let mut script = Script::default();
        program::enable(&case.setup, &mut self.prod).into_iter().for_each(|one| step(one, &mut script));
        let mut used = BTreeMap::new();
        let mut places = Vec::new();
        for (access, verdict) in case.accesses.iter().zip(verdicts) {
            if verdict.out_of_bounds {
                places.push(None);
                continue;
            }
            if access.flush {
                step(program::flush(&mut self.prod), &mut script);
            }
            if let Some(at) = verdict.answer.reached {
                script.ops.push(Op::Write(Pa::new(at), pattern_bytes(at, access.len.into())));
            }
            let place = if access.write {
                Some(self.write(access, verdict.answer.reached, &mut script))
            } else {
                self.read(access, &mut used, &mut script)?
            };
            places.push(place);
        }
        script.store32(SMMU + CR0, 0);
        self.read_back(&used, &mut script)?;
        script.play(&self.machine)?;
        let answers = self.answers(case, verdicts, &places, &script.values);
        case.image.words().for_each(|(at, _)| ram.store64(Pa::new(at), 0));
        self.restore(case, verdicts, &answers);
        Ok(answers)
    }

    fn write(&self, access: &Access, expected: Option<u64>, script: &mut Script) -> Place {
        let bar = self.bars[&access.stream];
        let result = script.write(bar, access.address, access.len, expected.unwrap_or(DATA));
        Place::Write { result, events: script.load(SMMU + EVENTQ_PROD, Width::Bits32) }
    }

    /// Reads into the reader's buffer; none if that is full.
    fn read(
        &self,
        access: &Access,
        used: &mut BTreeMap<u32, u64>,
        script: &mut Script,
    ) -> Result<Option<Place>, QemuError> {
        let next = used.entry(access.stream).or_insert(0);
        let (offset, len) = (*next, u64::from(access.len));
        if offset + len > BUFFER_BYTES {
            return Ok(None);
        }
        *next += len;
        script.read(&self.machine, self.bars[&access.stream], access.address, offset, len)?;
        Ok(Some(Place::Read { offset, events: script.load(SMMU + EVENTQ_PROD, Width::Bits32) }))
    }

    /// Has the readers write what they have read, with the SMMU off.
    fn read_back(&self, used: &BTreeMap<u32, u64>, script: &mut Script) -> Result<(), QemuError> {
        for (&id, &bytes) in used.iter().filter(|&(_, &bytes)| bytes != 0) {
            script.read_back(&self.machine, self.bars[&id], read_back_place(id), bytes)?;
        }
        Ok(())
    }

    fn answers(
        &self,
        case: &Case,
        verdicts: &[Verdict],
        places: &[Option<Place>],
        values: &[u64],
    ) -> Vec<Option<Answer>> {
        let mut before = 0;
        let all = case.accesses.iter().zip(verdicts).zip(places);
        all.map(|((access, verdict), place)| {
            let (reached, events) = match place.as_ref()? {
                Place::Write { result, events } => {
                    (self.written(values[*result], verdict.answer.reached), events)
                }
                Place::Read { offset, events } => {
                    (self.was_read(access, *offset, verdict.answer.reached), events)
                }
            };
            let records = self.records(before, values[*events]);
            before = values[*events];
            Some(Answer { reached, records })
        })
        .collect()
    }

    /// Where a write went.
    fn written(&self, result: u64, expected: Option<u64>) -> Option<u64> {
        match (result, expected) {
            (WRITE_FAILED, _) => None,
            (0, Some(_)) => expected,
            _ => Some(self.find_written().unwrap_or(UNKNOWN)),
        }
    }

    /// Where in the data area a device has written and should not have.
    fn find_written(&self) -> Option<u64> {
        let word = u64::from(WRITTEN);
        (DATA..DATA_END).step_by(8).find_map(|at| {
            let found = self.machine.ram().load64(Pa::new(at));
            [(0, found & 0xffff_ffff), (4, found >> 32)]
                .into_iter()
                .find(|&(_, half)| half == word)
                .map(|(half, _)| at + half)
        })
    }

    /// Where a read came from.
    fn was_read(&self, access: &Access, offset: u64, expected: Option<u64>) -> Option<u64> {
        let mut bytes = vec![0; usize::try_from(access.len).unwrap_or(0)];
        self.machine.ram().read(Pa::new(read_back_place(access.stream) + offset), &mut bytes);
        if let Some(at) = expected.filter(|&at| bytes == pattern_bytes(at, access.len.into())) {
            return Some(at);
        }
        let first = bytes.first_chunk().map_or(0, |&word| u32::from_le_bytes(word));
        let any = bytes.iter().any(|&byte| byte != 0);
        any.then(|| pattern_address(first).unwrap_or(UNKNOWN))
    }

    fn records(&self, before: u64, after: u64) -> Vec<Record> {
        let mask = (2 << EVENT_LG2) - 1;
        let mut records = Vec::new();
        let mut next = before & mask;
        while next != after & mask {
            let at = EVENTS + (next & ((1 << EVENT_LG2) - 1)) * 32;
            records.push([0, 8, 16, 24].map(|offset| self.machine.ram().load64(Pa::new(at + offset))));
            next = (next + 1) & mask;
        }
        records
    }

    /// Makes the data area what it was.
    fn restore(&self, case: &Case, verdicts: &[Verdict], answers: &[Option<Answer>]) {
        let astray = |(verdict, answer): (&Verdict, &Option<Answer>)| {
            answer.as_ref().is_some_and(|answer| answer.reached != verdict.answer.reached)
        };
        if verdicts.iter().zip(answers).any(astray) {
            return self.fill_data();
        }
        for (access, verdict) in case.accesses.iter().zip(verdicts).filter(|(access, _)| access.write) {
            if let Some(at) = verdict.answer.reached.filter(|&at| is_data(at, access.len.into())) {
                self.machine.ram().write(Pa::new(at), &pattern_bytes(at, access.len.into()));
            }
        }
    }
}

fn step(step: Step, script: &mut Script) {
    match step {
        Step::Write32(offset, value) => script.store32(SMMU + offset, value.into()),
        Step::Write64(offset, value) => script.store64(SMMU + offset, value),
    }
}

/// Where what a reader has read comes to lie.
fn read_back_place(id: u32) -> u64 {
    let index = READERS.iter().position(|&reader| reader == id).unwrap_or(0);
    READ_BACK + u64::try_from(index).unwrap_or(0) * BUFFER_BYTES
}
