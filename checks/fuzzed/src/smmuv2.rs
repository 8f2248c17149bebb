//! Registers, memory and accesses of the SMMUv2 model, by anybody, on parts of several kinds.
//!
//! What must hold:
//!
//! - it comes to rest, whatever it was told;
//! - an access is let through at most once, and is done then; what it reaches has no more bits than the part's output, and it does not cross a page;
//! - what does nothing changes nothing: looking at what an access would meet leaves counters and caches as they are;
//! - a synchronization that ended stays ended until another is asked for;
//! - out of reset, whatever was before, nothing is cached, no access is held back and no line is asserted;
//! - an input is one run: the same twice, counter by counter.
//!
//! Spec: SMMUv2 D.c, chapters 10 "SMMU Global Register Space 0" to 16 "SMMU Stage 1 Translation Context Bank Address Space".
//! Not here: whether translations are right (the model's own tests).

use std::sync::Arc;

use model_bus::{Clocked, Fabric, Mmio, Request, SparseMemory, Translator, Width};
use model_smmuv2::{Config, Counters, Policy, Smmu};
use portcullis::types::trace::Silence;
use portcullis::types::{Access, AccessKind, Iova, SourceId};

use crate::bytes::Bytes;
use crate::unit::{self, Stalls};

const TABLES: u64 = 0x10_0000;
const TABLES_2: u64 = 0x20_0000;

/// A stage 1 page: nG, AF, inner shareable, AP=0b01. Spec: Armv8-A, D8.3 "Translation table descriptor formats".
const PAGE: u64 = 0xf43;
/// A stage 2 page: AF, inner shareable, S2AP=0b11, MemAttr write-back.
const S2_PAGE: u64 = 0x7ff;

const S_CR0: u64 = 0;
const S_GFSR: u64 = 0x48;
const TLBGSYNC: u64 = 0x70;
const TLBGSTATUS: u64 = 0x74;
const SMR: u64 = 0x800;
const S2CR: u64 = 0xc00;
/// From the second page on.
const CBA2R: u64 = 0x800;

const SCTLR: u64 = 0;
const RESUME: u64 = 0x8;
const TCR2: u64 = 0x10;
const TTBR0: u64 = 0x20;
const TCR: u64 = 0x30;
const FSR: u64 = 0x58;
const TLBSYNC: u64 = 0x7f0;
const TLBSTATUS: u64 = 0x7f4;

/// Registers of a bank that do something: those above, MAIR, PAR, FAR, FSYNR0, IPAFAR, and the TLB operations.
const BANK: [u64; 22] = [
    0x0, 0x4, 0x8, 0x10, 0x20, 0x28, 0x30, 0x34, 0x38, 0x3c, 0x50, 0x58, 0x60, 0x68, 0x70, 0x600, 0x608,
    0x610, 0x618, 0x620, 0x630, 0x7f0,
];
/// The same of the global space: CR0, CR2, ACR, GFAR, GFSR, GFSRRESTORE, TLB operations, the first groups.
const GLOBAL: [u64; 16] =
    [0x0, 0x8, 0x10, 0x40, 0x48, 0x4c, 0x50, 0x58, 0x64, 0x68, 0x6c, 0x70, 0x800, 0x804, 0xc00, 0xc04];

pub(crate) fn run(input: &[u8]) {
    assert_eq!(play(input), play(input), "one input, two runs");
}

fn play(input: &[u8]) -> Counters {
    let mut bytes = Bytes::new(input);
    let machine = Machine::new(&mut bytes);
    while !bytes.is_empty() {
        machine.act(&mut bytes);
    }
    machine.ram.fill_holes();
    machine.settle();
    let counters = machine.smmu.counters();
    machine.check_reset();
    counters
}

