//! The same for messages that a unit remaps: table entries, who may use them, and what a device writes.
//!
//! A case is a table for interrupts and messages of three devices. What is compared is whether a message raises its vector on the only CPU, and, of the fault record, the
//! reason, the source and the index. Devices are QEMU's `edu`, whose MSI goes out at once when told; the CPU counts what arrives (`portcullis_qemu::q35`).
//!
//! Not compared: levels, which would have to be ended; logical destinations; modes that a CPU does not come back from; posted interrupts, x2APIC.
//!
//! Spec: VT-d 5.10, 5.1.2.2 "Interrupt Requests in Remappable Format", 5.1.4.1 "Interrupt Remapping Fault Conditions", 9.9 "Interrupt Remapping Table Entry (IRTE) for
//! Remapped Interrupts". Observed: QEMU 11.1, hw/i386/intel_iommu.c, hw/misc/edu.c.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use model_bus::{Dice, Doorbell};
use model_vtd::{Config, Interrupt, Interrupts, Memory, Policy, Vtd};
use portcullis_qemu::q35::{COUNTERS, READY};
use portcullis_qemu::{Arch, Machine, MachineOptions, Qemu, QemuError, Step as Op, Width};
use portcullis_types::trace::Silence;
use portcullis_types::{Pa, SourceId};

use super::ours::{self, tell};
use super::program::{FSTS, GCMD, IQA, IQT, QUEUED, Step};
use super::theirs::{bar, bring_up, record, space, step};
use super::{HOST_BITS, QUEUE, RAM_MIB, STATUS};
use crate::devices::Script;
use crate::draw::{below, dice, pick};
use crate::plain::Plain;
use crate::run::{Failure, Options};
use crate::theirs::newest_for_test;

/// Who sends: bus 0, devices 1 to 3.
const SENDERS: [u16; 3] = [0x08, 0x10, 0x18];
/// The table, of 256 entries, of which the first have something in them.
const TABLE: u64 = 0x0105_0000;
const TABLE_LG2: u64 = 8;
const ENTRIES: u64 = 12;
/// IRTA_REG.
const IRTA: u64 = 0xb8;
/// GCMD_REG: SIRTP, IRE.
const SET_TABLE: u32 = 1 << 24;
const REMAP: u32 = 1 << 25;

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Whose.
    pub sender: u16,
    /// Where it is written.
    pub address: u32,
    /// What.
    pub data: u16,
}

/// A case.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// The table's first entries.
    pub entries: Vec<[u64; 2]>,
    /// What devices send.
    pub messages: Vec<Message>,
}

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Answer {
    /// The vector that it raised on the CPU.
    pub vector: Option<u8>,
    /// Reason, source and index of what was recorded; the index is 0 where the book leaves it open.
    pub record: Option<(u8, u16, u16)>,
}

impl Answer {
    /// Of the two words of a record. Spec: VT-d 5.10, 11.4.7.6 "Fault Recording Registers \[n\]", FI.
    fn of(vector: Option<u8>, [info, word]: [u64; 2]) -> Self {
        let [sid_low, sid_high, _, _, reason, ..] = word.to_le_bytes();
        let has_index = !matches!(reason, 0x20 | 0x25 | 0x29..=0x2b);
        let [.., index_low, index_high] = info.to_le_bytes();
        let index = if has_index { u16::from_le_bytes([index_low, index_high]) } else { 0 };
        let record = (word >> 63 == 1).then_some((reason, u16::from_le_bytes([sid_low, sid_high]), index));
        Self { vector, record }
    }
}

/// Case `number` of the run with this seed.
pub fn case(seed: u64, number: u64) -> Case {
    let mut dice = dice(seed, number);
    let dice = &mut dice;
    let entries = (0..ENTRIES).map(|_| entry(dice)).collect();
    let messages = (0..16).map(|_| message(dice)).collect();
    Case { entries, messages }
}

