//! CPUs of either kind, as the kernel of processes needs them.
//!
//! [`Cores`] are the CPUs of a machine, Arm's or x86's; a [`Core`] is one of them, and runs by a [`CoreContext`]. What a process's accesses are refused for comes
//! down to one question: which permissions would let it go on ([`Refused`]).
//!
//! # Forgetting
//!
//! Arm's CPUs are told by broadcast, and so is whoever listens. x86's are told by nobody but software: each forgets what it is itself told to, and the kernel
//! interrupts all of them and waits (a shootdown). Either way every CPU has forgotten when [`Cores::forget`] returns, and no device: those are listeners.
//!
//! Spec: Arm ARM DDI 0487, D8.16 "TLB maintenance instructions"; Intel SDM volume 3A, 4.10.5 "Propagation of Paging-Structure Changes to Multiple Processors".
//! Not here: how the tables look (`form`), who gets which tag (`kernel`).

use core::fmt;
use std::sync::Arc;

use model_cpu::{Context, Cpu, Cpus, Fault, FaultKind, Tlbi, Unpredictable, x86};
use portcullis::pgtable::arm::HardwareUpdate;
use portcullis::types::{AccessKind, IovaRange, Pa, Perms};

/// The CPUs of a machine.
#[derive(Clone)]
pub enum Cores {
    /// Arm's.
    Arm(Arc<Cpus>),
    /// x86's.
    X86(Arc<x86::Cpus>),
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arm(cpus) => cpus.fmt(f),
            Self::X86(cpus) => cpus.fmt(f),
        }
    }
}

impl From<Arc<Cpus>> for Cores {
    fn from(cpus: Arc<Cpus>) -> Self {
        Self::Arm(cpus)
    }
}

impl From<Arc<x86::Cpus>> for Cores {
    fn from(cpus: Arc<x86::Cpus>) -> Self {
        Self::X86(cpus)
    }
}

/// What CPUs are to forget of one tag.
#[derive(Clone, Copy, Debug)]
pub(super) enum Forget {
    /// Entries for these addresses; tables on the way to them too, unless only leaves have changed.
    Range { range: IovaRange, leaves_only: bool },
    /// Everything.
    All,
}

impl Cores {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Arm(cpus) => cpus.count(),
            Self::X86(cpus) => cpus.count(),
        }
    }

    /// Arm's, if they are.
    pub fn arm(&self) -> Option<&Arc<Cpus>> {
        match self {
            Self::Arm(cpus) => Some(cpus),
            Self::X86(_) => None,
        }
    }

    /// The unpredictable things that happened, oldest first, at most 64.
    pub fn unpredictable(&self) -> Vec<Unpredictable> {
        match self {
            Self::Arm(cpus) => cpus.unpredictable(),
            Self::X86(cpus) => cpus.unpredictable(),
        }
    }

    /// How many unpredictable things happened.
    pub fn unpredictable_count(&self) -> u64 {
        match self {
            Self::Arm(cpus) => cpus.unpredictable_count(),
            Self::X86(cpus) => cpus.unpredictable_count(),
        }
    }

    /// Lets nobody hear any more.
    pub fn dismantle(&self) {
        self.arm().into_iter().for_each(|cpus| cpus.dismantle());
    }

    /// Which marks all CPUs can set. Where one cannot, none does: a process may run on any. x86's always do.
    pub(crate) fn marks(&self) -> HardwareUpdate {
        let Self::Arm(cpus) = self else { return HardwareUpdate::AccessAndDirty };
        let each = (0..cpus.count()).filter_map(|index| cpus.cpu(index)).map(|cpu| {
            match cpu.features().hardware_update {
                model_cpu::HardwareUpdate::None => HardwareUpdate::None,
                model_cpu::HardwareUpdate::Access => HardwareUpdate::Access,
                model_cpu::HardwareUpdate::AccessAndDirty => HardwareUpdate::AccessAndDirty,
            }
        });
        each.min().unwrap_or_default()
    }

    /// Whether devices can tag what they remember as these CPUs do. x86's CPUs have each their own PCIDs.
    pub(super) fn share_tags(&self) -> bool {
        matches!(self, Self::Arm(_))
    }

    pub(super) fn core(&self, index: usize) -> Core {
        const THERE: &str = "processes run on CPUs that there are";
        match self {
            Self::Arm(cpus) => Core::Arm(cpus.cpu(index).expect(THERE)),
            Self::X86(cpus) => Core::X86(cpus.cpu(index).expect(THERE)),
        }
    }

    /// Has every CPU forget what it holds under `tag`. `from` is the CPU that says so, `started` are those that have run a process: x86's others have no PCIDs
    /// yet, nor anything to forget. What was stored before is visible to walkers.
    pub(super) fn forget(&self, from: usize, started: impl Iterator<Item = usize>, tag: u16, what: Forget) {
        match self {
            Self::Arm(_) => {
                let Core::Arm(cpu) = self.core(from) else { return };
                cpu.tlbi(match what {
                    Forget::Range { range, leaves_only } => Tlbi::Range {
                        asid: tag,
                        first: range.first().get(),
                        last: range.last().get(),
                        last_level_only: leaves_only,
                    },
                    Forget::All => Tlbi::Asid { asid: tag },
                });
                cpu.barrier();
            }
            Self::X86(cpus) => {
                let what = match what {
                    Forget::Range { range, .. } => {
                        x86::Invalidation::of_range(tag, range.first().get(), range.last().get())
                    }
                    Forget::All => vec![x86::Invalidation::Context { pcid: tag }],
                };
                cpus.shoot_down(started, &what);
            }
        }
    }
}

