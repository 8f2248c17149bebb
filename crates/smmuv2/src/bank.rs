//! Translation context banks: which are free, what tags their entries in TLBs, and setting one up.
//!
//! A bank is set up while no stream leads to it. Whoever reached one whose translation is off would pass untranslated, so the order is: set up and turned
//! on, then streams; streams away, then off, then forgotten, then free. A bank in nobody's hands says "stage 1 with stage 2 fault", where the
//! hardware lets it.
//!
//! # Tags
//!
//! Stage 1 domains share one VMID and have the number of their bank as ASID; stage 2 domains have a VMID of their own. A guest's table has the VMID of the stage 2 domain that it
//! is before, and the number of its bank as ASID. None of the VMIDs is one that firmware's banks have, where they were kept (`reset`). A bank is used again only after the hardware has confirmed that its tag is forgotten.
//!
//! Spec: SMMUv2 D.c, 5.1 "Updating the state of a context bank", 2.6.2 "The Context Bank Attribute Register, SMMU_CBARn", 10.2 "SMMU Global Register
//! Space 1 register descriptions".

use alloc::vec;
use alloc::vec::Vec;

use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv2::bank::{
    ACTLR, FSR, MAIR0, MAIR1, RESUME, RESUME_TERMINATE, SCTLR, Sctlr, TCR, TCR2, TTBR0, TTBR1, Ttbr,
};
use portcullis_spec::smmuv2::global::{
    BPSHCFG_NON_SHAREABLE, CBAR_NESTED, CBAR_STAGE1_BYPASS, CBAR_STAGE1_FAULT, CBAR_STAGE2, Cba2r, Cbar,
    MEM_ATTR_WRITE_BACK, NestedCbar, cba2r, cbar,
};
use portcullis_spec::smmuv2::mmu500::Actlr;
use portcullis_types::mutant;

use crate::config::Implementation;
use crate::counters::Operation;
use crate::features::Features;
use crate::hardware::Hardware;
use crate::table::BankWords;

/// What a bank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Stage 1 alone.
    Stage1,
    /// Stage 2, alone or behind guests' tables.
    Stage2,
    /// Stage 1 of a guest's table, with stage 2 in this bank behind it.
    Nested {
        /// The number of that bank.
        parent: u8,
    },
}

/// Who has a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody.
    Free,
    /// A domain, or what one left behind.
    Taken(Role),
    /// Streams that keep what firmware gave them, or nobody yet: what it put into TLBs is not forgotten.
    Boot,
}

/// All banks.
#[derive(Debug)]
pub(crate) struct Banks {
    states: Vec<State>,
    /// The first that can be of stage 1.
    first_of_stage1: usize,
    /// VMIDs that firmware's banks have.
    boot_vmids: Vec<u8>,
}

impl Banks {
    pub(crate) fn new(features: &Features) -> Self {
        let first_of_stage1 = features.stage2_only_banks;
        Self { states: vec![State::Free; features.banks], first_of_stage1, boot_vmids: Vec::new() }
    }

    /// A free bank, for a domain. Stage 2 gets those first that nobody else could have.
    pub(crate) fn take(&mut self, role: Role) -> Option<usize> {
        let first = if role == Role::Stage2 { 0 } else { self.first_of_stage1 };
        let bank = (first..self.states.len()).find(|&bank| self.states[bank] == State::Free)?;
        self.states[bank] = State::Taken(role);
        Some(bank)
    }

    /// What a domain's bank is; none if it is no domain's.
    pub(crate) fn role(&self, bank: usize) -> Option<Role> {
        match self.states.get(bank)? {
            State::Taken(role) => Some(*role),
            State::Free | State::Boot => None,
        }
    }

    /// A bank whose tag the hardware has forgotten.
    pub(crate) fn give_back(&mut self, bank: usize) {
        self.states[bank] = State::Free;
    }

    /// Leaves a bank to streams that keep what firmware gave them.
    pub(crate) fn keep_for_boot(&mut self, bank: usize, vmid: u8) {
        self.states[bank] = State::Boot;
        self.boot_vmids.push(vmid);
    }

    pub(crate) fn is_boot(&self, bank: usize) -> bool {
        self.states.get(bank) == Some(&State::Boot)
    }

    /// Banks that streams may lead to.
    pub(crate) fn in_use(&self) -> Vec<usize> {
        let live = |&bank: &usize| matches!(self.states[bank], State::Taken(_) | State::Boot);
        (0..self.states.len()).filter(live).collect()
    }

    /// The `index`th of the VMIDs that firmware's banks do not have. There are at most as many of those as banks, 128 of 256.
    fn vmid(&self, index: usize) -> u8 {
        let free = (0..=u8::MAX).filter(|vmid| !self.boot_vmids.contains(vmid));
        free.into_iter().nth(index).unwrap_or(u8::MAX)
    }
}

