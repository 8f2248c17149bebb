//! Anything at all, from software and devices: the model never panics, never hangs, and lets nothing through that its tables do not say.

use model_bus::{Mmio, Stall, Translator, Width};
use model_smmuv2::{Config, Policy};
use portcullis_types::{Access, AccessKind};

use crate::harness::{L1, L2, L3, Machine, PAGE, S2_L1, S2_L2, S2_PAGE};

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

    fn word(&mut self) -> u64 {
        let places = [L1, L2, L3, S2_L1, S2_L2];
        let place = places[usize::try_from(self.below(5)).unwrap()];
        match self.below(5) {
            0 => self.next(),
            1 => self.next() & self.next() & self.next(),
            2 => 1 << self.below(64),
            3 => place | self.below(0x1000),
            _ => place | if self.below(2) == 0 { 3 } else { PAGE | S2_PAGE },
        }
    }

    /// An offset that means something more often than not.
    fn offset(&mut self, machine: &Machine) -> u64 {
        let small = self.below(0x400) * 4;
        match self.below(8) {
            0 => small,
            1 => 0x800 + self.below(4) * 4,
            2 => 0xc00 + self.below(4) * 4,
            3 => 0x1000 + self.below(3) * 0x400 + self.below(4) * 4,
            4 => self.below(machine.smmu.config().size_bytes() + 0x1000),
            5 => machine.at(u8::try_from(self.below(4)).unwrap(), small),
            6 => machine.at(u8::try_from(self.below(4)).unwrap(), 0x600 + self.below(0x80) * 4),
            _ => machine.at(u8::try_from(self.below(4)).unwrap(), self.below(0x20) * 4),
        }
    }
}

#[test]
fn the_model_survives_anything() {
    const STEPS: u64 = 4000;
    let hostile = |config: Config| Config { policy: Policy::hostile(), ..config };
    let configs = [
        hostile(Config { stage2_banks: 1, conflict_detection: false, ..Config::default() }),
        hostile(Config { extended_ids: true, vmid_16_bits: true, match_mask: 0xffff, ..Config::default() }),
        hostile(Config { configuration_faults: true, upstream_faults: true, ..Config::default() }),
        hostile(Config { upstream_bits: 64, hierarchical_disable: true, ..Config::default() }),
        hostile(Config::indexed()),
        hostile(Config::stage1_only()),
        hostile(Config::stage2_only()),
    ];
    let mut through = 0;
    for (config, seed) in configs.into_iter().zip(1..) {
        let mut random = Random(seed);
        let machine = Machine::nested_if_there(config);
        for _ in 0..STEPS {
            let offset = random.offset(&machine);
            match random.below(10) {
                0 | 1 => {
                    let width = if random.below(3) == 0 { Width::Bits64 } else { Width::Bits32 };
                    machine.smmu.write(offset & !(width.bytes() - 1), width, random.word());
                }
                2 => drop(machine.smmu.read(offset & !7, Width::Bits64)),
                3 => {
                    let at = [L1, L2, L3, S2_L1, S2_L2][usize::try_from(random.below(5)).unwrap()];
                    machine.words(at + random.below(8) * 8, &[random.word()]);
                }
                4 => drop(machine.step()),
                5 => drop(machine.smmu.stalled(Stall(random.below(100)))),
                _ => {
                    let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Execute];
                    let kind = kinds[usize::try_from(random.below(3)).unwrap()];
                    let access = Access { kind, privileged: random.below(2) == 0 };
                    let address = if random.below(4) == 0 { random.next() } else { random.below(8) * 0x1000 };
                    let stream = u32::try_from(random.below(8)).unwrap();
                    through += u64::from(matches!(
                        machine.access(stream, address, access),
                        crate::harness::Got::At(_)
                    ));
                }
            }
            if random.below(50) == 0 {
                // Back to something that translates.
                machine.set_up_again();
            }
        }
        machine.clauses();
    }
    assert!(through > 500, "{through} accesses were let through");
}

impl Machine {
    fn nested_if_there(config: Config) -> Self {
        let machine = Self::bare(config);
        machine.set_up_again();
        machine
    }

    fn set_up_again(&self) {
        self.tables();
        self.tables2();
        self.bank2(1, 7);
        self.bank1(0, 0x0003_0107);
        self.bank1(2, 0x0001_f307);
        self.stream(0, 5, 0, 0);
        self.stream(1, 6, 1, 2);
        for bank in 0..3 {
            self.cb(bank, 0x58, 0xffff_ffff);
            self.cb(bank, 0x08, 0);
            self.cb(bank, 0x00, 0x167);
        }
        self.w32(0x00, 0x0020_0406);
    }
}
