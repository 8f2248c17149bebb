//! Which operations met which faults, and which never can.

use core::fmt;

use crate::fault::FaultKind;
use crate::life::OpKind;
use crate::options::MachineKind;

/// How often each operation was done, and how often each fault fired while it was under way, in lives that went well.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// Of which machines: only what they have is counted and shown.
    machine: MachineKind,
    done: [u64; OpKind::COUNT],
    refused: [u64; OpKind::COUNT],
    skipped: [u64; OpKind::COUNT],
    met: [[u64; FaultKind::COUNT]; OpKind::COUNT],
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            machine: MachineKind::Any,
            done: [0; OpKind::COUNT],
            refused: [0; OpKind::COUNT],
            skipped: [0; OpKind::COUNT],
            met: [[0; FaultKind::COUNT]; OpKind::COUNT],
        }
    }
}

impl Coverage {
    /// Nothing yet, on machines of a kind.
    pub(crate) fn on(machine: MachineKind) -> Self {
        Self { machine, ..Self::default() }
    }

    pub(crate) fn meet(&mut self, op: OpKind, fault: FaultKind) {
        self.met[op as usize][fault as usize] += 1;
    }

    pub(crate) fn did(&mut self, op: OpKind) {
        self.done[op as usize] += 1;
    }

    pub(crate) fn was_refused(&mut self, op: OpKind) {
        self.refused[op as usize] += 1;
    }

    pub(crate) fn skip(&mut self, op: OpKind) {
        self.skipped[op as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let sum =
            |into: &mut [u64], from: &[u64]| into.iter_mut().zip(from).for_each(|(sum, more)| *sum += more);
        sum(&mut self.done, &other.done);
        sum(&mut self.refused, &other.refused);
        sum(&mut self.skipped, &other.skipped);
        self.met.iter_mut().zip(&other.met).for_each(|(into, from)| sum(into, from));
    }

    /// How often an operation succeeded, was refused, and had nothing to do.
    pub fn of(&self, op: OpKind) -> (u64, u64, u64) {
        (self.done[op as usize], self.refused[op as usize], self.skipped[op as usize])
    }

    /// How often a fault fired in an operation, and was survived.
    pub fn met(&self, op: OpKind, fault: FaultKind) -> u64 {
        self.met[op as usize][fault as usize]
    }

    /// How often a fault fired in any.
    pub fn fired(&self, fault: FaultKind) -> u64 {
        OpKind::ALL.into_iter().map(|op| self.met(op, fault)).sum()
    }

    /// Pairs that can meet: those that have, and all of them.
    pub fn pairs(&self) -> (usize, usize) {
        let possible = OpKind::ALL
            .into_iter()
            .flat_map(|op| FaultKind::ALL.into_iter().map(move |fault| (op, fault)))
            .filter(|&(op, fault)| impossible(self.machine, op, fault).is_none());
        possible.fold((0, 0), |(met, all), (op, fault)| (met + usize::from(self.met(op, fault) > 0), all + 1))
    }
}

/// The matrix: a line for each operation of the machines, a column for each fault; `-` where they cannot meet, `.` where they have not.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16} {:>9} {:>8}", "operation", "done", "refused")?;
        (0..FaultKind::COUNT).try_for_each(|column| write!(f, " {:>5}", column + 1))?;
        writeln!(f)?;
        for op in
            OpKind::ALL.into_iter().filter(|op| self.machine == MachineKind::Any || op.is_on(self.machine))
        {
            let (done, refused, _) = self.of(op);
            write!(f, "{:<16} {done:>9} {refused:>8}", op.name())?;
            for fault in FaultKind::ALL {
                match (self.met(op, fault), impossible(self.machine, op, fault)) {
                    (0, Some(_)) => write!(f, " {:>5}", "-")?,
                    (0, None) => write!(f, " {:>5}", ".")?,
                    (count, _) => write!(f, " {:>5}", short(count))?,
                }
            }
            writeln!(f)?;
        }
        let names = FaultKind::ALL
            .iter()
            .enumerate()
            .map(|(column, fault)| format!("{} {}", column + 1, fault.name()));
        writeln!(f, "faults: {}", names.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "pairs that cannot meet (-):")?;
        for fault in FaultKind::ALL {
            for (reason, ops) in reasons(self.machine, fault) {
                writeln!(f, "  {}: {reason} ({})", fault.name(), ops.join(", "))?;
            }
        }
        let (met, all) = self.pairs();
        write!(f, "pairs met: {met} of {all} that can meet")
    }
}

/// Why operations cannot meet a fault, and which those are.
fn reasons(machine: MachineKind, fault: FaultKind) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut found: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
    for op in OpKind::ALL.into_iter().filter(|op| machine == MachineKind::Any || op.is_on(machine)) {
        let Some(reason) = impossible(machine, op, fault) else { continue };
        match found.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ops)) => ops.push(op.name()),
            None => found.push((reason, vec![op.name()])),
        }
    }
    found
}

fn short(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{}k", count / 1000),
        _ => format!("{}M", count / 1_000_000),
    }
}