/// The ASID of a stage 1 bank.
pub(crate) fn asid(bank: usize) -> u8 {
    u8::try_from(bank).expect("there are at most 128 banks")
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// The VMID of a bank.
    pub(crate) fn vmid(&self, bank: usize, role: Role) -> u8 {
        let index = match role {
            // The first VMID is that of stage 1, should there be one.
            Role::Stage1 => 0,
            Role::Stage2 => bank + 1,
            Role::Nested { parent } => usize::from(parent) + 1,
        };
        self.banks.lock().vmid(index)
    }

    /// Sets up a bank that no stream leads to, and turns its translation on. Transactions that fault wait for an answer if they `stall`.
    pub(crate) fn set_up_bank(&self, bank: usize, role: Role, words: &BankWords, stall: bool) {
        self.count(Operation::Bank);
        self.write_bank(bank, SCTLR, 0);
        self.write_global1(cba2r(bank), Cba2r::new().with_va64(true).into_bits());
        self.write_global1(cbar(bank), self.attributes(bank, role));
        self.write_bank(bank, TCR, words.tcr);
        let stage1 = role != Role::Stage2;
        let asid = if stage1 { u16::from(asid(bank)) } else { 0 };
        let ttbr = Ttbr::new().with_base(words.root).with_asid(asid);
        self.write_bank64(bank, TTBR0, ttbr.into_bits());
        if stage1 {
            self.write_bank(bank, TCR2, words.tcr2);
            self.write_bank64(bank, TTBR1, Ttbr::new().with_asid(asid).into_bits());
            self.write_bank(bank, MAIR0, (words.mair & 0xffff_ffff) as u32);
            self.write_bank(bank, MAIR1, (words.mair >> 32) as u32);
        }
        self.clear_faults(bank);
        // The table is visible before anything walks it.
        self.platform.write_barrier();
        let sctlr = Sctlr::new()
            .with_m(true)
            .with_tre(true)
            .with_afe(true)
            .with_cfre(true)
            .with_cfie(true)
            .with_cfcfg(stall)
            // One device's fault is no reason to turn the others' traffic away.
            .with_hupcf(true)
            .with_asidpne(stage1);
        self.write_bank(bank, SCTLR, sctlr.into_bits());
    }

    fn attributes(&self, bank: usize, role: Role) -> u32 {
        let own = self.features.interrupts.map_or(0, |count| {
            u8::try_from(bank % usize::from(count)).expect("less than a number of 8 bits")
        });
        let vmid = self.vmid(bank, role);
        let cbar = Cbar::new().with_irptndx(own).with_vmid(vmid);
        match role {
            Role::Stage1 => cbar
                .with_kind(CBAR_STAGE1_BYPASS)
                .with_bpshcfg(BPSHCFG_NON_SHAREABLE)
                .with_mem_attr(MEM_ATTR_WRITE_BACK)
                .into_bits(),
            Role::Stage2 => cbar.with_kind(CBAR_STAGE2).into_bits(),
            Role::Nested { .. } if mutant!("smmuv2-guests-table-without-stage-2") => {
                cbar.with_kind(CBAR_STAGE1_BYPASS).into_bits()
            }
            Role::Nested { parent } => {
                let nested = NestedCbar::new().with_irptndx(own).with_vmid(vmid);
                nested.with_kind(CBAR_NESTED).with_cbndx(parent).into_bits()
            }
        }
    }

    /// Turns a bank's translation off, which no stream leads to any more. What it is tagged with stays, so that it can be forgotten.
    pub(crate) fn turn_bank_off(&self, bank: usize) {
        self.count(Operation::Bank);
        self.write_bank(bank, SCTLR, 0);
        self.clear_faults(bank);
        // The next that waits in this bank is somebody else's.
        self.taking.lock().ended(bank);
    }

    /// Leaves a bank, whose translation is off, in nobody's hands.
    pub(crate) fn leave_bank(&self, bank: usize) {
        if !mutant!("smmuv2-bank-left-as-a-way-around") {
            self.write_global1(cbar(bank), Cbar::new().with_kind(CBAR_STAGE1_FAULT).into_bits());
        }
    }

    /// Forgets what faults a bank holds, and ends the one that waits.
    pub(crate) fn clear_faults(&self, bank: usize) {
        self.write_bank(bank, FSR, u32::MAX);
        self.write_bank(bank, RESUME, RESUME_TERMINATE);
    }

    /// Erratum: Arm MMU-500 826419, 841119 and others: what is translated ahead can be kept past its invalidation, so nothing is.
    ///
    /// Observed: Linux 6.12, arm_mmu500_reset: the errata, and that Secure software can keep the lock on.
    pub(crate) fn work_around_errata(&self, bank: usize) {
        if self.config.implementation == Implementation::Mmu500 {
            let actlr = Actlr::from_bits(self.read_bank(bank, ACTLR));
            self.write_bank(bank, ACTLR, actlr.with_cpre(false).into_bits());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::features;

    #[test]
    fn stage_1_leaves_the_banks_of_stage_2_alone_and_firmwares_bank_is_nobodys_until_it_is_given_back() {
        let features = Features { banks: 6, stage2_only_banks: 2, ..features() };
        let mut banks = Banks::new(&features);
        let take = |banks: &mut Banks| banks.take(Role::Stage1);
        assert_eq!((take(&mut banks), take(&mut banks), take(&mut banks)), (Some(2), Some(3), Some(4)));
        banks.give_back(3);
        banks.keep_for_boot(4, 0);
        assert_eq!((take(&mut banks), take(&mut banks), take(&mut banks)), (Some(3), Some(5), None));
        assert_eq!((banks.take(Role::Stage2), banks.take(Role::Stage2)), (Some(0), Some(1)));
        assert_eq!((banks.take(Role::Stage2), banks.take(Role::Nested { parent: 0 })), (None, None));
        assert_eq!(
            (banks.role(0), banks.role(3), banks.role(4)),
            (Some(Role::Stage2), Some(Role::Stage1), None)
        );
    }

    #[test]
    fn nobody_gets_a_vmid_that_firmwares_banks_have() {
        let mut banks = Banks::new(&Features { banks: 6, ..features() });
        banks.keep_for_boot(0, 0);
        banks.keep_for_boot(5, 2);
        let vmids: Vec<u8> = (0..4).map(|index| banks.vmid(index)).collect();
        assert_eq!(vmids, [1, 3, 4, 5]);
        assert_eq!(
            (banks.take(Role::Stage2), banks.is_boot(5), banks.in_use()),
            (Some(1), true, vec![0, 1, 5])
        );
    }
}