fn config(bytes: &mut Bytes<'_>) -> Config {
    let policy = bytes.pick(&[Policy::eager(), Policy::stale(), Policy::hostile()]);
    let flags = bytes.u8();
    let bit = |n: u8| flags >> n & 1 == 1;
    let base = match bytes.below(4) {
        0 => Config::indexed(),
        1 => Config::stage1_only(),
        2 => Config::stage2_only(),
        _ => Config::default(),
    };
    Config {
        policy,
        large_pages: bit(0),
        stall: bit(1),
        configuration_faults: bit(2),
        upstream_faults: bit(3),
        vmid_16_bits: bit(4),
        aarch32: bit(5),
        conflict_detection: bit(6),
        stage2_banks: if bit(7) && base.stage2 && base.stage1 { 1 } else { 0 },
        ..base
    }
}

struct Machine {
    ram: Arc<SparseMemory>,
    smmu: Smmu,
    stalls: Stalls,
}

impl Machine {
    /// As a driver leaves it: stream 1 goes to a bank of stage 2, stream 2 to one of stage 1, stream 3 past all, where the part has that.
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let ram = Arc::new(SparseMemory::new(48));
        let seed = bytes.u8().into();
        let config = config(bytes);
        assert_eq!(config.problem(), None);
        let smmu = Smmu::new(config, ram.clone() as Arc<dyn Fabric>, seed, Arc::new(Silence));
        let machine = Self { ram, smmu, stalls: Stalls::default() };
        machine.ram.put(TABLES, &[TABLES + 0x1003]);
        machine.ram.put(TABLES + 0x1000, &[TABLES + 0x2003]);
        machine.ram.put(TABLES + 0x2000, &[TABLES + 0x3003, 0x20_0000 | (PAGE & !2)]);
        machine.ram.put(TABLES + 0x3008, &[0x30_0000 | PAGE]);
        machine.ram.put(TABLES_2, &[TABLES_2 + 0x2003]);
        machine.ram.put(TABLES_2 + 0x2000, &[S2_PAGE & !2, 0x20_0000 | (S2_PAGE & !2), TABLES_2 + 0x3003]);
        machine.repair();
        machine
    }

    fn bank(&self, index: u64) -> u64 {
        let config = self.smmu.config();
        config.banks_at() + index * config.page_bytes()
    }

    /// Puts the registers to something sensible, as a driver would that starts again.
    fn repair(&self) {
        let second_page = self.smmu.config().page_bytes();
        for group in 0..4u64 {
            // Type of S2CR: 0b00 to the bank, 0b01 past all.
            self.write(SMR + 4 * group, 0x8000_0000 | group);
            self.write(S2CR + 4 * group, [0x2_0000, 0, 1, 0x1_0000][group as usize]);
        }
        for bank in 0..2u64 {
            let at = self.bank(bank);
            // Type of CBAR: 0b00 stage 2, 0b01 stage 1 with stage 2 bypassed. VA64.
            self.write(second_page + 4 * bank, bank << 16 | 1);
            self.write(second_page + CBA2R + 4 * bank, 1);
            // T0SZ 24 (16), start at level 1 (0), inner shareable, write-back; 48 bits.
            self.write(at + TCR, [0x0005_3558, 0x0080_3510][bank as usize]);
            self.write(at + TCR2, 5);
            self.smmu.write(at + TTBR0, Width::Bits64, [TABLES_2, TABLES][bank as usize]);
            self.write(at + FSR, self.read(at + FSR));
            // M, CFRE, CFIE; CFCFG for the second.
            self.write(at + SCTLR, 0x61 | bank << 7);
        }
        self.write(S_GFSR, self.read(S_GFSR));
        // GFRE, GFIE, USFCFG, SMCFCFG; CLIENTPD is clear.
        self.write(S_CR0, 0x0020_0406);
        self.settle();
    }

    fn read(&self, offset: u64) -> u64 {
        self.smmu.read(offset, Width::Bits32)
    }

    fn write(&self, offset: u64, value: u64) {
        self.smmu.write(offset, Width::Bits32, value);
    }

    fn settle(&self) {
        unit::settle(&self.smmu, &self.ram);
    }

    /// Something that means something, with a few bits changed.
    fn word(bytes: &mut Bytes<'_>) -> u64 {
        let places = [TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES_2, TABLES_2 + 0x2000, 0x8000_0000, 0];
        match bytes.below(4) {
            0 => bytes.word(),
            1 => bytes.pick(&places) | 3,
            _ => bytes.pick(&places) | u64::from(bytes.u16()),
        }
    }

    fn register(&self, bytes: &mut Bytes<'_>) -> u64 {
        match bytes.below(4) {
            0 => (u64::from(bytes.u32()) % self.smmu.config().size_bytes()) & !3,
            1 => bytes.pick(&GLOBAL),
            2 => self.smmu.config().page_bytes() + bytes.pick(&[0, 4, CBA2R, CBA2R + 4]),
            _ => self.bank(bytes.below(3).into()) + bytes.pick(&BANK),
        }
    }

    fn act(&self, bytes: &mut Bytes<'_>) {
        match bytes.below(16) {
            0..=2 => {
                let width = bytes.pick(&[Width::Bits32, Width::Bits32, Width::Bits64, Width::Bits16]);
                self.smmu.write(self.register(bytes), width, Self::word(bytes));
            }
            3 => drop(self.smmu.read(self.register(bytes), bytes.pick(&[Width::Bits32, Width::Bits64]))),
            4 | 5 => {
                let table = bytes.pick(&[0, 0x1000, 0x2000, 0x3000]) + bytes.pick(&[TABLES, TABLES_2]);
                let leaf = bytes.pick(&[PAGE, S2_PAGE, PAGE & !2, S2_PAGE & !2, 3, PAGE & !0x400]);
                self.ram.put(table + 8 * u64::from(bytes.below(8)), &[Self::word(bytes) & !0xfff | leaf]);
            }
            6 => self.synchronize(S_CR0, TLBGSYNC, TLBGSTATUS),
            7 => self.synchronize(self.bank(bytes.below(2).into()), TLBSYNC, TLBSTATUS),
            8 => {
                // As a driver does: what was seen is cleared, and what is held back goes on, or does not.
                let at = self.bank(bytes.below(2).into());
                self.write(at + FSR, self.read(at + FSR));
                self.write(at + RESUME, bytes.below(2).into());
            }
            9 if bytes.one_in(4) => unit::hole(&self.ram, Self::word(bytes), bytes),
            9 if bytes.one_in(3) => self.repair(),
            9 => drop(self.smmu.step(self.ram.now_ns())),
            10 => self.stalls.ask(&self.smmu, bytes),
            _ => self.access(bytes),
        }
    }

    /// Asks for a synchronization and sees it end.
    fn synchronize(&self, at: u64, sync: u64, status: u64) {
        self.write(at + sync, 0);
        self.settle();
        for _ in 0..2 {
            assert_eq!(self.read(at + status) & 1, 0, "it has not ended, or has begun again");
        }
    }

    fn access(&self, bytes: &mut Bytes<'_>) {
        let kind = bytes.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Execute]);
        let base = bytes.pick(&[0, 0x1000, 0x20_0000, 0x40_0000, 0x7f_ffff_f000, 0xffff_ffff_ffff_f000]);
        let (source, iova) = (SourceId(bytes.below(5).into()), Iova::new(base ^ u64::from(bytes.u16())));
        let room = 0x1000 - iova.get() % 0x1000;
        let len_bytes = u32::try_from(room.min(u64::from(bytes.u8()) + 1)).unwrap_or(1);
        let access = Access { kind, privileged: bytes.flag() };
        let request = Request { source, pasid: None, iova, len_bytes, access };
        let seen = || (self.smmu.counters(), self.smmu.cached_translations());
        let _ = unit::look(seen, || self.smmu.outlook(&request));
        let (outcome, went) = unit::watch(|commit| self.smmu.access(&request, commit));
        if let Some(pa) = went {
            unit::check_reach(pa, len_bytes, self.smmu.config().output_bits);
        }
        self.stalls.note(outcome);
    }

    fn check_reset(&self) {
        self.smmu.reset();
        self.settle();
        assert_eq!(self.smmu.cached_translations(), 0);
        assert_eq!(self.smmu.asserted_lines(), []);
        self.stalls.check_over(&self.smmu);
    }
}
