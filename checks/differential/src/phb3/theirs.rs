//! QEMU's `powernv8` takes a case.
//!
//! The chip's side is set up as firmware would (`portcullis_qemu::powernv8`). Its CPU runs in a loop, and its clock takes a microsecond
//! for each instruction, so that the timers of `edu` cost little.
//!
//! Observed: QEMU 11.1, hw/pci-host/pnv_phb3.c; skiboot include/phb3-regs.h.

use std::collections::BTreeMap;

use portcullis_qemu::powernv8::{self, REGISTERS, WINDOW, WINDOW_BYTES, WINDOW_PCI};
use portcullis_qemu::{Arch, Machine, MachineOptions, Qemu, QemuError, Step as Op, Width};
use portcullis_types::Pa;

use super::ours::{PHB3_CONFIG, program};
use super::{
    Access, Case, DATA, DATA_END, NOWHERE, RAM_MIB, READ_BACK, READERS, RTT, Verdict, WRITERS, is_data,
    pattern_bytes,
};
use crate::answer::UNKNOWN;
use crate::devices::{Script, WRITE_FAILED};
use crate::theirs::{fill, newest_for_test};

/// Where what a reader has read comes to lie.
fn read_back_place(rid: u16) -> u64 {
    READ_BACK + (u64::from(rid & 0xff) << 12)
}

/// QEMU's machine.
pub struct Theirs {
    machine: Machine,
}

/// The number that a big-endian CPU means by a little-endian register.
fn swapped(value: u64) -> u64 {
    (value & 0xffff_ffff).swap_bytes() >> 32
}

/// Where device `slot` of bus 1 has its registers, for the CPU.
fn bar(requester: u16) -> u64 {
    WINDOW + (u64::from(requester >> 3 & 0x1f) << 20)
}

impl Theirs {
    /// A machine for a test; none where there is no QEMU that is new enough, which is said on standard error.
    ///
    /// # Panics
    ///
    /// If there is one, and it does not start.
    pub fn for_test() -> Option<Self> {
        let qemu = newest_for_test(Arch::Ppc64)?;
        Some(Self::start_with(&qemu).unwrap_or_else(|error| panic!("{error}")))
    }

    /// Starts a machine.
    ///
    /// # Errors
    ///
    /// Here and below: there is no QEMU, or it does not do what it is told.
    pub fn start() -> Result<Self, QemuError> {
        Self::start_with(&Qemu::newest(Arch::Ppc64)?)
    }

    fn start_with(qemu: &Qemu) -> Result<Self, QemuError> {
        let mut options = MachineOptions::powernv8("").ram_mib(RAM_MIB);
        options = options.argument("-icount").argument("shift=10,sleep=off");
        let all = WRITERS.map(|rid| (rid, "iommu-testdev", "")).into_iter();
        for (rid, device, mask) in all.chain(READERS.map(|rid| (rid, "edu", ",dma_mask=0xffffffffffffffff")))
        {
            options = options.device(&format!("{device},bus=pcie.0,addr={:02x}.0{mask}", rid >> 3 & 0x1f));
        }
        let theirs = Self { machine: qemu.start(&options)? };
        theirs.bring_up()?;
        theirs.fill_data();
        Ok(theirs)
    }

    /// What firmware does.
    fn bring_up(&self) -> Result<(), QemuError> {
        powernv8::bring_up(&self.machine)?;
        let own = |register: u64| REGISTERS + register;
        let stores = [
            // M32: where it begins for the CPU, how large it is, where for PCI; and that it is on.
            (own(0x190), WINDOW),
            (own(0x198), !(WINDOW_BYTES - 1)),
            (own(0x1a0), WINDOW_PCI),
            (own(PHB3_CONFIG), 1 << 47),
        ];
        let steps: Vec<Op> =
            stores.into_iter().map(|(at, value)| Op::Store(Pa::new(at), Width::Bits64, value)).collect();
        self.machine.batch(&steps)?;
        // The root port: bus 1 below it, and its window.
        self.configure(0, 0x18, 0x0001_0100)?;
        self.configure(0, 0x20, 0x8ff0_8000)?;
        self.configure(0, 4, 6)?;
        for rid in WRITERS.into_iter().chain(READERS) {
            self.configure(rid, 0x10, WINDOW_PCI + (bar(rid) - WINDOW))?;
            self.configure(rid, 4, 6)?;
        }
        Ok(())
    }

    fn configure(&self, rid: u16, register: u64, value: u64) -> Result<(), QemuError> {
        let address = 1 << 63 | u64::from(rid) << 44 | register << 32;
        self.machine.store(Pa::new(REGISTERS + 0x140), Width::Bits64, address)?;
        self.machine.store(Pa::new(REGISTERS + 0x130), Width::Bits32, swapped(value))
    }