/// Why an operation and a fault cannot meet on machines of a kind, or (any) on any of them; none if they can.
pub fn impossible(kind: MachineKind, op: OpKind, fault: FaultKind) -> Option<&'static str> {
    if kind == MachineKind::Any {
        let kinds = MachineKind::DRAWN.into_iter();
        let reasons: Vec<_> = kinds.map(|kind| impossible(kind, op, fault)).collect();
        // What keeps two apart that some machine has says more than that others have not both.
        let told = reasons.iter().copied().find(|&reason| reason != Some(NO_MACHINE));
        return if reasons.contains(&None) { None } else { told.unwrap_or(Some(NO_MACHINE)) };
    }
    if !op.is_on(kind) || !fault.is_on(kind) {
        return Some(NO_MACHINE);
    }
    if let Some(reason) = apart_among_users(kind, op, fault) {
        return Some(reason);
    }
    // Going back to a default domain may map what firmware works in. What these do is another's domain, none, or where all were before.
    let anew = matches!(op, OpKind::Claim | OpKind::Attach | OpKind::Enable | OpKind::Disable);
    if kind.is_pc() && anew && fault == FaultKind::AllocationFails {
        return Some("a device behind a VT-d unit has the tables of its entries since it came");
    }
    // Whoever finds an endpoint frozen thaws it, and asks the bridge whether that is done.
    let thaws = kind == MachineKind::Power8
        && matches!(op, OpKind::Dma | OpKind::Reset | OpKind::DeviceReset | OpKind::Region);
    // A VT-d unit sends messages of faults and of errors, and of nothing else.
    if kind.is_pc() && fault == FaultKind::MessageLost {
        let tells = op.needs().refusals || op.has_turns() || op == OpKind::Step;
        return (!tells).then_some("no access is refused in it, and only faults and errors send messages");
    }
    // A bridge is described by firmware as a device is.
    let is_described = kind == MachineKind::Power8 && op == OpKind::Probe;
    // A page that a device asked for comes as interrupts are served: it takes memory, and the one that was there before is forgotten.
    let pages_come = kind.shares() && matches!(op, OpKind::Serve | OpKind::PageRequest);
    let of_pages = [FaultKind::AllocationFails, FaultKind::AtcSlow, FaultKind::AtcTwice, FaultKind::AtcNever];
    let meets = thaws && fault == FaultKind::NoSync
        || is_described && fault == FaultKind::LyingFirmware
        || pages_come && of_pages.contains(&fault);
    apart(op, fault).filter(|_| !meets)
}

/// What keeps them apart only where users are.
fn apart_among_users(kind: MachineKind, op: OpKind, fault: FaultKind) -> Option<&'static str> {
    use FaultKind as F;
    use OpKind as O;
    match (kind, op, fault) {
        (MachineKind::Power8, O::Map | O::Unmap, F::UserDies) => {
            Some("the bridge is waited for by a load, in which nobody has a turn")
        }
        (
            MachineKind::Power8,
            O::SetIrqs,
            F::AllocationFails | F::NoSync | F::DmaAfterUnbind | F::BitFlip,
        ) => Some("the bridge takes messages before it translates: no doorbell is mapped"),
        (MachineKind::Vfio, O::UnmapDma | O::UnmapAll | O::Reclaim, F::AllocationFails) => {
            Some("what it takes away is whole, and was noted when it was mapped")
        }
        (MachineKind::Power8, O::UnregisterMemory | O::Reclaim, F::AllocationFails) => Some(
            "what it lets go was noted when it was made, but for a window that had neither room nor the bridge's word when it was removed",
        ),
        _ => None,
    }
}

/// Where they are on no machine both.
const NO_MACHINE: &str = "no machine has both";

/// What keeps an operation and a fault apart on a machine that has both, unless they meet by the way.
pub(crate) fn apart(op: OpKind, fault: FaultKind) -> Option<&'static str> {
    use FaultKind as F;
    let needs = op.needs();
    match fault {
        F::AllocationFails if !needs.memory => Some("it takes no memory"),
        F::AllocationFails if op == OpKind::UserUnmap => {
            Some("no block was mapped that it would have to cut: memory comes in runs of pages")
        }
        F::AllocationFails if op == OpKind::ProcessMap => Some("pages and tables come when they are touched"),
        F::AllocationFails if op == OpKind::Bind => {
            Some("a device's first PASIDs have room since it was enabled")
        }
        F::CommandError | F::LateSync | F::NoSync if !needs.commands => Some("it queues no commands"),
        // In a step a sync may end that nobody waits for any more.
        F::MessageLost if !needs.commands && op != OpKind::Step => {
            Some("it waits for no sync, and only syncs send messages")
        }
        F::EventOverflow if !needs.refusals && !op.has_turns() => Some("no access is refused in it"),
        F::AtcSlow | F::AtcTwice | F::AtcNever if !needs.atc => Some("it invalidates no ATC"),
        F::PageOverflow
        | F::WrongPasid
        | F::WrongGroup
        | F::NoLast
        | F::NoCredits
        | F::AfterStop
        | F::Flood
            if !op.has_turns() =>
        {
            Some("nobody else has a turn in it")
        }
        F::ForgedTranslated if op != OpKind::Translated && !op.has_turns() => {
            Some("nobody else has a turn in it")
        }
        F::ForgedInterrupt if op != OpKind::RaiseIrq && !op.has_turns() => {
            Some("nobody else has a turn in it")
        }
        F::DmaAfterUnbind if !matches!(op, OpKind::Dma | OpKind::SharedDma) && !op.has_turns() => {
            Some("nobody else has a turn in it")
        }
        F::DmaToFreed if op != OpKind::Dma && !op.has_turns() => Some("nobody else has a turn in it"),
        F::DmaAfterReset
            if !matches!(op, OpKind::Reset | OpKind::DeviceReset | OpKind::Region | OpKind::Eeh) =>
        {
            Some("a reset is an operation of its own")
        }
        F::BitFlip if !op.has_turns() => Some("no table is read in it that somebody works on"),
        F::UserDies if !matches!(op, OpKind::Die | OpKind::Exit | OpKind::Teardown) && !op.lets_die() => {
            Some("whoever dies waits for its locks")
        }
        F::LyingFirmware if op != OpKind::Add => Some("firmware is asked when a device comes"),
        _ => None,
    }
}
