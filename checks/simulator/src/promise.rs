//! What is promised: the nine promises of the design, and three that a run keeps with itself.

use core::fmt;

/// A promise, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// An access reaches a byte only if a live mapping of a domain that is attached to its device and PASID grants it at that moment; the only
    /// slack is between an unmap's start and its completed invalidation, and, in lazy mode, a bounded time more.
    Isolation,
    /// Addresses are reused, and pages unpinned or freed, only after the invalidation that covers them has completed.
    Reclaim,
    /// Every page-request group and every stall gets exactly one response; a stop marker gets none.
    OneAnswer,
    /// A group is the kernel's or one user's, never both; released, it returns to its default, or stays blocked and says so.
    OneOwner,
    /// Nobody's mapping overlaps a reserved region, none lies outside the aperture or the device's reach.
    Reserved,
    /// No PASID or IOVA is handed out again while hardware or a queue can still refer to it.
    NoReuse,
    /// An operation that fails leaves the state as it was.
    Unwind,
    /// While an entry changes, hardware sees the old one, the new one, or a deliberate abort.
    Hitless,
    /// After teardown every table page, id and pin is back.
    NoLeak,
    /// Not one of the nine: what was granted is reachable. Who grants nothing keeps all the others.
    Service,
    /// Not one of the nine: nothing is done to hardware that its book forbids.
    Book,
    /// Not one of the nine: nothing panics, and every wait ends.
    Alive,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Isolation,
        Self::Reclaim,
        Self::OneAnswer,
        Self::OneOwner,
        Self::Reserved,
        Self::NoReuse,
        Self::Unwind,
        Self::Hitless,
        Self::NoLeak,
        Self::Service,
        Self::Book,
        Self::Alive,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Isolation => "isolation",
            Self::Reclaim => "reclaim",
            Self::OneAnswer => "one-answer",
            Self::OneOwner => "one-owner",
            Self::Reserved => "reserved",
            Self::NoReuse => "no-reuse",
            Self::Unwind => "unwind",
            Self::Hitless => "hitless",
            Self::NoLeak => "no-leak",
            Self::Service => "service",
            Self::Book => "book",
            Self::Alive => "alive",
        }
    }

    /// The promise of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|promise| promise.name() == name)
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
