//! TLB operations: taken at once, done later, and known to be done only by a synchronization.
//!
//! An operation waits in a list ([`Maintenance`]) until it is applied: by chance at any time, at the latest when a synchronization that covers it is about to complete.
//! A synchronization of a context bank covers what was posted there; the global one covers all. When all that it covers is applied, it notes which accesses are
//! under way, and is done when they are. Accesses that are held back are not waited for.
//!
//! Spec: SMMUv2 D.c, 5.4.2 "TLB maintenance operation processing", 9.6.21 "SMMU_sTLBGSTATUS", 16.5.36 "SMMU_CBn_TLBSTATUS".
//! Not here: what a scope takes in (`tlb`), which register is which scope (`program`, `program_bank`).

use model_bus::Flights;
use portcullis_types::trace::Value;

use crate::bank::{Bank, BankType, Residue};
use crate::state::{Around, State};

/// What an operation removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    AllNonHypervisor,
    AllHypervisor,
    /// Both stages of a VMID.
    Vmid(u16),
    /// All that holds something of stage 1.
    VmidStage1(u16),
    /// What is not global.
    Asid {
        vmid: u16,
        asid: u16,
    },
    /// Stage 1 by address, up to and with the last. `leaf`: only leaves.
    Address {
        vmid: u16,
        asid: Option<u16>,
        first: u64,
        last: u64,
        leaf: bool,
    },
    HypervisorAddress {
        first: u64,
        last: u64,
        leaf: bool,
    },
    /// Stage 2 alone.
    Ipa {
        vmid: u16,
        first: u64,
        last: u64,
        leaf: bool,
    },
}

impl Scope {
    /// Whether it removes all that a bank may have left in the TLB.
    fn covers(&self, bank: &Bank, wide_vmids: bool) -> bool {
        let vmid = bank.vmid(wide_vmids);
        let stage1 = bank.kind() != BankType::Stage2;
        match *self {
            Self::AllHypervisor => bank.is_hypervisor(),
            Self::AllNonHypervisor => !bank.is_hypervisor(),
            Self::Vmid(id) => !bank.is_hypervisor() && id == vmid,
            Self::VmidStage1(id) => !bank.is_hypervisor() && stage1 && id == vmid,
            // Not what is global: whoever has no global mappings may do with that.
            Self::Asid { vmid: id, asid } => {
                !bank.is_hypervisor() && stage1 && id == vmid && asid == bank.asid()
            }
            _ => false,
        }
    }
}

/// Where an operation, or a synchronization, was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Issuer {
    Global,
    Bank(u8),
    /// A CPU, by a broadcast.
    Broadcast,
}

impl Issuer {
    /// Whether a synchronization here covers an operation there. "Either the global address space or any translation context bank", but no broadcast.
    fn covers(self, other: Self) -> bool {
        self == other || self == Self::Global && other != Self::Broadcast
    }
}

#[derive(Clone, Copy, Debug)]
struct Posted {
    serial: u64,
    scope: Scope,
    from: Issuer,
}

#[derive(Clone, Copy, Debug)]
struct Sync {
    from: Issuer,
    /// Operations with smaller numbers are covered.
    limit: u64,
    ticks: u32,
    stuck: bool,
    /// Accesses with smaller numbers must be back; none until the operations are applied.
    before: Option<u64>,
}

/// Operations and synchronizations that are not done.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    next: u64,
    posted: Vec<Posted>,
    syncs: Vec<Sync>,
    /// No synchronization ends.
    pub(crate) jammed: bool,
}

impl Maintenance {
    /// GSACTIVE, or SACTIVE of a bank.
    pub(crate) fn is_active(&self, from: Issuer) -> bool {
        self.syncs.iter().any(|sync| sync.from == from)
    }
}

impl State {
    /// Takes an operation.
    pub(crate) fn post(&mut self, name: &'static str, scope: Scope, from: Issuer, around: Around<'_>) {
        *self.counters.operations.entry(name).or_default() += 1;
        around.trace("tlbi", &[("op", Value::Str(name)), issuer(from)]);
        let serial = self.maintenance.next;
        self.maintenance.next += 1;
        let wide = self.registers.wide_vmids();
        for bank in &mut self.registers.banks {
            if bank.residue == Residue::MayBeCached && !bank.is_on() && scope.covers(bank, wide) {
                bank.residue = Residue::Posted(serial, from);
            }
        }
        self.initial.posted(&scope, serial, from);
        let posted = Posted { serial, scope, from };
        if around.config.policy.lazy_invalidation {
            self.maintenance.posted.push(posted);
        } else {
            self.apply(&posted);
        }
    }