fn entry(dice: &mut Dice) -> [u64; 2] {
    let vector = 0x40 + below(dice, 0x90);
    let owner = u64::from(pick(dice, &SENDERS));
    // P, V; the only CPU has APIC 0.
    let mut low = 1 | vector << 16;
    // SID, SVT: its owner alone.
    let mut high = owner | 1 << 18;
    match dice.up_to(23) {
        0 | 1 => low &= !1,
        // A CPU that there is not.
        2 => low |= 1 << 40,
        // Reserved bits of either word.
        3 => low |= 1 << pick(dice, &[12, 13, 14, 24, 31]),
        4 => high |= 1 << (20 + below(dice, 44)),
        // SQ: some bits of the function number do not matter.
        5 => high = (high ^ 1 << below(dice, 3)) | (1 + below(dice, 3)) << 16,
        // SVT: anybody; buses; reserved.
        6 => high &= !(3 << 18),
        7 => high = 2 << 18 | pick(dice, &[0x0000, 0x0001, 0x0102, 0x0100]),
        8 => high |= 3 << 18,
        // DLM: lowest priority. RH.
        9 => low |= 1 << 5,
        10 => low |= 1 << 3,
        _ => {}
    }
    // FPD, AVAIL.
    [low | u64::from(dice.one_in(10)) << 1 | below(dice, 16) << 8, high]
}

fn message(dice: &mut Dice) -> Message {
    let handle = match dice.up_to(11) {
        0 => (1 << TABLE_LG2) + below(dice, 4),
        1 => 0x8000 + below(dice, 4),
        2 => ENTRIES + below(dice, 4),
        _ => below(dice, ENTRIES),
    };
    let (handle, sub) = (u32::try_from(handle).unwrap_or(0), dice.one_in(4));
    // Handle, SHV, the format.
    let address = 0xfee0_0010 | (handle & 0x7fff) << 5 | handle >> 15 << 2 | u32::from(sub) << 3;
    let data = u16::try_from(below(dice, 4)).unwrap_or(0);
    let sender = pick(dice, &SENDERS);
    if dice.one_in(16) {
        // In compatibility format: to the CPU, by its vector.
        return Message { sender, address: 0xfee0_0000, data: data + 0xe0 };
    }
    Message { sender, address, data }
}

/// The queue: the interrupt entry cache forgets everything, and a wait says so.
const FORGET: [u64; 4] = [0x04, 0, 1 << 32 | 0x25, STATUS];

fn enable() -> [Step; 9] {
    [
        Step::Write32(GCMD, 0),
        Step::Write32(FSTS, 0x7f),
        Step::Write64(IQA, QUEUE),
        Step::Write64(IQT, 0),
        Step::Write32(GCMD, QUEUED),
        // S: two to the power of this and one more.
        Step::Write64(IRTA, TABLE | (TABLE_LG2 - 1)),
        Step::Write32(GCMD, QUEUED | SET_TABLE),
        Step::Write64(IQT, 32),
        Step::Write32(GCMD, QUEUED | REMAP),
    ]
}

fn words(case: &Case) -> impl Iterator<Item = (u64, u64)> {
    let table = (TABLE..).step_by(8).zip(case.entries.iter().flatten().copied());
    table.chain((QUEUE..).step_by(8).zip(FORGET))
}

/// CPUs that remember what they were told.
#[derive(Default)]
struct Ears(Mutex<Vec<Interrupt>>);

impl Interrupts for Ears {
    fn deliver(&self, interrupt: &Interrupt) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(*interrupt);
    }
}

fn by_model(case: &Case) -> Vec<Answer> {
    let (memory, ears) = (Arc::new(Plain::new(RAM_MIB)), Arc::new(Ears::default()));
    words(case).for_each(|(at, word)| memory.put(at, &word.to_le_bytes()));
    let both = Memory { snooped: memory.clone(), unsnooped: memory };
    let config = Config {
        host_bits: HOST_BITS,
        guest_bits: HOST_BITS,
        fault_records: 1,
        wide_apic_ids: false,
        policy: Policy::eager(),
        ..Config::default()
    };
    let unit = Vtd::new(config, both, ears.clone(), 1, Arc::new(Silence));
    enable().into_iter().for_each(|step| tell(&unit, step));
    let send = |message: &Message| {
        let offset = u64::from(message.address & 0xf_ffff);
        let data = u32::from(message.data).to_le_bytes();
        let _ = unit.ring(offset, &data, Some(SourceId(message.sender.into())));
        let mut told = ears.0.lock().unwrap_or_else(PoisonError::into_inner);
        let vector = told.drain(..).find(|one| one.destination == 0).map(|one| one.vector);
        Answer::of(vector, ours::record(&unit))
    };
    case.messages.iter().map(send).collect()
}

/// QEMU's machine.
pub struct Theirs {
    machine: Machine,
    /// Where each sender's MSI capability is.
    capabilities: BTreeMap<u16, u64>,
    /// What the CPU has counted of each vector.
    counted: Vec<u32>,
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

