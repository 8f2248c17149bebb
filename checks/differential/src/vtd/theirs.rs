//! QEMU's `q35` takes a case.
//!
//! Devices that write are `iommu-testdev`, which write at once when told, and look for what they wrote at the physical address that our model says. Devices that read are `edu`,
//! whose timers cost nothing in a machine whose clock jumps while its CPU sleeps; what they have read they write to memory once the unit is off.
//!
//! Observed: QEMU 11.1, docs/specs/iommu-testdev.rst, docs/specs/edu.rst, hw/i386/intel_iommu.c.

use portcullis_qemu::q35::{self, ECAM, ECAM_BYTES};
use portcullis_qemu::{Arch, Machine, MachineOptions, Qemu, QemuError, Step as Op, Width};
use portcullis_types::Pa;

use super::ours::Answer;
use super::program::{self, Step};
use super::{Access, Case, DATA, DATA_END, RAM_MIB, READ_BACK, READERS, Stage, Verdict, WRITERS, is_data};
use crate::answer::UNKNOWN;
use crate::layout::pattern_bytes;
use crate::theirs::{edu, fill, newest_for_test};

/// The unit's registers, and where its one fault record is.
const UNIT: u64 = 0xfed9_0000;
const RECORD: u64 = UNIT + 0x220;
/// The device's word for a write that was refused.
const WRITE_FAILED: u64 = 0xdead_0002;

/// QEMU's machine.
pub struct Theirs {
    machine: Machine,
}

fn bar(requester: u16) -> u64 {
    ECAM + ECAM_BYTES + (u64::from(requester >> 3) << 20)
}

impl Theirs {
    /// A machine for a test; none where there is no QEMU that is new enough, which is said on standard error.
    ///
    /// # Panics
    ///
    /// If there is one, and it does not start.
    pub fn for_test(stage: Stage) -> Option<Self> {
        let qemu = newest_for_test(Arch::X86_64)?;
        Some(Self::start_with(&qemu, stage).unwrap_or_else(|error| panic!("{error}")))
    }

    /// Starts a machine of the newest QEMU.
    ///
    /// # Errors
    ///
    /// There is no QEMU, or it does not do what it is told.
    pub fn start(stage: Stage) -> Result<Self, QemuError> {
        Self::start_with(&Qemu::newest(Arch::X86_64)?, stage)
    }

    fn start_with(qemu: &Qemu, stage: Stage) -> Result<Self, QemuError> {
        let first = if stage == Stage::First { ",fsts=on" } else { "" };
        // The unit first: what comes before it is not behind it.
        let options = MachineOptions::q35("hpet=off,pit=off")
            .argument("-icount")
            .argument("shift=auto,sleep=off")
            .ram_mib(RAM_MIB)
            .device(&format!("intel-iommu,intremap=off,aw-bits=48,scalable-mode=on{first}"));
        let options = WRITERS.into_iter().fold(options, |options, requester| {
            options.device(&format!("iommu-testdev,addr={:02x}.0", requester >> 3))
        });
        let options = READERS.into_iter().fold(options, |options, requester| {
            options.device(&format!("edu,addr={:02x}.0,dma_mask=0xffffffffffffffff", requester >> 3))
        });
        let theirs = Self { machine: qemu.start(&options)? };
        q35::bring_up(&theirs.machine)?;
        for requester in WRITERS.into_iter().chain(READERS) {
            let space = ECAM + (u64::from(requester) << 12);
            theirs.machine.store(Pa::new(space + 0x10), Width::Bits32, bar(requester))?;
            theirs.machine.store(Pa::new(space + 4), Width::Bits16, 6)?;
        }
        theirs.fill_data();
        Ok(theirs)
    }

    /// A register of the unit, of 8 bytes.
    ///
    /// # Errors
    ///
    /// Here and below: QEMU does not do what it is told.
    pub fn register(&self, offset: u64) -> Result<u64, QemuError> {
        self.machine.load(Pa::new(UNIT + offset), Width::Bits64)
    }

