//! The registers of one context bank, and what strict mode remembers of how they were used.
//!
//! ```text
//!            SCTLR.M = 1                 SCTLR.M = 0, then an invalidation that covers the bank       its synchronization ends
//! Clean ────────────────► MayBeCached ───────────────────────────────────────────────────► Posted ─────────────────────► Clean
//! ```
//!
//! Spec: SMMUv2 D.c, chapter 16 "Stage 1 Translation Context Bank Format", chapter 17 "Stage 2 Translation Context Bank Format", 10.2.1 "SMMU_CBARn",
//! 5.1 "Updating the state of a context bank".
//! Not here: what the registers mean (`regime`), what writing them does (`program_bank`).

use crate::bits::{bit, field};
use crate::config::Config;
use crate::fault::{CONTEXT_BITS, STALLED};
use crate::maintenance::Issuer;

/// CBAR.TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BankType {
    Stage2,
    Stage1,
    Stage1Fault,
    /// Stage 1 followed by stage 2 in this bank.
    Nested(u8),
}

/// Whether translations of a bank may still be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residue {
    Clean,
    MayBeCached,
    /// An invalidation of this number, from there, waits for a synchronization.
    Posted(u64, Issuer),
}

/// Registers whose change changes translations, a bit each.
pub(crate) mod part {
    pub(crate) const SCTLR: u16 = 1 << 0;
    pub(crate) const TCR: u16 = 1 << 1;
    pub(crate) const TCR2: u16 = 1 << 2;
    pub(crate) const TTBR0: u16 = 1 << 3;
    pub(crate) const TTBR0_UPPER: u16 = 1 << 4;
    pub(crate) const TTBR1: u16 = 1 << 5;
    pub(crate) const TTBR1_UPPER: u16 = 1 << 6;
    pub(crate) const MAIR0: u16 = 1 << 7;
    pub(crate) const MAIR1: u16 = 1 << 8;
    pub(crate) const CBAR: u16 = 1 << 9;
    pub(crate) const CBA2R: u16 = 1 << 10;
}

/// SCTLR.
pub(crate) mod sctlr {
    pub(crate) const M: u32 = 0;
    pub(crate) const BIG_ENDIAN: u32 = 4;
    pub(crate) const AFFD: u32 = 3;
    pub(crate) const CFRE: u32 = 5;
    pub(crate) const CFIE: u32 = 6;
    pub(crate) const CFCFG: u32 = 7;
    pub(crate) const HUPCF: u32 = 8;
    pub(crate) const WXN: u32 = 9;
    pub(crate) const UWXN: u32 = 10;
    /// Of stage 2 only.
    pub(crate) const PTW: u32 = 13;
}

#[derive(Clone, Debug)]
pub(crate) struct Bank {
    pub(crate) cbar: u32,
    pub(crate) cba2r: u32,
    pub(crate) frsynra: u32,
    pub(crate) sctlr: u32,
    pub(crate) actlr: u32,
    pub(crate) tcr: u32,
    pub(crate) tcr2: u32,
    pub(crate) context_id: u32,
    pub(crate) ttbr: [u64; 2],
    pub(crate) mair: [u32; 2],
    pub(crate) fsr: u32,
    pub(crate) far: u64,
    pub(crate) fsynr: [u32; 2],
    pub(crate) ipafar: u64,
    /// Which of them software has written since reset ([`part`]).
    pub(crate) written: u16,
    /// Which changed since M became 1.
    pub(crate) changed: u16,
    pub(crate) residue: Residue,
}