    fn start_with(qemu: &Qemu) -> Result<Self, QemuError> {
        let options = MachineOptions::q35("kernel-irqchip=split")
            .counting_interrupts()
            .ram_mib(RAM_MIB)
            .device("intel-iommu,intremap=on,eim=off,aw-bits=48");
        let options = SENDERS
            .into_iter()
            .fold(options, |options, sender| options.device(&format!("edu,addr={:02x}.0", sender >> 3)));
        let machine = qemu.start(&options)?;
        bring_up(&machine, SENDERS)?;
        let mut theirs = Self { machine, capabilities: BTreeMap::new(), counted: Vec::new() };
        for sender in SENDERS {
            let space = space(sender);
            let mut at = theirs.load(space + 0x34, Width::Bits8)?;
            // MSI has the id 5. Spec: PCI 3.0, 6.8.1 "MSI Capability Structure".
            while at != 0 && theirs.load(space + at, Width::Bits8)? != 5 {
                at = theirs.load(space + at + 1, Width::Bits8)?;
            }
            theirs.capabilities.insert(sender, space + at);
            // Enable; one message.
            theirs.machine.store(Pa::new(space + at + 2), Width::Bits16, 1)?;
        }
        let ready = (0..5000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            theirs.load(READY, Width::Bits32).is_ok_and(|word| word == 1)
        });
        assert!(ready, "QEMU's CPU does not count interrupts");
        theirs.counted = theirs.counts();
        Ok(theirs)
    }

    fn load(&self, at: u64, width: Width) -> Result<u64, QemuError> {
        self.machine.load(Pa::new(at), width)
    }

    fn counts(&self) -> Vec<u32> {
        let mut bytes = [0; 1024];
        self.machine.ram().read(Pa::new(COUNTERS), &mut bytes);
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
    }

    fn run(&mut self, case: &Case, wanted: &[Answer]) -> Result<Vec<Answer>, QemuError> {
        let ram = self.machine.ram().clone();
        words(case).for_each(|(at, word)| ram.store64(Pa::new(at), word));
        self.machine.batch(&enable().map(step))?;
        case.messages.iter().zip(wanted).map(|(message, wanted)| self.send(message, wanted)).collect()
    }

    /// Has a device send, and waits for what is expected; what comes besides is seen as well, now or by the next.
    fn send(&mut self, message: &Message, wanted: &Answer) -> Result<Answer, QemuError> {
        /// `edu`: what is written raises its interrupt, or takes it back.
        const RAISE: u64 = 0x60;
        const LOWER: u64 = 0x64;
        let (capability, bar) = (self.capabilities[&message.sender], bar(message.sender));
        let mut script = Script::default();
        script.store32(capability + 4, message.address.into());
        script.store32(capability + 8, 0);
        script.ops.push(Op::Store(Pa::new(capability + 12), Width::Bits16, message.data.into()));
        script.store32(bar + RAISE, 1);
        script.store32(bar + LOWER, 1);
        let record = record(&mut script);
        script.play(&self.machine)?;
        let record = record.map(|load| script.values[load]);
        let mut now = self.counts();
        // What was recorded does not arrive; what was not does, or an entry silences it.
        let patience = match (record[1] >> 63, wanted.vector) {
            (1, _) => 0,
            (_, Some(_)) => 2000,
            _ => 100,
        };
        for _ in 0..patience {
            if now != self.counted {
                break;
            }
            thread::sleep(Duration::from_micros(200));
            now = self.counts();
        }
        let raised = (0u8..=255).zip(now.iter().zip(&self.counted)).find(|(_, (now, before))| now != before);
        let vector = raised.map(|(vector, _)| vector);
        self.counted = now;
        Ok(Answer::of(vector, record))
    }
}

/// A known difference.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What QEMU does, and the clause that says otherwise.
    pub what: &'static str,
    /// Whether that is what is seen.
    pub is: fn(&Case, &Message, &Answer, &Answer) -> bool,
}