    fn fill_data(&self) {
        fill(&self.machine, DATA..DATA_END);
    }

    /// Runs a case. What a device may not reach here is not tried, and has no answer.
    pub fn run(&mut self, case: &Case, verdicts: &[Verdict]) -> Result<Vec<Option<Answer>>, QemuError> {
        let ram = self.machine.ram().clone();
        let words = case.words.iter().map(|(&at, &word)| (at, word));
        words.chain(program::queue(case)).for_each(|(at, word)| ram.store64(Pa::new(at), word));
        let mut script = Script::default();
        script.ops.extend(program::enable(case).into_iter().map(step));
        let (mut flushes, mut used) = (1, [0; READERS.len()]);
        let mut places = Vec::new();
        for (access, verdict) in case.accesses.iter().zip(verdicts) {
            if verdict.out_of_bounds {
                places.push(None);
                continue;
            }
            if access.flush {
                flushes += 1;
                script.ops.push(step(program::flush(case, flushes)));
            }
            let place = if access.write {
                write(access, verdict, &mut script.ops);
                script.loads += 2;
                Place::Write { result: script.loads - 1 }
            } else {
                let next = &mut used[reader(access.requester)];
                let (offset, len) = (*next, u64::from(access.len));
                *next += len;
                self.transfer(
                    access.requester,
                    access.address,
                    edu::BUFFER + offset,
                    len,
                    edu::READ,
                    &mut script,
                )?;
                Place::Read { offset }
            };
            places.push(Some((place, script.record())));
        }
        script.ops.push(step(program::disable()));
        for (requester, bytes) in READERS.into_iter().zip(used).filter(|&(_, bytes)| bytes != 0) {
            self.transfer(requester, edu::BUFFER, read_back(requester), bytes, edu::WRITE, &mut script)?;
        }
        script.play(&self.machine)?;
        let answer = |((access, verdict), place): ((&Access, &Verdict), &Option<(Place, usize)>)| {
            let (place, record) = place.as_ref()?;
            let expected = verdict.answer.reached;
            let reached = match *place {
                Place::Write { result } => written(script.values[result], expected),
                Place::Read { offset } => self.was_read(access, offset, expected),
            };
            let words = [0, 1].map(|index| script.values[record + index]);
            Some(Answer { reached, record: (words[1] >> 63 == 1).then_some(words) })
        };
        let answers: Vec<_> = case.accesses.iter().zip(verdicts).zip(&places).map(answer).collect();
        self.restore(case, &answers);
        Ok(answers)
    }

    /// Has a reader move bytes, and waits for it.
    fn transfer(
        &self,
        requester: u16,
        from: u64,
        to: u64,
        len: u64,
        command: u64,
        script: &mut Script,
    ) -> Result<(), QemuError> {
        let bar = bar(requester);
        let moves = [(edu::FROM, from), (edu::TO, to), (edu::COUNT, len), (edu::COMMAND, command)];
        let store = |(register, value)| Op::Store(Pa::new(bar + register), Width::Bits64, value);
        script.ops.extend(moves.map(store));
        script.play(&self.machine)?;
        // Its own limit is the clock's jump; this one is for a QEMU that goes wrong.
        for _ in 0..100_000 {
            if self.machine.load(Pa::new(bar + edu::COMMAND), Width::Bits64)? & 1 == 0 {
                return Ok(());
            }
        }
        panic!("a DMA of QEMU's device {requester:#x} does not end");
    }

    /// Where a read came from.
    fn was_read(&self, access: &Access, offset: u64, expected: Option<u64>) -> Option<u64> {
        let mut bytes = vec![0; usize::try_from(access.len).unwrap_or(0)];
        self.machine.ram().read(Pa::new(read_back(access.requester) + offset), &mut bytes);
        let right = |&at: &u64| bytes == pattern_bytes(at, access.len.into());
        expected.filter(right).or(bytes.iter().any(|&byte| byte != 0).then_some(UNKNOWN))
    }