    /// Takes a synchronization. One that is active there already begins again, with all that was posted since.
    pub(crate) fn synchronize(
        &mut self,
        name: &'static str,
        from: Issuer,
        around: Around<'_>,
        flights: &Flights,
    ) {
        *self.counters.operations.entry(name).or_default() += 1;
        around.trace("tlb_sync", &[issuer(from)]);
        let policy = &around.config.policy;
        let stuck_before = self.maintenance.syncs.iter().any(|sync| sync.from == from && sync.stuck);
        let stuck = stuck_before || self.maintenance.jammed || self.dice.one_in(policy.stuck_sync_one_in);
        self.counters.syncs_stuck += u64::from(stuck && !stuck_before);
        self.maintenance.syncs.retain(|sync| sync.from != from);
        let ticks = self.dice.up_to(policy.sync_ticks);
        let limit = self.maintenance.next;
        self.maintenance.syncs.push(Sync { from, limit, ticks, stuck, before: None });
        self.advance_syncs(flights);
    }

    /// One tick. Answers whether there is something to wait for.
    pub(crate) fn maintain(&mut self, flights: &Flights) -> bool {
        if !self.maintenance.posted.is_empty() && self.dice.one_in(8) {
            let last = u32::try_from(self.maintenance.posted.len() - 1).unwrap_or(0);
            let posted = self.maintenance.posted.swap_remove(self.dice.up_to(last) as usize);
            self.apply(&posted);
        }
        for sync in &mut self.maintenance.syncs {
            sync.ticks = sync.ticks.saturating_sub(1);
        }
        self.advance_syncs(flights)
    }

    fn advance_syncs(&mut self, flights: &Flights) -> bool {
        let mut waits = false;
        for index in (0..self.maintenance.syncs.len()).rev() {
            let sync = self.maintenance.syncs[index];
            if sync.stuck {
                continue;
            }
            if sync.ticks > 0 {
                waits = true;
                continue;
            }
            let before = match sync.before {
                Some(before) => before,
                None => {
                    self.apply_covered(&sync);
                    let before = flights.next();
                    self.maintenance.syncs[index].before = Some(before);
                    before
                }
            };
            if !flights.are_back(before) {
                waits = true;
                continue;
            }
            self.maintenance.syncs.swap_remove(index);
            self.counters.syncs_done += 1;
            self.settle_residues(&sync);
        }
        waits
    }

    fn apply_covered(&mut self, sync: &Sync) {
        let covered = |posted: &Posted| posted.serial < sync.limit && sync.from.covers(posted.from);
        let (now, later): (Vec<_>, Vec<_>) =
            core::mem::take(&mut self.maintenance.posted).into_iter().partition(covered);
        self.maintenance.posted = later;
        for posted in &now {
            self.apply(posted);
        }
    }

    /// Does all that CPUs have broadcast.
    pub(crate) fn obey_broadcasts(&mut self) {
        let limit = self.maintenance.next;
        let sync = Sync { from: Issuer::Broadcast, limit, ticks: 0, stuck: false, before: None };
        self.apply_covered(&sync);
        self.settle_residues(&sync);
    }

    fn settle_residues(&mut self, sync: &Sync) {
        let initial = [&mut self.initial.guests, &mut self.initial.hypervisor];
        let of_banks = self.registers.banks.iter_mut().map(|bank| &mut bank.residue);
        for residue in of_banks.chain(initial) {
            if let Residue::Posted(serial, from) = *residue
                && serial < sync.limit
                && sync.from.covers(from)
            {
                *residue = Residue::Clean;
            }
        }
    }

    fn apply(&mut self, posted: &Posted) {
        self.counters.invalidated += self.tlb.invalidate(&posted.scope);
    }
}

fn issuer(from: Issuer) -> (&'static str, Value<'static>) {
    match from {
        Issuer::Global => ("bank", Value::Str("all")),
        Issuer::Broadcast => ("bank", Value::Str("cpu")),
        Issuer::Bank(index) => ("bank", Value::Dec(index.into())),
    }
}
