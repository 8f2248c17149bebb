//! Anything at all, from software and devices: the model never panics, never hangs, and comes to rest.

use model_bus::{
    Clocked, Doorbell, InvalidationDone, Mmio, PageRequest, Request, TranslatedRequest, TranslationRequest,
    Translator, Width,
};
use model_vtd::{Config, Policy};
use portcullis_types::{Access, AccessKind, Iova, Pa, Pasid, SourceId};

use crate::harness::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// Something that means something more often than not.
    fn word(&mut self) -> u64 {
        let places = [ROOT, CONTEXTS, DIRECTORY, PASIDS, QUEUE, REQUESTS, IRT, SS3, SS2, SS1, FS3, FS2, FS1];
        match self.below(5) {
            0 => self.next(),
            1 => self.next() & self.next() & self.next(),
            2 => self.pick(&[1, u64::MAX]) << self.below(64),
            3 => self.pick(&places) | self.below(0x1000),
            _ => self.pick(&places) | 7,
        }
    }

    fn offset(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(0x2000),
            1 => self.pick(&[IVA, IVA + 8, FRCD + 8, FRCD + 24]) + 4 * self.below(2),
            _ => 4 * self.below(0x40),
        }
    }

    /// A descriptor of some type, with a few bits of its own.
    fn descriptor(&mut self) -> [u64; 2] {
        let types = [0x11, 0x21, 0x31, 0x12, 0x22, 0x32, 0x03, 0x04, 0x14, 0x25, 0x65, 0x26, 0x36];
        let types = [&types[..], &[0x07, 0x17, 0x37, 0x208, 0x209]].concat();
        let low = self.pick(&types) | self.below(8) << 16 | self.pick(&[0, 1, 2, 8, 9]) << 32;
        let high = self.pick(&[0, STATUS, 0x1000, 0x3001, 0x1fff_f001, 0x1040]);
        if self.below(16) == 0 { [low ^ self.word(), high] } else { [low, high] }
    }

    fn source(&mut self) -> SourceId {
        SourceId(if self.below(4) == 0 { self.pick(&[9, 0, 0x108, 0xffff_ffff]) } else { 8 })
    }

    fn pasid(&mut self) -> Option<Pasid> {
        let pasid =
            self.pick(&[None, None, None, None, None, Some(0), Some(1), Some(2), Some(3), Some(0xf_ffff)]);
        pasid.and_then(Pasid::new)
    }

    fn address(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.pick(&[0xfee0_0000, 0xfee0_0070, u64::MAX, 1 << 57, 1 << 46, 0x7f_ffff_ffff]),
            2 => self.below(8) << 12 | self.below(0x1000) & !3,
            // What the tables map at first.
            _ => self.pick(&[0x1000, 0x3000]) | self.below(0x1000) & !3,
        }
    }

    fn access(&mut self) -> Access {
        let kind = self.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Execute]);
        Access { kind, privileged: self.flag() }
    }
}

/// What a device does. Answers whether an access was let through.
fn device(machine: &Machine, random: &mut Random) -> bool {
    let (source, pasid, access) = (random.source(), random.pasid(), random.access());
    let (iova, len_bytes) = (Iova::new(random.address()), random.pick(&[0, 4, 4, 64]));
    let mut through = false;
    match random.below(8) {
        0 => {
            let (execute, privileged) = (access.kind == AccessKind::Execute, access.privileged);
            let request =
                TranslationRequest { source, pasid, iova, no_write: random.flag(), execute, privileged };
            let _ = machine.unit.translate(&request);
        }
        1 => {
            let request = TranslatedRequest { source, pasid, at: Pa::new(iova.get()), len_bytes, access };
            let _ = machine.unit.access_translated(&request, &mut |_| Ok(()));
        }
        2 => machine.unit.request_page(&PageRequest {
            source,
            pasid,
            iova,
            read: random.flag(),
            write: random.flag(),
            execute: random.flag(),
            privileged: random.flag(),
            last: random.flag(),
            group: u16::try_from(random.below(0x1_0000)).unwrap(),
        }),
        3 => {
            let tags = u32::try_from(random.next() & random.next() & 0xffff_ffff).unwrap();
            machine.unit.invalidation_done(&InvalidationDone { source, tags });
        }
        4 => {
            let data = u32::try_from(random.pick(&[0, 1, 7, 0x31, 0x1_0000])).unwrap();
            let _ = machine.unit.ring(random.below(0x10_0000), &data.to_le_bytes(), Some(source));
        }
        _ => {
            let request = Request { source, pasid, iova, len_bytes, access };
            let _ = machine.unit.outlook(&request);
            let _ = machine.unit.access(&request, &mut |_| {
                assert!(!through, "let through twice");
                through = true;
                Ok(())
            });
        }
    }
    through
}

