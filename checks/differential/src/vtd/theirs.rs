//! QEMU's `q35` takes a case.
//!
//! Devices are `iommu-testdev`, which write at once when told, and look for what they wrote at the physical address that our model says.
//!
//! Observed: QEMU 11.1, docs/specs/iommu-testdev.rst, hw/i386/intel_iommu.c.

use portcullis_qemu::q35::{self, ECAM, ECAM_BYTES};
use portcullis_qemu::{Arch, Machine, MachineOptions, Qemu, QemuError, Step as Op, Width};
use portcullis_types::Pa;

use super::ours::Answer;
use super::program::{self, Step};
use super::{Access, Case, DATA, DATA_END, RAM_MIB, Verdict, WRITERS, is_data};
use crate::answer::UNKNOWN;
use crate::layout::pattern_bytes;
use crate::theirs::{fill, newest_for_test};

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
    pub fn for_test() -> Option<Self> {
        let qemu = newest_for_test(Arch::X86_64)?;
        Some(Self::start_with(&qemu).unwrap_or_else(|error| panic!("{error}")))
    }

    /// Starts a machine of the newest QEMU.
    ///
    /// # Errors
    ///
    /// There is no QEMU, or it does not do what it is told.
    pub fn start() -> Result<Self, QemuError> {
        Self::start_with(&Qemu::newest(Arch::X86_64)?)
    }

    fn start_with(qemu: &Qemu) -> Result<Self, QemuError> {
        // The unit first: what comes before it is not behind it.
        let options = MachineOptions::q35("")
            .ram_mib(RAM_MIB)
            .device("intel-iommu,intremap=off,aw-bits=48,scalable-mode=on");
        let options = WRITERS.into_iter().fold(options, |options, requester| {
            options.device(&format!("iommu-testdev,addr={:02x}.0", requester >> 3))
        });
        let theirs = Self { machine: qemu.start(&options)? };
        q35::bring_up(&theirs.machine)?;
        for requester in WRITERS {
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
        let mut ops: Vec<Op> = program::enable(case).into_iter().map(step).collect();
        let mut flushes = 1;
        let mut made = 0;
        for (access, verdict) in case.accesses.iter().zip(verdicts) {
            if access.flush {
                flushes += 1;
                ops.push(step(program::flush(case, flushes)));
            }
            if !verdict.out_of_bounds {
                made += 1;
                write(access, verdict, &mut ops);
            }
        }
        ops.push(step(program::disable()));
        let values = self.machine.batch(&ops)?;
        debug_assert_eq!(values.len(), made * LOADS, "each write has its loads");
        let mut each = values.chunks_exact(LOADS);
        let mut astray = false;
        let answers = case.accesses.iter().zip(verdicts).map(|(access, verdict)| {
            if verdict.out_of_bounds {
                return None;
            }
            let values = each.next()?;
            let reached = match (values[1], verdict.answer.reached) {
                (WRITE_FAILED, _) => None,
                (0, Some(at)) => Some(at),
                _ => Some(UNKNOWN),
            };
            astray |= reached == Some(UNKNOWN);
            if let Some(at) = reached.filter(|&at| at != UNKNOWN && is_data(at, access.len.into())) {
                ram.write(Pa::new(at), &pattern_bytes(at, access.len.into()));
            }
            let record = (values[3] >> 63 == 1).then_some([values[2], values[3]]);
            Some(Answer { reached, record })
        });
        let answers = answers.collect();
        if astray {
            self.fill_data();
        }
        case.words.keys().for_each(|&at| ram.store64(Pa::new(at), 0));
        Ok(answers)
    }
}

/// What is loaded for each write: the trigger, the result, and the fault record.
const LOADS: usize = 4;

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
    let record = [0, 8].map(|offset| Op::Load(Pa::new(RECORD + offset), Width::Bits64));
    ops.extend(record);
    // F: the record is free again.
    ops.push(Op::Store(Pa::new(RECORD + 12), Width::Bits32, 1 << 31));
    ops.push(Op::Store(Pa::new(UNIT + program::FSTS), Width::Bits32, 0x7f));
}
