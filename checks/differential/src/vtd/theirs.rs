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
use crate::devices::{Script, WRITE_FAILED};
use crate::layout::pattern_bytes;
use crate::theirs::{fill, newest_for_test};

/// The unit's registers, and where its one fault record is.
const UNIT: u64 = 0xfed9_0000;
const RECORD: u64 = UNIT + 0x220;

/// QEMU's machine.
pub struct Theirs {
    machine: Machine,
}

/// Where the registers of a function of bus 0 are.
pub(super) fn bar(requester: u16) -> u64 {
    ECAM + ECAM_BYTES + (u64::from(requester >> 3) << 20)
}

/// Where its configuration space is.
pub(super) fn space(requester: u16) -> u64 {
    ECAM + (u64::from(requester) << 12)
}

/// Brings up PCI, gives functions their BARs, and lets them send.
pub(super) fn bring_up(
    machine: &Machine,
    requesters: impl IntoIterator<Item = u16>,
) -> Result<(), QemuError> {
    q35::bring_up(machine)?;
    for requester in requesters {
        machine.store(Pa::new(space(requester) + 0x10), Width::Bits32, bar(requester))?;
        machine.store(Pa::new(space(requester) + 4), Width::Bits16, 6)?;
    }
    Ok(())
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
        bring_up(&theirs.machine, WRITERS.into_iter().chain(READERS))?;
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
        let mut asked = Vec::new();
        for (access, verdict) in case.accesses.iter().zip(verdicts) {
            if verdict.out_of_bounds {
                asked.push(None);
                continue;
            }
            if access.flush {
                flushes += 1;
                script.ops.push(step(program::flush(case, flushes)));
            }
            if let Some(at) = verdict.answer.reached {
                script.ops.push(Op::Write(Pa::new(at), pattern_bytes(at, access.len.into())));
            }
            let bar = bar(access.requester);
            let place = if access.write {
                let expected = verdict.answer.reached.unwrap_or(DATA);
                Place::Write { result: script.write(bar, access.address, access.len, expected) }
            } else {
                let next = &mut used[reader(access.requester)];
                let (offset, len) = (*next, u64::from(access.len));
                *next += len;
                script.read(&self.machine, bar, access.address, offset, len)?;
                Place::Read { offset }
            };
            asked.push(Some(Asked { place, record: record(&mut script) }));
        }
        script.ops.push(step(program::disable()));
        for (requester, bytes) in READERS.into_iter().zip(used).filter(|&(_, bytes)| bytes != 0) {
            script.read_back(&self.machine, bar(requester), read_back(requester), bytes)?;
        }
        script.play(&self.machine)?;
        let answer = |((access, verdict), asked): ((&Access, &Verdict), &Option<Asked>)| {
            let Asked { place, record } = asked.as_ref()?;
            let expected = verdict.answer.reached;
            let reached = match *place {
                Place::Write { result } => written(script.values[result], expected),
                Place::Read { offset } => self.was_read(access, offset, expected),
            };
            let words = record.map(|load| script.values[load]);
            Some(Answer { reached, record: (words[1] >> 63 == 1).then_some(words) })
        };
        let answers: Vec<_> = case.accesses.iter().zip(verdicts).zip(&asked).map(answer).collect();
        self.restore(case, &answers);
        Ok(answers)
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

/// Takes the fault record. Answers which loads have its words.
pub(super) fn record(script: &mut Script) -> [usize; 2] {
    let words = [0, 8].map(|offset| script.load(RECORD + offset, Width::Bits64));
    // F: the record is free again.
    script.store32(RECORD + 12, 1 << 31);
    script.store32(UNIT + program::FSTS, 0x7f);
    words
}

/// Where the answer to an access will be found, and which loads have the fault record behind it.
struct Asked {
    place: Place,
    record: [usize; 2],
}

/// Where it will be found how far an access came.
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

pub(super) fn step(step: Step) -> Op {
    match step {
        Step::Write32(register, value) => Op::Store(Pa::new(UNIT + register), Width::Bits32, value.into()),
        Step::Write64(register, value) => Op::Store(Pa::new(UNIT + register), Width::Bits64, value),
    }
}
