//! Anything at all, from software and devices: the model never panics, never hangs, and never lets an access out of its sight.

use model_bus::{InvalidationDone, Mmio, PageRequest, Stall, TranslationRequest, Translator, Width};
use model_smmuv3::{Broadcast, BroadcastRegime, BroadcastScope, Config, HardwareUpdate, Policy, StallModel};
use portcullis_types::{Access, AccessKind, Iova, Pasid, SourceId};

use crate::endpoint::{Manner, PAGES, plug, translated};
use crate::harness::{
    CD, CD_39, COMMANDS, EVENTS, L1, L2, L3, Machine, PAGE, S2_L1, S2_L2, S2_PAGE, STE_NESTED, STE_S1,
    STE_S2, STREAMS,
};

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

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// A word with few or many bits, or one that leads somewhere.
    fn word(&mut self) -> u64 {
        let places = [CD, L1, L2, L3, S2_L1, S2_L2, STREAMS, COMMANDS];
        match self.below(5) {
            0 => self.next(),
            1 => self.next() & self.next() & self.next(),
            2 => 1 << self.below(64),
            3 => self.pick(&places) | self.below(0x1000),
            _ => self.pick(&places) | 3,
        }
    }
}

const BLOCK: u64 = PAGE & !2;
const S2_BLOCK: u64 = S2_PAGE & !2;

const REGISTERS: [u64; 31] = [
    0x00, 0x20, 0x24, 0x28, 0x2c, 0x44, 0x50, 0x60, 0x64, 0x68, 0x70, 0x80, 0x84, 0x88, 0x90, 0x98, 0x9c,
    0xc0, 0xc8, 0xd0, 0xd8, 0xdc, 0x1_00c8, 0x1_00cc, 0xa0, 0xa8, 0xb0, 0xb8, 0x1_00a8, 0x1_00ac, 0xff0,
];

fn configs() -> [Config; 9] {
    let with = |config: Config, policy| Config { policy, substream_id_bits: 20, hyp: true, ..config };
    let paged = |config: Config| Config { ats: true, pri: true, page_queue_lg2: 3, ..config };
    let shared = |config: Config, stall| Config {
        stall,
        most_stalls: 3,
        hardware_update: HardwareUpdate::AccessAndDirty,
        broadcast: true,
        ..config
    };
    [
        with(shared(paged(Config::default()), StallModel::Configurable), Policy::hostile()),
        with(shared(Config::default(), StallModel::Forced), Policy::stale()),
        with(Config::default(), Policy::hostile()),
        with(paged(Config::default()), Policy::hostile()),
        with(paged(Config::default()), Policy::eager()),
        with(Config::small(), Policy::hostile()),
        with(Config::no_range_invalidation(), Policy::hostile()),
        with(paged(Config::stage2_only()), Policy::stale()),
        with(Config { small_tables: true, ..Config::large() }, Policy::hostile()),
    ]
}

/// A sound descriptor, that uses what the part has.
fn descriptor(machine: &Machine, random: &mut Random) -> [u64; 8] {
    let mut words = CD_39;
    if machine.smmu.config().broadcast {
        // S, HA, HD, write-back tables. Where stalls are forced, S must be there.
        let forced = u64::from(machine.smmu.config().stall == StallModel::Forced);
        words[0] |= random.next() & 0x1c00_0000_0000 | 0x500 | forced << 44;
    }
    words
}