    /// Makes memory what it was.
    fn restore(&self, case: &Case, answers: &[Option<Answer>]) {
        let ram = self.machine.ram();
        let reached = |answer: &Option<Answer>| answer.as_ref().and_then(|answer| answer.reached);
        for (access, answer) in case.accesses.iter().zip(answers).filter(|(access, _)| access.write) {
            if let Some(at) = reached(answer).filter(|&at| at != UNKNOWN && is_data(at, access.len.into())) {
                ram.write(Pa::new(at), &pattern_bytes(at, access.len.into()));
            }
        }
        if answers.iter().any(|answer| reached(answer) == Some(UNKNOWN)) {
            self.fill_data();
        }
        case.words.keys().for_each(|&at| ram.store64(Pa::new(at), 0));
    }
}

/// What is asked for while one case runs.
#[derive(Default)]
struct Script {
    ops: Vec<Op>,
    /// What the loads so far have read.
    values: Vec<u64>,
    /// Loads that were asked for.
    loads: usize,
}

impl Script {
    /// Takes the fault record. Answers which load has its first word.
    fn record(&mut self) -> usize {
        self.ops.extend([0, 8].map(|offset| Op::Load(Pa::new(RECORD + offset), Width::Bits64)));
        // F: the record is free again.
        self.ops.push(Op::Store(Pa::new(RECORD + 12), Width::Bits32, 1 << 31));
        self.ops.push(Op::Store(Pa::new(UNIT + program::FSTS), Width::Bits32, 0x7f));
        self.loads += 2;
        self.loads - 2
    }

    fn play(&mut self, machine: &Machine) -> Result<(), QemuError> {
        self.values.extend(machine.batch(&self.ops)?);
        self.ops.clear();
        debug_assert_eq!(self.values.len(), self.loads, "each load has its value");
        Ok(())
    }
}

/// Where the answer to an access will be found.
enum Place {
    /// The load of a write's result.
    Write { result: usize },
    /// Which bytes of the reader's buffer.
    Read { offset: u64 },
}

fn reader(requester: u16) -> usize {
    READERS.iter().position(|&reader| reader == requester).unwrap_or(0)
}

/// Where what a reader has read comes to lie.
fn read_back(requester: u16) -> u64 {
    READ_BACK + ((reader(requester) as u64) << 12)
}

/// Where a write went.
fn written(result: u64, expected: Option<u64>) -> Option<u64> {
    match (result, expected) {
        (WRITE_FAILED, _) => None,
        (0, Some(at)) => Some(at),
        _ => Some(UNKNOWN),
    }
}

fn step(step: Step) -> Op {
    match step {
        Step::Write32(register, value) => Op::Store(Pa::new(UNIT + register), Width::Bits32, value.into()),
        Step::Write64(register, value) => Op::Store(Pa::new(UNIT + register), Width::Bits64, value),
    }
}

fn write(access: &Access, verdict: &Verdict, ops: &mut Vec<Op>) {
    let bar = bar(access.requester);
    let expected = verdict.answer.reached.unwrap_or(DATA);
    let store =
        |register: u64, value: u64| Op::Store(Pa::new(bar + register), Width::Bits32, value & 0xffff_ffff);
    let load = |register: u64| Op::Load(Pa::new(bar + register), Width::Bits32);
    if let Some(at) = verdict.answer.reached {
        ops.push(Op::Write(Pa::new(at), pattern_bytes(at, access.len.into())));
    }
    ops.extend([store(4, access.address), store(8, access.address >> 32), store(0xc, access.len.into())]);
    ops.extend([store(0x1c, expected), store(0x20, expected >> 32), store(0x14, 1), load(0), load(0x10)]);
}