    fn fill_data(&self) {
        fill(&self.machine, DATA..DATA_END);
    }

    /// Runs a case. What a device may not reach here is not tried, and has no answer; others have where they went.
    pub fn run(&mut self, case: &Case, verdicts: &[Verdict]) -> Result<Vec<Option<Option<u64>>>, QemuError> {
        let ram = self.machine.ram().clone();
        case.words.iter().for_each(|(&at, word)| ram.write(Pa::new(at), &word.to_be_bytes()));
        case.pes
            .iter()
            .for_each(|(&rid, pe)| ram.write(Pa::new(RTT + 2 * u64::from(rid)), &pe.to_be_bytes()));
        let register = |(register, value)| Op::Store(Pa::new(REGISTERS + register), Width::Bits64, value);
        self.machine.batch(&program(case).into_iter().map(register).collect::<Vec<_>>())?;
        let mut answers = Vec::new();
        let mut used = BTreeMap::new();
        for (access, verdict) in case.accesses.iter().zip(verdicts) {
            answers.push(match (verdict.out_of_bounds, access.write) {
                (true, _) => None,
                (false, true) => Some(self.write(access, verdict)?),
                // Filled in below, from where it comes to lie.
                (false, false) => Some(Some(self.read(access, &mut used)?)),
            });
        }
        self.read_back(&used)?;
        for ((access, verdict), answer) in case.accesses.iter().zip(verdicts).zip(&mut answers) {
            if let (false, Some(Some(place))) = (access.write, answer.as_mut()) {
                *answer = Some(self.was_read(*place, access.len.into(), verdict));
            }
        }
        case.words.keys().for_each(|&at| ram.write(Pa::new(at), &[0; 8]));
        Ok(answers)
    }

    fn write(&self, access: &Access, verdict: &Verdict) -> Result<Option<u64>, QemuError> {
        let bar = bar(access.requester);
        let expected = verdict.reached.unwrap_or(NOWHERE);
        let store = |register: u64, value| Op::Store(Pa::new(bar + register), Width::Bits32, swapped(value));
        let load = |register: u64| Op::Load(Pa::new(bar + register), Width::Bits32);
        let mut steps = Vec::new();
        if let Some(at) = verdict.reached {
            steps.push(Op::Write(Pa::new(at), pattern_bytes(at, access.len.into())));
        }
        steps.extend([
            store(4, access.address),
            store(8, access.address >> 32),
            store(0xc, access.len.into()),
        ]);
        steps.extend([
            store(0x1c, expected),
            store(0x20, expected >> 32),
            store(0x14, 1),
            load(0),
            load(0x10),
        ]);
        let values = self.machine.batch(&steps)?;
        let reached = match (swapped(values[1]), verdict.reached) {
            (WRITE_FAILED, _) => None,
            (0, Some(at)) => Some(at),
            _ => Some(UNKNOWN),
        };
        match reached {
            Some(UNKNOWN) => self.fill_data(),
            Some(at) => self.machine.ram().write(Pa::new(at), &pattern_bytes(at, access.len.into())),
            None => {}
        }
        Ok(reached)
    }

    /// Reads into the next bytes of the device's buffer. Answers where they will come to lie.
    fn read(&self, access: &Access, used: &mut BTreeMap<u16, u64>) -> Result<u64, QemuError> {
        let offset = used.entry(access.requester).or_insert(0);
        let (place, len) = (read_back_place(access.requester) + *offset, u64::from(access.len));
        Script::default().read(&self.machine, bar(access.requester), access.address, *offset, len)?;
        *offset += len;
        Ok(place)
    }

    /// Has the readers write what they have read, as requesters of PE 255, whose second window lets everything through.
    fn read_back(&self, used: &BTreeMap<u16, u64>) -> Result<(), QemuError> {
        for (&rid, &bytes) in used {
            self.see_as(rid, 0xff)?;
            Script::default().read_back(&self.machine, bar(rid), 1 << 59 | read_back_place(rid), bytes)?;
        }
        Ok(())
    }

    /// Where a read came from.
    fn was_read(&self, place: u64, len: u64, verdict: &Verdict) -> Option<u64> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.machine.ram().read(Pa::new(place), &mut bytes);
        match verdict.reached.filter(|&at| is_data(at, len)) {
            Some(at) if bytes == pattern_bytes(at, len) => Some(at),
            _ => bytes.iter().any(|&byte| byte != 0).then_some(UNKNOWN),
        }
    }

    /// Has the bridge take a requester for one of another PE.
    fn see_as(&self, rid: u16, pe: u16) -> Result<(), QemuError> {
        self.machine.ram().write(Pa::new(RTT + 2 * u64::from(rid)), &pe.to_be_bytes());
        self.machine.store(Pa::new(REGISTERS + super::ours::RTC_INVALIDATE), Width::Bits64, super::ours::TOP)
    }
}