fn act(machine: &Machine, random: &mut Random) {
    let stream = random.pick(&[1, 1, 2, 3, 4, 69]);
    match random.below(36) {
        0 if random.below(4) == 0 => {
            let width = random.pick(&[Width::Bits32, Width::Bits32, Width::Bits64, Width::Bits16]);
            let (offset, value) = (random.pick(&REGISTERS), random.word());
            machine.smmu.write(offset, width, value);
        }
        1 => {
            machine
                .smmu
                .read(random.pick(&REGISTERS), random.pick(&[Width::Bits32, Width::Bits64, Width::Bits8]));
        }
        2 | 3 => {
            let mut words = random.pick(&[STE_S1, STE_S2, STE_NESTED]);
            words[1] |= random.below(4) << 28 & random.next();
            if random.below(3) == 0 {
                words[usize::try_from(random.below(4)).unwrap()] ^= random.word();
            }
            machine.words(STREAMS + stream * 64, &words);
        }
        4 => {
            let mut words = descriptor(machine, random);
            if random.below(3) == 0 {
                words[usize::try_from(random.below(4)).unwrap()] ^= random.word();
            }
            machine.words(CD + random.below(4) * 64, &words);
        }
        5..=7 => {
            let table = random.pick(&[L1, L2, L3, S2_L1, S2_L2]);
            // DBM, and neither AF nor the right to write.
            let young = PAGE & !0x400 | 0x8_0000_0000_0080;
            let low = random.pick(&[PAGE, S2_PAGE, BLOCK, S2_BLOCK, 3, young])
                ^ (random.below(2) * (random.word() & 0xfff));
            let word = random.word() & !0xfff;
            let word = if random.below(4) == 0 { word | low } else { word & 0x3f_f000 | low };
            machine.words(table + random.below(8) * 8, &[word]);
        }
        8 | 9 => {
            let (slot, op) = (
                machine.r32(0x98),
                random.pick(&[
                    0x40, 0x41, 0x44, 0x45, 1, 2, 3, 4, 5, 6, 0x10, 0x11, 0x12, 0x13, 0x22, 0x28, 0x2a, 0x30,
                    0x46, 0x46,
                ]),
            );
            let (low, high) = ((random.word() & !0xff) | op, random.word());
            let (low, high) =
                if random.below(8) == 0 { (low, high) } else { (op | 1 << 32, high & 0x7f_ffff_ffff_f001) };
            machine.put(slot.into(), low, high);
            machine.w32(0x98, slot.wrapping_add(1) & 0x1f);
        }
        10 => {
            // As a driver does: a CMD_SYNC in place of the bad command.
            machine.put((machine.r32(0x9c) & 0xf_ffff).into(), 0x46, 0);
            machine.w32(0x64, machine.r32(0x60));
        }
        14 => {
            let slot = machine.r32(0x98);
            machine.put(slot.into(), 4, 0x1f);
            machine.w32(0x98, slot.wrapping_add(1) & 0x1f);
        }
        11 => machine.w32(0x1_00ac, machine.r32(0x1_00a8)),
        12 => machine.smmu_step(),
        15 => {
            let tags = u32::try_from(random.next() >> 32).unwrap();
            machine.smmu.invalidation_done(&InvalidationDone { source: SourceId(1), tags });
            machine.ram.memory.advance(random.below(400_000));
        }
        16 => machine.w32(0x1_00cc, machine.r32(0x1_00c8)),
        21..=23 => sharing(machine, random, stream),
        17..=20 => page_service(machine, random, u32::try_from(stream).unwrap()),
        _ => {
            let kind = random.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Execute]);
            let address = random.pick(&[0, 0x1000, 0x7f_ffff_f000, 0xffff_ffff_ffff_f000, u64::MAX])
                ^ (random.word() & 0xf_ffff);
            let pasid = (random.below(3) == 0).then(|| u32::try_from(random.below(8)).unwrap());
            let access = Access { kind, privileged: random.below(2) == 0 };
            let _got = machine.access(u32::try_from(stream).unwrap(), pasid, address, access);
        }
    }
}

/// Answers for what is held back, and what CPUs say.
fn sharing(machine: &Machine, random: &mut Random, stream: u64) {
    let bits = random.next();
    match random.below(3) {
        0 => {
            let slot = machine.r32(0x98);
            // Mostly for one that there may be.
            let stream = if bits & 0xf0 == 0 { stream } else { 1 + (bits >> 8 & 1) };
            machine.put(slot.into(), 0x44 | bits & 0x3000 | stream << 32, random.below(3));
            machine.w32(0x98, slot.wrapping_add(1) & 0x1f);
        }
        1 => {
            let _state = machine.smmu.stalled(Stall(random.below(200)));
        }
        _ => {
            let first = random.pick(&[0, 0x1000, 0x7f_ffff_f000, u64::MAX]) ^ (random.word() & 0xf_ffff);
            let (last, last_level_only) = (first ^ random.below(0x2_0000), bits & 1 == 1);
            let asid = (bits & 2 != 0).then_some(1);
            let scope = random.pick(&[
                BroadcastScope::All,
                BroadcastScope::BothStages,
                BroadcastScope::EveryVmid,
                BroadcastScope::Asid { asid: 1 },
                BroadcastScope::Address { asid, first, last, last_level_only },
                BroadcastScope::Stage2Address { first, last, last_level_only },
            ]);
            let regime = random.pick(&[
                BroadcastRegime::El1 { vmid: 0 },
                BroadcastRegime::El1 { vmid: 1 },
                BroadcastRegime::El2,
                BroadcastRegime::El2Host,
            ]);
            machine.smmu.broadcast(&Broadcast { regime, scope });
            if bits & 4 != 0 {
                machine.smmu.broadcast_sync();
            }
        }
    }
}

