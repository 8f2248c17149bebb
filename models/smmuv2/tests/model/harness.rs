//! A machine with nothing but memory and an SMMU, with pages of registers of 4 KiB and context banks from 0x2_0000 on.
//!
//! | where | what |
//! |---|---|
//! | 0x10_0000 | stage 1 tables: level 1, then 0x1000 each for levels 2 and 3 |
//! | 0x20_0000 | stage 2 tables: two concatenated of level 1, then level 2, level 3 |
//!
//! Stream 5 goes, by group 0, to bank 0; bank 1 does stage 2 where it is wanted.

use core::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use model_bus::{
    Clocked, Fabric, Mmio, Outcome, Request, SparseMemory, Stall, StallState, Translator, Width,
};
use model_smmuv2::{Config, InterruptLines, Line, Policy, Smmu};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, AccessKind, Iova, SourceId};

pub(crate) const L1: u64 = 0x10_0000;
pub(crate) const L2: u64 = 0x10_1000;
pub(crate) const L3: u64 = 0x10_2000;
pub(crate) const S2_L1: u64 = 0x20_0000;
pub(crate) const S2_L2: u64 = 0x20_2000;
pub(crate) const S2_L3: u64 = 0x20_3000;

/// A stage 1 page: nG, AF, inner shareable, AP=0b01 (all may read and write).
pub(crate) const PAGE: u64 = 0xf43;
/// A stage 2 page: AF, inner shareable, S2AP=0b11, MemAttr write-back.
pub(crate) const S2_PAGE: u64 = 0x7ff;

/// EPD1, inner shareable, write-back, T0SZ 25: level 1 is the first, 4 KiB pages.
pub(crate) const TCR_39: u32 = 0x0080_3519;
/// SEP 7, AS, PASize 48 bits.
pub(crate) const TCR2: u32 = 0x0003_8015;
/// PASize 48 bits, SL0 1, T0SZ 24: two concatenated tables of level 1.
pub(crate) const TCR_S2: u32 = 0x0005_3558;
/// CFIE, CFRE, AFE, TRE, M.
pub(crate) const SCTLR_ON: u32 = 0x67;
/// Stage 1 with stage 2 bypass, inner and outer write-back, non-shareable, VMID 7.
pub(crate) const CBAR_S1: u32 = 0x0001_f307;
/// Stage 1, then stage 2 by bank 1, VMID 7.
pub(crate) const CBAR_NESTED: u32 = 0x0003_0107;
/// Stage 2, VMID 7.
pub(crate) const CBAR_S2: u32 = 0x0000_0007;

/// Registers of a context bank.
pub(crate) const SCTLR: u64 = 0x00;
pub(crate) const RESUME: u64 = 0x08;
pub(crate) const TTBR0: u64 = 0x20;
pub(crate) const TCR: u64 = 0x30;
pub(crate) const FSR: u64 = 0x58;
pub(crate) const FAR: u64 = 0x60;
pub(crate) const FSYNR0: u64 = 0x68;
pub(crate) const IPAFAR: u64 = 0x70;
pub(crate) const TLBIVA: u64 = 0x600;
pub(crate) const TLBIASID: u64 = 0x610;
pub(crate) const TLBIALL: u64 = 0x618;
pub(crate) const TLBIVAL: u64 = 0x620;
pub(crate) const TLBIIPAS2: u64 = 0x630;
pub(crate) const TLBSYNC: u64 = 0x7f0;
pub(crate) const TLBSTATUS: u64 = 0x7f4;

/// What interrupt lines did.
#[derive(Default)]
pub(crate) struct Seen(pub(crate) Mutex<Vec<(Line, bool)>>);