/// What a CPU translates by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreContext {
    /// Arm's registers.
    Arm(Context),
    /// x86's.
    X86(x86::Context),
}

impl CoreContext {
    /// Whether it walks the table of `other`, under whatever tag.
    pub(super) fn has_table_of(&self, other: &Self) -> bool {
        match (self, other) {
            // ASIDs stand in the topmost bits of TTBR, PCIDs in the lowest of CR3.
            (Self::Arm(one), Self::Arm(other)) => (one.ttbr0 ^ other.ttbr0) << 16 == 0,
            (Self::X86(one), Self::X86(other)) => (one.cr3 ^ other.cr3) >> 12 == 0,
            _ => false,
        }
    }
}

/// One CPU.
pub(super) enum Core {
    /// Arm's.
    Arm(Cpu),
    /// x86's.
    X86(x86::Cpu),
}

/// An access that did not happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    /// The first byte that was not reached.
    pub(super) va: u64,
    /// What the page must allow for the access to go on; none if it is not the page's fault.
    pub(super) wanted: Option<Perms>,
}

impl Core {
    pub(super) fn context(&self) -> Option<CoreContext> {
        match self {
            Self::Arm(cpu) => cpu.context().map(CoreContext::Arm),
            Self::X86(cpu) => cpu.context().map(CoreContext::X86),
        }
    }

    /// Translates by `context` from now on, if it is of this kind, or by nothing. What is held stays.
    pub(super) fn switch_to(&self, context: Option<CoreContext>) {
        match (self, context) {
            (Self::Arm(cpu), Some(CoreContext::Arm(context))) => cpu.switch_to(Some(context)),
            (Self::X86(cpu), Some(CoreContext::X86(context))) => cpu.switch_to(Some(context.keeping())),
            (Self::Arm(cpu), _) => cpu.switch_to(None),
            (Self::X86(cpu), _) => cpu.switch_to(None),
        }
    }

    /// Forgets all that it holds, and no other CPU does.
    pub(super) fn forget_all(&self) {
        match self {
            Self::Arm(cpu) => {
                cpu.tlbi_local(Tlbi::All);
                cpu.barrier();
            }
            Self::X86(cpu) => cpu.invalidate(x86::Invalidation::All),
        }
    }

    pub(super) fn load(&self, va: u64, into: &mut [u8]) -> Result<(), Refused> {
        match self {
            Self::Arm(cpu) => cpu.load(va, into).map_err(Refused::from),
            Self::X86(cpu) => cpu.load(va, into).map_err(Refused::from),
        }
    }

    pub(super) fn store(&self, va: u64, from: &[u8]) -> Result<(), Refused> {
        match self {
            Self::Arm(cpu) => cpu.store(va, from).map_err(Refused::from),
            Self::X86(cpu) => cpu.store(va, from).map_err(Refused::from),
        }
    }

    pub(super) fn fetch(&self, va: u64) -> Result<u32, Refused> {
        match self {
            Self::Arm(cpu) => cpu.fetch(va).map_err(Refused::from),
            Self::X86(cpu) => cpu.fetch(va).map_err(Refused::from),
        }
    }

    /// Where a load from `va` goes.
    pub(super) fn translate(&self, va: u64) -> Result<Pa, Refused> {
        match self {
            Self::Arm(cpu) => cpu.translate(va, AccessKind::Read).map(|at| at.pa).map_err(Refused::from),
            Self::X86(cpu) => cpu.translate(va, AccessKind::Read).map(|at| at.pa).map_err(Refused::from),
        }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        let mendable = match fault.kind {
            FaultKind::Translation | FaultKind::AccessFlag | FaultKind::Permission => true,
            FaultKind::AddressSize | FaultKind::AbortOnWalk | FaultKind::Abort | FaultKind::PcAlignment => {
                false
            }
        };
        Self { va: fault.va, wanted: mendable.then(|| perms(fault.access)) }
    }
}

impl From<x86::Fault> for Refused {
    fn from(fault: x86::Fault) -> Self {
        let mendable = match fault.kind {
            // No page is to blame where there can be none: nothing is mapped there.
            x86::FaultKind::NotCanonical | x86::FaultKind::NotPresent | x86::FaultKind::Permission => true,
            x86::FaultKind::Reserved | x86::FaultKind::AbortOnWalk | x86::FaultKind::Abort => false,
        };
        Self { va: fault.va, wanted: mendable.then(|| perms(fault.access)) }
    }
}

fn perms(access: AccessKind) -> Perms {
    match access {
        AccessKind::Read => Perms::READ,
        AccessKind::Write => Perms::WRITE,
        AccessKind::Execute => Perms::EXECUTE,
    }
}