impl Bank {
    /// Out of reset. `unknown` gives the values that the book calls UNKNOWN.
    pub(crate) fn new(index: u8, config: &Config, mut unknown: impl FnMut() -> u64) -> Self {
        let mut word = || (unknown() & 0xffff_ffff) as u32;
        let mut bank = Self {
            cbar: word(),
            // "If AArch32 address translation is supported, then this bit must reset to 0"; otherwise it is RAO.
            cba2r: if config.aarch32 { 0 } else { 1 },
            frsynra: word() & 0xffff,
            sctlr: word() & !(1 << sctlr::CFRE | 1 << sctlr::CFIE),
            actlr: 0,
            tcr: word(),
            tcr2: word(),
            context_id: word(),
            ttbr: [0; 2],
            mair: [word(), word()],
            fsr: word() & CONTEXT_BITS,
            far: 0,
            fsynr: [word(), 0],
            ipafar: 0,
            written: 0,
            changed: 0,
            residue: Residue::Clean,
        };
        bank.ttbr = [unknown(), unknown()];
        bank.far = unknown();
        bank.cbar = bank.typed(index, config, bank.cbar);
        if !config.stall {
            bank.sctlr &= !(1 << sctlr::CFCFG);
        }
        bank
    }

    /// CBAR as it can be stored: "If a context bank only supports a single stage of translation ... TYPE can be a read-only field."
    pub(crate) fn typed(&self, index: u8, config: &Config, value: u32) -> u32 {
        let stage1 = config.bank_has_stage1(index);
        match (stage1, config.stage2) {
            (false, _) => value & !(3 << 16),
            (true, false) => value & !(3 << 16) | 1 << 16,
            _ => value,
        }
    }

    pub(crate) fn kind(&self) -> BankType {
        match field(self.cbar.into(), 17, 16) {
            0 => BankType::Stage2,
            1 => BankType::Stage1,
            2 => BankType::Stage1Fault,
            _ => BankType::Nested(field(self.cbar.into(), 15, 8) as u8),
        }
    }

    pub(crate) fn is_stage2(&self) -> bool {
        self.kind() == BankType::Stage2
    }

    /// CBAR.HYPC, which only a stage 1 context with stage 2 bypass has.
    pub(crate) fn is_hypervisor(&self) -> bool {
        self.kind() == BankType::Stage1 && bit(self.cbar, 10)
    }

    /// CBA2R.VA64: the AArch64 scheme.
    pub(crate) fn is_wide(&self) -> bool {
        bit(self.cba2r, 0)
    }

    /// The VMID, from where CR0.VMID16EN has it.
    pub(crate) fn vmid(&self, sixteen_bits: bool) -> u16 {
        if sixteen_bits { (self.cba2r >> 16) as u16 } else { (self.cbar & 0xff) as u16 }
    }

    pub(crate) fn is_on(&self) -> bool {
        bit(self.sctlr, sctlr::M)
    }

    /// The ASID that is in use. Spec: SMMUv2 D.c, 16.5.40 "SMMU_CBn_TTBRm", ASID; 16.5.38 "SMMU_CBn_TCR", A1.
    pub(crate) fn asid(&self) -> u16 {
        let ttbr = self.ttbr[usize::from(bit(self.tcr, 22))];
        match (self.is_wide(), bit(self.tcr2, 4)) {
            (true, true) => field(ttbr, 63, 48) as u16,
            _ => field(ttbr, 55, 48) as u16,
        }
    }

    /// Whether FSR tells of a fault, or of an access that waits.
    pub(crate) fn has_fault(&self) -> bool {
        self.fsr & (CONTEXT_BITS | STALLED) != 0
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.fsr & STALLED != 0
    }

    pub(crate) fn hits_under_fault(&self) -> bool {
        bit(self.sctlr, sctlr::HUPCF)
    }

    pub(crate) fn reports(&self) -> bool {
        bit(self.sctlr, sctlr::CFRE)
    }

    /// Whether its interrupt is asserted. Choice: SS is no fault for that; the book leaves it open.
    pub(crate) fn interrupts(&self) -> bool {
        bit(self.sctlr, sctlr::CFIE) && self.fsr & CONTEXT_BITS != 0
    }

    /// FSR as it reads, with Format. Spec: SMMUv2 D.c, 16.5.9 "SMMU_CBn_FSR", Format.
    pub(crate) fn status(&self) -> u32 {
        self.fsr | if self.is_wide() { 2 << 9 } else { 1 << 9 }
    }
}