impl Seen {
    pub(crate) fn take(&self) -> Vec<(Line, bool)> {
        core::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl InterruptLines for Seen {
    fn set(&self, line: Line, asserted: bool) {
        self.0.lock().unwrap().push((line, asserted));
    }
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    At(u64),
    Abort,
    Ignored,
    Held(Stall),
}

pub(crate) struct Machine {
    pub(crate) ram: Arc<SparseMemory>,
    pub(crate) smmu: Arc<Smmu>,
    pub(crate) lines: Arc<Seen>,
}

/// The default part, with a policy without dice.
pub(crate) fn plain() -> Config {
    Config { policy: Policy::eager(), ..Config::default() }
}

/// The default part, which is slow to forget.
pub(crate) fn lazy() -> Config {
    Config {
        policy: Policy { unknown_values: false, audit_one_in: 0, ..Policy::stale() },
        ..Config::default()
    }
}

impl Machine {
    /// Out of reset.
    pub(crate) fn bare(config: Config) -> Self {
        let ram = Arc::new(SparseMemory::new(48));
        let smmu = Smmu::new(config, Arc::clone(&ram) as Arc<dyn Fabric>, 1, Arc::new(Silence));
        let lines = Arc::new(Seen::default());
        smmu.connect_lines(lines.clone());
        Self { ram, smmu: Arc::new(smmu), lines }
    }

    /// All groups and banks made harmless, TLBs invalidated, clients let in: what has no entry faults and is aborted.
    pub(crate) fn new(config: Config) -> Self {
        let machine = Self::bare(config);
        let config = machine.smmu.config().clone();
        machine.w32(0x48, 0xffff_ffff); // GFSR
        for group in 0..u64::from(config.stream_groups) {
            if config.stream_matching {
                machine.w32(0x800 + group * 4, 0);
            }
            machine.w32(0xc00 + group * 4, 0x2_0000);
        }
        for bank in 0..config.banks {
            machine.cb(bank, SCTLR, 0);
            machine.cb(bank, FSR, 0xffff_ffff);
        }
        machine.w32(0x68, 0); // TLBIALLNSNH
        machine.w32(0x6c, 0); // TLBIALLH
        machine.gsync();
        machine.w32(0x00, 0x0020_0406); // SMCFCFG, USFCFG, GFIE, GFRE
        machine.assert_clean();
        machine
    }

    /// Stream 5 through bank 0 with stage 1, ASID 3: page 0x1000 to 0x30_0000.
    pub(crate) fn stage1(config: Config) -> Self {
        let machine = Self::new(config);
        machine.tables();
        machine.bank1(0, CBAR_S1);
        machine.stream(0, 5, 0, 0);
        machine
    }

    /// Stream 5 through bank 1 with stage 2.
    pub(crate) fn stage2(config: Config) -> Self {
        let machine = Self::new(config);
        machine.tables2();
        machine.bank2(1, CBAR_S2);
        machine.stream(0, 5, 0, 1);
        machine
    }

    /// Stream 5 through bank 0 with stage 1, and bank 1 with stage 2.
    pub(crate) fn nested(config: Config) -> Self {
        let machine = Self::new(config);
        machine.tables();
        machine.tables2();
        machine.bank2(1, CBAR_S2);
        machine.bank1(0, CBAR_NESTED);
        machine.stream(0, 5, 0, 0);
        machine
    }

    /// Sets a bank up for stage 1 in AArch64, ASID 3, 39 bits, tables at `L1`.
    pub(crate) fn bank1(&self, bank: u8, cbar: u32) {
        self.w32(0x1000 + u64::from(bank) * 4, cbar);
        self.w32(0x1800 + u64::from(bank) * 4, 1);
        self.cb(bank, TCR, TCR_39);
        self.cb(bank, 0x10, TCR2);
        self.cb64(bank, TTBR0, 3 << 48 | L1);
        self.cb(bank, 0x38, 0xff);
        self.cb(bank, SCTLR, SCTLR_ON);
    }

    /// Sets a bank up for stage 2 in AArch64, 40 bits, tables at `S2_L1`.
    pub(crate) fn bank2(&self, bank: u8, cbar: u32) {
        self.w32(0x1000 + u64::from(bank) * 4, cbar);
        self.w32(0x1800 + u64::from(bank) * 4, 1);
        self.cb(bank, TCR, TCR_S2);
        self.cb64(bank, TTBR0, S2_L1);
        self.cb(bank, SCTLR, SCTLR_ON);
    }

    /// Group n takes a stream, but for the bits of a mask, to a bank.
    pub(crate) fn stream(&self, group: u64, id: u32, mask: u32, bank: u32) {
        self.w32(0xc00 + group * 4, bank);
        self.w32(0x800 + group * 4, 1 << 31 | mask << 16 | id);
    }

    /// The stage 1 tables of the header's table, with one page mapped.
    pub(crate) fn tables(&self) {
        self.words(L1, &[L2 | 3]);
        self.words(L2, &[L3 | 3]);
        self.words(L3 + 8, &[0x30_0000 | PAGE]);
    }

    /// The stage 2 tables, with intermediate 0 to 4 MiB (two blocks) mapped 1:1, and page 0x40_1000 to 0x50_0000.
    pub(crate) fn tables2(&self) {
        self.words(S2_L1, &[S2_L2 | 3]);
        self.words(S2_L2, &[S2_PAGE & !2, 0x20_0000 | (S2_PAGE & !2), S2_L3 | 3]);
        self.words(S2_L3 + 8, &[0x50_0000 | S2_PAGE]);
    }

    pub(crate) fn words(&self, at: u64, words: &[u64]) {
        self.ram.put(at, words);
    }

    pub(crate) fn hole(&self, range: RangeInclusive<u64>) {
        self.ram.hole(range);
    }

    pub(crate) fn r32(&self, offset: u64) -> u32 {
        u32::try_from(self.smmu.read(offset, Width::Bits32)).unwrap()
    }

    pub(crate) fn w32(&self, offset: u64, value: u32) {
        self.smmu.write(offset, Width::Bits32, value.into());
    }

    pub(crate) fn r64(&self, offset: u64) -> u64 {
        self.smmu.read(offset, Width::Bits64)
    }

    pub(crate) fn w64(&self, offset: u64, value: u64) {
        self.smmu.write(offset, Width::Bits64, value);
    }

    pub(crate) fn at(&self, bank: u8, offset: u64) -> u64 {
        self.smmu.config().banks_at() + u64::from(bank) * self.smmu.config().page_bytes() + offset
    }

    /// Writes a register of a bank.
    pub(crate) fn cb(&self, bank: u8, offset: u64, value: u32) {
        self.w32(self.at(bank, offset), value);
    }

    pub(crate) fn cb64(&self, bank: u8, offset: u64, value: u64) {
        self.w64(self.at(bank, offset), value);
    }

    /// Reads a register of a bank.
    pub(crate) fn rcb(&self, bank: u8, offset: u64) -> u32 {
        self.r32(self.at(bank, offset))
    }

    pub(crate) fn rcb64(&self, bank: u8, offset: u64) -> u64 {
        self.r64(self.at(bank, offset))
    }

    /// TLBGSYNC, and waits.
    pub(crate) fn gsync(&self) {
        self.w32(0x70, 0);
        self.wait(0x74);
    }

    /// TLBSYNC of a bank, and waits.
    pub(crate) fn sync(&self, bank: u8) {
        self.cb(bank, TLBSYNC, 0);
        self.wait(self.at(bank, TLBSTATUS));
    }

    fn wait(&self, status: u64) {
        for _ in 0..10_000 {
            if self.r32(status) == 0 {
                return;
            }
        }
        panic!("the synchronization never ends");
    }

    pub(crate) fn step(&self) -> bool {
        self.smmu.step(0)
    }

    pub(crate) fn access(&self, stream: u32, address: u64, access: Access) -> Got {
        let request =
            Request { source: SourceId(stream), pasid: None, iova: Iova::new(address), len_bytes: 4, access };
        let mut at = None;
        let outcome = self.smmu.access(&request, &mut |passage| {
            assert!(at.is_none(), "let through twice");
            at = Some(passage.pa.get());
            Ok(())
        });
        match (outcome, at) {
            (Outcome::Done, Some(at)) => Got::At(at),
            (Outcome::Aborted, None) => Got::Abort,
            (Outcome::Ignored, None) => Got::Ignored,
            (Outcome::Stalled(stall), None) => Got::Held(stall),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn read(&self, stream: u32, address: u64) -> Got {
        self.access(stream, address, Access::READ)
    }

    pub(crate) fn write(&self, stream: u32, address: u64) -> Got {
        self.access(stream, address, Access::WRITE)
    }

    pub(crate) fn fetch(&self, stream: u32, address: u64) -> Got {
        self.access(stream, address, Access { kind: AccessKind::Execute, privileged: false })
    }

    pub(crate) fn privileged(&self, kind: AccessKind, address: u64) -> Got {
        self.access(5, address, Access { kind, privileged: true })
    }

    /// An access that must be held back.
    pub(crate) fn held(&self, address: u64) -> Stall {
        match self.read(5, address) {
            Got::Held(stall) => stall,
            other => panic!("not held back: {other:?}"),
        }
    }

    pub(crate) fn fate(&self, stall: Stall) -> StallState {
        self.smmu.stalled(stall)
    }

    /// FSR, FSYNR0, FAR and the stream of a bank's fault; cleared.
    pub(crate) fn fault(&self, bank: u8) -> (u32, u32, u64, u32) {
        let told = (
            self.rcb(bank, FSR),
            self.rcb(bank, FSYNR0),
            self.rcb64(bank, FAR),
            self.r32(0x1400 + u64::from(bank) * 4),
        );
        self.cb(bank, FSR, 0xffff_ffff);
        told
    }

    /// The clauses that were broken.
    pub(crate) fn clauses(&self) -> Vec<&'static str> {
        self.smmu.take_unpredictable().iter().map(|note| note.clause).collect()
    }

    /// Sees that nothing was done against the book.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.smmu.take_unpredictable(), []);
    }
}
