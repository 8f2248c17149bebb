//! Our unit takes a case.

use std::sync::Arc;

use model_bus::{Clocked, Mmio, Outcome, Request, Translator, Width};
use model_vtd::{Config, Depths, Interrupt, Interrupts, Memory, Policy, Scalable, Vtd};
use portcullis_types::trace::Silence;
use portcullis_types::{Access as Kind, Iova, SourceId};

use super::program::{self, Step};
use super::{Access, Case, HOST_BITS, RAM_MIB, Stage, is_data, is_nowhere};
use crate::plain::Plain;

/// Where our unit has its fault record.
const RECORD: u64 = 0x1000;
/// GSTS_REG.
const STATUS: u64 = 0x1c;

/// What became of an access: where it went, and the two words of the fault record, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Answer {
    /// Where its bytes went or came from, if anything answers there.
    pub reached: Option<u64>,
    /// What was recorded.
    pub record: Option<[u64; 2]>,
}

impl Answer {
    /// The fault reason.
    pub fn reason(&self) -> Option<u8> {
        self.record.map(|[_, word]| word.to_le_bytes()[4])
    }
}

/// What the model says of an access.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// What became of it.
    pub answer: Answer,
    /// It would reach what no device may reach here.
    pub out_of_bounds: bool,
}

/// Our unit, and memory.
pub struct Ours {
    memory: Arc<Plain>,
    unit: Vtd,
}

struct Nobody;

impl Interrupts for Nobody {
    fn deliver(&self, _: &Interrupt) {}
}

/// The part that QEMU's `q35` has: scalable mode with one of both stages, no device TLBs, one fault record.
pub fn config(stage: Stage) -> Config {
    let scalable = Scalable {
        first_stage: stage == Stage::First,
        // QEMU's with a first stage has no second, so that AW would have to be 0; and it is by AW that it says which addresses are canonical (`ROWS`). With a second
        // stage, of which nothing is drawn, AW may be what makes the rest comparable.
        second_stage: true,
        nested: false,
        // QEMU's says that it does not snoop when it walks, and sets the flags of first-stage entries all the same: so does ours when it snoops.
        coherent_walks: stage == Stage::First,
        second_stage_dirty: false,
        page_requests: false,
        pasid_bits: None,
        rid_priv: false,
        rid_pasid: false,
        ..Scalable::full()
    };
    Config {
        host_bits: HOST_BITS,
        guest_bits: HOST_BITS,
        depths: Depths { three: true, four: true, five: false },
        fault_records: 1,
        device_tlbs: false,
        abort_dma: false,
        snoop_control: false,
        scalable: Some(scalable),
        policy: Policy::eager(),
        ..Config::default()
    }
}

impl Ours {
    /// A unit out of reset.
    pub fn new(stage: Stage) -> Self {
        let memory = Arc::new(Plain::new(RAM_MIB));
        let both = Memory { snooped: memory.clone(), unsnooped: memory.clone() };
        let unit = Vtd::new(config(stage), both, Arc::new(Nobody), 1, Arc::new(Silence));
        Self { memory, unit }
    }

    /// Runs a case.
    pub fn run(&mut self, case: &Case) -> Vec<Verdict> {
        let put = |at: u64, word: u64| self.memory.put(at, &word.to_le_bytes());
        case.words.iter().for_each(|(&at, &word)| put(at, word));
        program::queue(case).for_each(|(at, word)| put(at, word));
        program::enable(case).into_iter().for_each(|step| tell(&self.unit, step));
        let mut flushes = 1;
        let verdicts = case.accesses.iter().map(|access| {
            if access.flush {
                flushes += 1;
                tell(&self.unit, program::flush(case, flushes));
            }
            self.access(access)
        });
        let verdicts = verdicts.collect();
        tell(&self.unit, program::disable());
        case.words.keys().for_each(|&at| put(at, 0));
        let _ = self.unit.take_unpredictable();
        verdicts
    }

    fn access(&self, access: &Access) -> Verdict {
        let request = Request {
            source: SourceId(access.requester.into()),
            pasid: None,
            iova: Iova::new(access.address),
            len_bytes: access.len,
            access: if access.write { Kind::WRITE } else { Kind::READ },
        };
        let mut granted = None;
        let outcome = self.unit.access(&request, &mut |passage| {
            granted = Some(passage.pa.get());
            Ok(())
        });
        let granted = granted.filter(|_| outcome == Outcome::Done);
        let len = access.len.into();
        let reached = granted.filter(|&at| is_data(at, len));
        let out_of_bounds = granted.is_some_and(|at| !is_data(at, len) && !is_nowhere(at, len));
        let record = Some(record(&self.unit)).filter(|words| words[1] >> 63 == 1);
        Verdict { answer: Answer { reached, record }, out_of_bounds }
    }
}

/// Has a unit take a step, and lets it come to an end.
pub(super) fn tell(unit: &Vtd, step: Step) {
    match step {
        Step::Write32(register, value) => unit.write(register, Width::Bits32, value.into()),
        Step::Write64(register, value) => unit.write(register, Width::Bits64, value),
    }
    for _ in 0..4 {
        unit.step(0);
        unit.read(STATUS, Width::Bits32);
    }
}

/// Takes a unit's fault record: its two words, whether they say something or not.
pub(super) fn record(unit: &Vtd) -> [u64; 2] {
    let words = [0, 8].map(|offset| unit.read(RECORD + offset, Width::Bits64));
    unit.write(RECORD + 12, Width::Bits32, 1 << 31);
    words
}
