//! The model on a bus, brought to where a scene begins.

use std::sync::Arc;

use model_bus::{Bus, BusOptions, Mmio, Outcome, Request, Stores, Translator, Width};
use model_smmuv3::{Config, Policy, Smmu};
use portcullis_checks::golden::scenes::{
    Answer, Ask, COMMAND_QUEUE, COMMANDS, Does, EVENT_QUEUE, Part, RAM, Record, SETUP, STREAM, STREAM_TABLE,
    Scene,
};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, AccessKind, Iova, Pa, PaRange, Pasid, SourceId};

/// How often a register is read before it is held to be stuck.
const PATIENCE: usize = 1000;

fn config(part: Part, policy: Policy) -> Config {
    let usual = Config { substream_id_bits: 8, policy, ..Config::default() };
    match part {
        Part::Usual => usual,
        Part::Hypervisor => Config { hyp: true, ..usual },
        Part::Narrow => Config { asid_16_bits: false, vmid_16_bits: false, ..usual },
        Part::Aborting => Config { terminate_aborts: true, ..usual },
        Part::Wide => Config { output_bits: 52, input_52_bits: true, large_descriptors: true, ..usual },
    }
}

fn access(does: Does) -> Access {
    let (kind, privileged) = match does {
        Does::Reads => (AccessKind::Read, false),
        Does::Writes => (AccessKind::Write, false),
        Does::Fetches => (AccessKind::Execute, false),
        Does::ReadsPrivileged => (AccessKind::Read, true),
        Does::FetchesPrivileged => (AccessKind::Execute, true),
    };
    Access { kind, privileged }
}

/// An SMMU set up for a scene, with the scene's memory.
pub(crate) struct Stage {
    bus: Arc<Bus>,
    pub(crate) smmu: Smmu,
    events_seen: u64,
}

impl Stage {
    pub(crate) fn set(scene: &Scene, policy: Policy) -> Self {
        Self::with(scene, config(scene.part, policy))
    }

    /// The same with another SMMU.
    pub(crate) fn with(scene: &Scene, config: Config) -> Self {
        let ram = PaRange::from_ends(Pa::new(RAM.0), Pa::new(RAM.1)).expect("RAM is a range");
        let options = BusOptions { heap: Vec::new(), stores: Stores::Direct, ..BusOptions::new(ram, 1) };
        let bus = Bus::new(&options);
        let smmu = Smmu::new(config, bus.clone(), 1, Arc::new(Silence));
        let stage = Self { bus, smmu, events_seen: 0 };
        for &(at, word) in scene.memory {
            stage.store(at, word);
        }
        for (at, word) in (STREAM_TABLE + u64::from(STREAM) * 64..).step_by(8).zip(scene.ste) {
            stage.store(at, word);
        }
        for (at, word) in (COMMAND_QUEUE..).step_by(8).zip(COMMANDS.as_flattened()) {
            stage.store(at, *word);
        }
        stage.program(scene.registers);
        stage
    }

    pub(crate) fn store(&self, at: u64, word: u64) {
        self.bus.cpu().ram().write(Pa::new(at), &word.to_le_bytes()).expect("a scene stays in RAM");
    }

    /// The word at `at`.
    pub(crate) fn load(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.bus.cpu().ram().read(Pa::new(at), &mut bytes).expect("a scene stays in RAM");
        u64::from_le_bytes(bytes)
    }

    /// Puts a command at `index` of the queue, and leaves it at that.
    pub(crate) fn overwrite_command(&self, index: u64, command: [u64; 2]) {
        for (at, word) in (COMMAND_QUEUE + index * 16..).step_by(8).zip(command) {
            self.store(at, word);
        }
    }

    /// Hands over commands, fewer than fit before the queue wraps. Answers PROD.
    pub(crate) fn submit(&self, commands: &[[u64; 2]]) -> u64 {
        let first = self.smmu.read(0x98, Width::Bits32);
        let after =
            (first..).zip(commands).map(|(index, command)| self.overwrite_command(index, *command)).count();
        let prod = first + after as u64;
        assert!(prod < 16, "the queue is not to wrap");
        self.smmu.write(0x98, Width::Bits32, prod);
        prod
    }