/// What software does.
fn software(machine: &Machine, random: &mut Random) {
    match random.below(8) {
        0 | 1 => {
            let width = random.pick(&[Width::Bits32, Width::Bits32, Width::Bits64, Width::Bits16]);
            machine.unit.write(random.offset() & !(width.bytes() - 1), width, random.word());
        }
        2 => drop(
            machine.unit.read(random.offset(), random.pick(&[Width::Bits64, Width::Bits32, Width::Bits8])),
        ),
        3 => {
            let places = [ROOT, CONTEXTS + 128, CONTEXTS + 256, DIRECTORY, PASIDS, PASIDS + 64, PASIDS + 128];
            let places = [&places[..], &[IRT, SS4, SS3, SS2, SS1, FS4, FS3, FS2, FS1]].concat();
            machine.set(random.pick(&places) + 8 * random.below(4), &[random.word()]);
        }
        4 => {
            // As software does that was told of an error.
            machine.write32(0x34, 0x71);
            machine.write32(0xdc, 3);
        }
        // What lasts stays on, but for one.
        5 => machine.write32(0x18, 1 << random.below(32) ^ 0x8680_0000),
        _ => {
            let tail = machine.read64(0x88) & 0xfe0;
            let [low, high] = random.descriptor();
            machine.set(QUEUE + tail, &[low, high, 0, 0]);
            machine.write64(0x88, (tail + 32) % 4096);
        }
    }
}

#[test]
fn the_model_survives_anything() {
    const STEPS: u64 = 4000;
    let hostile = |config: Config| Config { policy: Policy::hostile(), ..config };
    let strange =
        Config { caching_mode: true, protected_memory: true, io_permissions: true, ..Config::default() };
    let old = Config { write_buffers: true, version: (1, 0), drains: false, ..Config::legacy() };
    let configs = [
        (true, hostile(Config::default())),
        (true, hostile(strange)),
        (
            true,
            hostile(Config { version: (8, 0), coherent: false, root_invalidates: true, ..Config::default() }),
        ),
        (false, hostile(Config::default())),
        (false, hostile(old)),
        (false, Config { fault_records: 1, ..plain() }),
    ];
    let mut through = 0;
    for ((scalable, config), seed) in configs.into_iter().zip(1..) {
        let mut random = Random(seed);
        let set_up = || if scalable { Machine::scalable(config) } else { Machine::legacy(config) };
        let mut machine = set_up();
        for _ in 0..STEPS {
            match random.below(5) {
                0 | 1 => software(&machine, &mut random),
                2 => {
                    machine.ram.advance(random.below(0x4_0000));
                    machine.unit.step(0);
                }
                _ => through += u64::from(device(&machine, &mut random)),
            }
            if random.below(30) == 0 {
                machine.notes();
                machine = set_up();
            }
        }
        machine.ram.advance(1 << 40);
        assert!((0..10_000).any(|_| !machine.unit.step(0)), "it never comes to rest");
    }
    assert!(through > 500, "{through} accesses were let through");
}