/// Something that only a device with an ATC does.
fn page_service(machine: &Machine, random: &mut Random, stream: u32) {
    let source = SourceId(stream);
    let pasid = (random.below(3) == 0).then(|| u32::try_from(random.below(8)).unwrap()).and_then(Pasid::new);
    let bits = random.next();
    let bit = |n: u32| bits >> n & 1 == 1;
    let address = random.pick(&[0, 0x1000, 0x7f_ffff_f000, u64::MAX]) ^ (random.word() & 0xf_ffff);
    let iova = Iova::new(address);
    match random.below(3) {
        0 => {
            let (no_write, execute, privileged) = (bit(0), bit(1), bit(2));
            let request = TranslationRequest { source, pasid, iova, no_write, execute, privileged };
            let _answer = machine.smmu.translate(&request);
        }
        1 => {
            let _got = translated(machine, stream, address, Access::WRITE);
        }
        _ => machine.smmu.request_page(&PageRequest {
            source,
            pasid,
            privileged: bit(0),
            execute: bit(1),
            iova,
            group: u16::try_from(bits >> 48).unwrap(),
            last: bit(2),
            read: bit(3),
            write: bit(4),
        }),
    }
}

/// Puts the registers back to something sensible, as a driver would that starts again.
fn repair(machine: &Machine) {
    machine.w32(0x20, 0);
    machine.settle();
    machine.w32(0x64, machine.r32(0x60));
    machine.w64(0x80, STREAMS);
    machine.w32(0x88, 6);
    machine.w64(0x90, COMMANDS | 4);
    machine.w64(0xa0, EVENTS | 3);
    machine.w64(0xc0, PAGES | 3);
    machine.w32(0x9c, machine.r32(0x98));
    machine.w32(0x1_00ac, machine.r32(0x1_00a8));
    machine.w32(0x20, 0b1_1111);
    machine.settle();
}

#[test]
fn nothing_that_software_or_devices_do_stops_the_model() {
    let (mut reached, mut paged, mut shared) = (0, 0, [0; 4]);
    for (seed, config) in (0..36).zip(configs().iter().cycle()) {
        let mut random = Random(seed);
        let machine = Machine::new(config.clone());
        let _late = plug(&machine, 1, Manner::Late);
        let _prompt = plug(&machine, 2, Manner::Prompt);
        repair(&machine);
        machine.tables();
        machine.tables2();
        machine.words(CD, &descriptor(&machine, &mut random));
        for _ in 0..3000 {
            act(&machine, &mut random);
            if random.below(200) == 0 {
                // For a while, some memory does not answer.
                let place = random.pick(&[L1, L2, L3, S2_L1, S2_L2, STREAMS, CD, COMMANDS, EVENTS]);
                machine.hole(place..=place + random.below(256));
                for _ in 0..8 {
                    let stream = u32::try_from(random.below(5)).unwrap();
                    let _got = machine.access(stream, None, random.below(0x80_0000), Access::READ);
                    machine.smmu_step();
                }
                machine.fill_holes();
                repair(&machine);
            }
        }
        machine.settle();
        let counters = machine.smmu.counters();
        let deep = counters.granted > 0 && counters.commands_total() > 50 && counters.events.len() > 4;
        reached += u64::from(deep);
        let given = counters.translations_given > 0 && counters.translated_accesses > 0;
        let told = counters.atc_invalidations > 0 && counters.page_requests > counters.page_requests_lost;
        paged += u64::from(given && told);
        let counts = [counters.stalls, counters.resumed, counters.access_flag_updates, counters.broadcasts];
        shared = core::array::from_fn(|i| shared[i] + counts[i]);
    }
    assert!(reached > 14, "the sequences must reach into the model: {reached}");
    assert!(paged > 6, "and into its page services: {paged}");
    assert!(shared.iter().all(|&count| count > 3), "and into what it shares with CPUs: {shared:?}");
}
