//! What is to be run, what came of it, and how an objection is told.

use core::fmt;
use core::str::FromStr;

use crate::cover::Coverage;
use crate::fault::FaultKind;
use crate::promise::Promise;

/// Which machines are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MachineKind {
    /// Any of the others, as the seed says.
    #[default]
    Any,
    /// One or two SMMUv3, devices without an ATC, the DMA API and users' domains.
    Smmuv3,
    /// The same, and processes that share their memory with devices: ATS, page requests, stalls.
    Sva,
    /// One or two SMMUv3, and users who have devices by VFIO.
    Vfio,
    /// One or two SMMUv2, the DMA API and users' domains.
    Smmuv2,
    /// One or two VT-d units, in legacy or scalable mode, the DMA API and users' domains.
    X86,
    /// The same in scalable mode, and processes of x86-64 that share their memory with devices: ATS, page requests.
    X86Sva,
    /// A POWER8 bridge, and users who make their windows themselves.
    Power8,
}

impl MachineKind {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Any, Self::Smmuv3, Self::Sva, Self::Vfio, Self::Power8, Self::Smmuv2, Self::X86, Self::X86Sva];

    /// Those that are drawn where any may be.
    pub const DRAWN: [Self; 7] =
        [Self::Smmuv3, Self::Sva, Self::Vfio, Self::Power8, Self::Smmuv2, Self::X86, Self::X86Sva];

    /// Whether its IOMMUs are VT-d units.
    pub const fn is_pc(self) -> bool {
        matches!(self, Self::X86 | Self::X86Sva)
    }

    /// Whether processes share their memory with devices.
    pub const fn shares(self) -> bool {
        matches!(self, Self::Sva | Self::X86Sva)
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Smmuv3 => "smmuv3",
            Self::Sva => "sva",
            Self::Vfio => "vfio",
            Self::Power8 => "power8",
            Self::Smmuv2 => "smmuv2",
            Self::X86 => "x86",
            Self::X86Sva => "x86-sva",
        }
    }
}

impl FromStr for MachineKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("no such machine; there are {}", names()))
    }
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed of the first life; those behind it have the numbers that follow.
    pub seed: u64,
    /// How many operations, over all lives.
    pub steps: u64,
    /// On which machines.
    pub machine: MachineKind,
    /// Whether faults are armed.
    pub faults: bool,
    /// Faults that are not armed even so.
    pub spared: &'static [FaultKind],
    /// How many threads do the operations of a life, without faults; on one every life is the same again.
    pub threads: usize,
    /// Whether a trace that fails is made shorter.
    pub shrink: bool,
}

impl Options {
    /// So many steps from a seed, on any machine, with faults.
    pub fn new(seed: u64, steps: u64) -> Self {
        Self { seed, steps, machine: MachineKind::Any, faults: true, spared: &[], threads: 1, shrink: true }
    }
}

/// What a run came to that nobody objected to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Operations of plans that did something.
    pub steps: u64,
    /// Operations that another CPU did in the middle of those.
    pub nested: u64,
    /// Stores, barriers, register writes and waits of the drivers: the places at which somebody else may get a turn.
    pub hooks: u64,
    /// Lives.
    pub lives: u64,
    /// Accesses of devices that a model let through, each of them judged.
    pub accesses: u64,
    /// Accesses that were refused.
    pub refused: u64,
    /// How often all tables in memory were held against the shadow.
    pub audits: u64,
    /// How often each promise was held against something that happened.
    pub checked: [u64; Promise::ALL.len()],
    /// Operations and faults that met.
    pub coverage: Coverage,
    /// A hash over everything that happened, in its order.
    pub hash: u64,
}

impl Summary {
    /// How often a promise was held against something.
    pub fn checks_of(&self, promise: Promise) -> u64 {
        self.checked[promise as usize]
    }

    /// How often any was.
    pub fn checks(&self) -> u64 {
        self.checked.iter().sum()
    }

    /// Adds what another run came to.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.nested += other.nested;
        self.hooks += other.hooks;
        self.lives += other.lives;
        self.accesses += other.accesses;
        self.audits += other.audits;
        self.refused += other.refused;
        self.checked.iter_mut().zip(other.checked).for_each(|(sum, more)| *sum += more);
        self.coverage.add(&other.coverage);
        self.hash = crate::trace::mix(self.hash, other.hash);
    }
}

/// A promise was broken.
#[derive(Clone, Debug)]
pub struct Objection {
    /// Which.
    pub promise: Promise,
    /// In which step of the life.
    pub step: u64,
    /// What was seen, with the objects that it is about.
    pub what: String,
    /// The seed of the life.
    pub seed: u64,
    /// The shortest trace that was found in which the promise is still broken, one step to a line.
    pub trace: Vec<String>,
    /// The command that shows it again.
    pub replay: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: broken in step {} of the life with seed {:#x}", self.promise, self.step, self.seed)?;
        writeln!(f, "  {}", self.what)?;
        writeln!(f, "the shortest trace found:")?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "to see it again: {}", self.replay)
    }
}

impl core::error::Error for Objection {}