    /// Hands over commands and waits until they are consumed.
    pub(crate) fn command(&self, commands: &[[u64; 2]]) {
        let prod = self.submit(commands);
        self.await_register(0x9C, prod);
    }

    fn program(&self, instead: &[(u64, u64)]) {
        for &(offset, value) in SETUP {
            let value = instead.iter().find(|(other, _)| *other == offset).map_or(value, |(_, value)| *value);
            let width = if matches!(offset, 0x80 | 0x90 | 0xA0) { Width::Bits64 } else { Width::Bits32 };
            self.smmu.write(offset, width, value);
            match offset {
                0x20 => self.await_register(0x24, value),
                0x98 => self.await_register(0x9C, value),
                _ => {}
            }
        }
    }

    pub(crate) fn await_register(&self, offset: u64, value: u64) {
        let came = (0..PATIENCE).any(|_| self.smmu.read(offset, Width::Bits32) == value);
        assert!(came, "register {offset:#x} never became {value:#x}");
    }

    /// Asks, and answers what the device saw and where its bytes went.
    pub(crate) fn ask(&self, ask: &Ask) -> (Outcome, Option<u64>) {
        let request = Request {
            source: SourceId(ask.stream),
            pasid: ask.substream.map(|substream| Pasid::new(substream).expect("20 bits")),
            iova: Iova::new(ask.address),
            len_bytes: 4,
            access: access(ask.does),
        };
        let mut went = None;
        let outcome = self.smmu.access(&request, &mut |passage| {
            went = Some(passage.pa.get());
            Ok(())
        });
        (outcome, went)
    }

    /// The record that came since the last look; none if none came.
    pub(crate) fn new_record(&mut self) -> Option<[u64; 4]> {
        let prod = (0..PATIENCE).map(|_| self.smmu.read(0x1_00A8, Width::Bits32)).last().unwrap_or(0);
        assert!(prod <= self.events_seen + 1, "more than one record: PROD is {prod:#x}");
        if prod == self.events_seen {
            return None;
        }
        let mut bytes = [0; 32];
        let at = EVENT_QUEUE + self.events_seen * 32;
        self.bus.cpu().ram().read(Pa::new(at), &mut bytes).expect("the event queue is in RAM");
        self.events_seen = prod;
        let word = |index: usize| {
            u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
        };
        Some(core::array::from_fn(word))
    }

    fn expect_record(&mut self, record: &Record, what: &str) {
        let Some(words) = self.new_record() else { panic!("{what}: nothing was recorded") };
        for (index, ((word, wanted), known)) in words.iter().zip(record.words).zip(record.known).enumerate() {
            assert_eq!(word & known, wanted & known, "{what}: word {index} is {word:#018x}");
        }
    }

    pub(crate) fn play(&mut self, ask: &Ask, what: &str) {
        let (outcome, went) = self.ask(ask);
        match &ask.answer {
            Answer::Passes(to) => {
                assert_eq!(outcome, Outcome::Done, "{what}");
                assert_eq!(went, Some(*to), "{what}: went to {went:#x?}");
                assert_eq!(self.new_record(), None, "{what}");
                return;
            }
            Answer::Aborts => {
                assert_eq!(outcome, Outcome::Aborted, "{what}");
                assert_eq!(self.new_record(), None, "{what}");
            }
            Answer::Faults(record) => {
                assert_eq!(outcome, Outcome::Aborted, "{what}");
                self.expect_record(record, what);
            }
            Answer::FaultsUnseen(record) => {
                assert_eq!(outcome, Outcome::Ignored, "{what}");
                self.expect_record(record, what);
            }
        }
        assert_eq!(went, None, "{what}: refused, and yet it went to {went:#x?}");
    }
}