/// Every known difference. Observed: QEMU 11.1.
pub const ROWS: &[Row] = &[
    Row {
        what: "messages in compatibility format pass, whatever CFIS says; VT-d 5.10, 5.1.4: blocked where it is clear",
        is: |_, message, ours, theirs| {
            let passes = theirs.vector.map(u16::from) == Some(message.data) && theirs.record.is_none();
            message.address & 0x10 == 0 && reason(ours) == Some(0x25) && passes
        },
    },
    Row {
        what: "reserved bits of an entry are told before a requester that may not use it; VT-d 5.10, 5.1.4: the requester is verified first",
        is: |_, _, ours, theirs| {
            (reason(ours), reason(theirs), theirs.vector) == (Some(0x26), Some(0x24), None)
        },
    },
    Row {
        what: "the buses that may use an entry go from SID's lower half to its upper; VT-d 5.10, 9.9, SID: the upper is Startbus",
        is: |case, message, ours, theirs| {
            let Some([low, high]) = entry_of(case, message) else { return false };
            let [end, start, ..] = high.to_le_bytes();
            // All senders are on bus 0.
            let turned = high >> 18 & 3 == 2 && (start == 0) != (end == 0);
            let swapped = |one: &Answer, other: &Answer| {
                reason(one) == Some(0x26) || low >> 1 & 1 == 1 && one == &Answer::default() && one != other
            };
            turned && (swapped(ours, theirs) || swapped(theirs, ours))
        },
    },
    Row {
        what: "a reserved SVT is told as a requester that may not use the entry; VT-d 5.10, 9.9, SVT; 5.1.4.1, Table 15, 24h",
        is: |case, message, ours, theirs| {
            let reserved = entry_of(case, message).is_some_and(|[_, high]| high >> 18 & 3 == 3);
            reserved && (reason(ours), reason(theirs), theirs.vector) == (Some(0x24), Some(0x26), None)
        },
    },
];

/// The entry that a message names, if it is one of those with something in them. Spec: VT-d 5.10, 5.1.3 "Interrupt Remapping Table".
fn entry_of(case: &Case, message: &Message) -> Option<[u64; 2]> {
    let handle = message.address >> 5 & 0x7fff | (message.address >> 2 & 1) << 15;
    let sub = if message.address >> 3 & 1 == 1 { message.data } else { 0 };
    case.entries.get(usize::try_from(handle + u32::from(sub)).ok()?).copied()
}

fn reason(answer: &Answer) -> Option<u8> {
    answer.record.map(|record| record.0)
}

/// The counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Messages that raised the same vector on both.
    pub arrived: u64,
    /// Messages that raised nothing on either, by what was recorded.
    pub refused: BTreeMap<Option<u8>, u64>,
    /// Messages of which QEMU's answer is a row's.
    pub known: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Messages of which both say the same.
    pub fn agreed(&self) -> u64 {
        self.arrived + self.refused.values().sum::<u64>()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "messages that agree    {:>9}", self.agreed())?;
        writeln!(f, "  arrive               {:>9}", self.arrived)?;
        for (reason, count) in &self.refused {
            let reason = reason.map_or("silence".to_owned(), |reason| format!("{reason:#04x}"));
            writeln!(f, "  {reason:<21}{count:>9}")?;
        }
        writeln!(f, "explained by a row")?;
        self.known.iter().try_for_each(|(what, count)| writeln!(f, "  {count:>8} {what}"))
    }
}

/// Runs cases until so many messages agree.
///
/// # Errors
///
/// The first [`Failure`].
pub fn run(options: Options) -> Result<Tally, Failure> {
    let failed = |number| move |error| Failure::Qemu { number, error };
    let qemu = Qemu::newest(Arch::X86_64).map_err(failed(0))?;
    let mut theirs = Theirs::start_with(&qemu).map_err(failed(0))?;
    let mut tally = Tally::default();
    for number in 0.. {
        if tally.agreed() >= options.accesses {
            break;
        }
        let case = case(options.seed, number);
        let ours = by_model(&case);
        let answers = theirs.run(&case, &ours).map_err(failed(number))?;
        for ((message, ours), theirs) in case.messages.iter().zip(&ours).zip(&answers) {
            if ours == theirs {
                match ours.vector {
                    Some(_) => tally.arrived += 1,
                    None => *tally.refused.entry(ours.record.map(|record| record.0)).or_default() += 1,
                }
            } else if let Some(row) = ROWS.iter().find(|row| (row.is)(&case, message, ours, theirs)) {
                *tally.known.entry(row.what).or_default() += 1;
            } else {
                let place = format!("seed {:#x}, case {number}", options.seed);
                return Err(Failure::Difference(format!(
                    "{place}: {message:x?}\nour model: {ours:x?}\nQEMU:      {theirs:x?}\n{:x?}",
                    case.entries
                )));
            }
        }
    }
    Ok(tally)
}
