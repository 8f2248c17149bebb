//! An access of a job: tried, waited for, tried again.
//!
//! A [`Memory`] is one of the two ways to memory. An [`Attempt`] is what a queue remembers about the access that it is at: what it waits for, and how often it
//! asked. It never blocks; whoever has it comes again.
//!
//! Spec: docs/accelerator.md, "When a page is not there".

use core::cell::Cell;

use model_bus::{Stall, StallState};
use portcullis_types::{Iova, Pasid};

use crate::pcie::{Access, GroupState, Refused, Ticket};

/// No access crosses this, and pages are asked for in this size.
pub(super) const PAGE: u64 = 4096;
/// How often in a row a page is requested whose translation still does not allow the access.
const REQUESTS_IN_A_ROW: u32 = 64;

/// A way to memory. Accesses lie in one page of 4 KiB.
pub(super) trait Memory: Send + Sync {
    /// Whether requests can go out at all.
    fn ready(&self) -> bool;
    fn read(&self, pasid: Option<Pasid>, at: Iova, into: &mut [u8]) -> Access;
    fn write(&self, pasid: Option<Pasid>, at: Iova, from: &[u8]) -> Access;
    /// Asks for the page of the first address, and for others of `pages` as far as credits and need go.
    fn request(&self, pasid: Option<Pasid>, pages: &[Iova], write: bool) -> Result<Ticket, Refused>;
    /// What became of a stalled access.
    fn stalled(&self, stall: Stall, write: bool) -> StallState;
    /// Says that a PASID is not used any more.
    fn stop_marker(&self, pasid: Pasid);
    /// An access is made again after a page request.
    fn note_retry(&self);
    /// Lets a step pass. Answers whether that did something.
    fn step(&self) -> bool;
}

/// The bytes of an access.
pub(super) enum Bytes<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Bytes<'_> {
    fn is_write(&self) -> bool {
        matches!(self, Self::Write(_))
    }
}

/// Where an access is, and what else the job will need behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    /// Bytes from `at` that the job will need, this access among them.
    pub(super) needed: u64,
    pub(super) pages_at_once: u32,
}

impl Place {
    /// The pages to ask for: that of the access, and those behind it.
    fn pages(self) -> Vec<Iova> {
        let first = self.at & !(PAGE - 1);
        let last = self.at.saturating_add(self.needed.saturating_sub(1)) & !(PAGE - 1);
        let count = ((last - first) / PAGE + 1).min(u64::from(self.pages_at_once.max(1)));
        (0..count).map(|page| Iova::new(first + page * PAGE)).collect()
    }
}

/// What an access waits for.
#[derive(Debug, Default)]
enum Wait {
    #[default]
    Nothing,
    Pages(Ticket),
    Stall {
        stall: Stall,
        write: bool,
    },
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempted {
    Done,
    Waiting,
    Failed,
}

/// What came of waiting.
enum Waited {
    /// It is over: try.
    Try,
    /// Still waiting.
    On,
    Failed,
    /// The access counts as done: it reads zeroes, or its bytes are gone.
    Ignored,
}

/// How a queue's access stands.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    wait: Wait,
    /// Requests in a row for this access.
    requests: u32,
}

/// A way to memory in an address space, and whether anything was done there.
pub(super) struct Way<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) pasid: Option<Pasid>,
    pub(super) worked: &'a Cell<bool>,
    pub(super) stalls: &'a dyn Fn(),
}

impl Attempt {
    /// Makes the access, or goes on with it. `bytes` lie in one page.
    pub(super) fn go(&mut self, way: &Way<'_>, place: Place, mut bytes: Bytes<'_>) -> Attempted {
        loop {
            match self.waited(way) {
                Waited::Try => (),
                Waited::On => return Attempted::Waiting,
                Waited::Failed => return self.end(Attempted::Failed),
                Waited::Ignored => {
                    if let Bytes::Read(into) = &mut bytes {
                        into.fill(0);
                    }
                    return self.end(Attempted::Done);
                }
            }
            let access = access(way, Iova::new(place.at), &mut bytes);
            match access {
                Access::Done => return self.end(Attempted::Done),
                Access::Failed => return self.end(Attempted::Failed),
                Access::Busy => return Attempted::Waiting,
                Access::Stalled(stall) => self.stall(way, stall, bytes.is_write()),
                Access::Absent => match self.request(way, place, bytes.is_write()) {
                    Ok(()) => (),
                    Err(Refused::Full) => return Attempted::Waiting,
                    Err(Refused::Off) => return self.end(Attempted::Failed),
                },
            }
        }
    }

    /// Makes a last access without asking for pages: what a stop allows.
    pub(super) fn go_once(&mut self, way: &Way<'_>, at: u64, bytes: &[u8]) -> Attempted {
        match self.waited(way) {
            Waited::Try => (),
            Waited::On => return Attempted::Waiting,
            Waited::Failed => return self.end(Attempted::Failed),
            Waited::Ignored => return self.end(Attempted::Done),
        }
        match access(way, Iova::new(at), &mut Bytes::Write(bytes)) {
            Access::Done => self.end(Attempted::Done),
            Access::Stalled(stall) => {
                self.stall(way, stall, true);
                Attempted::Waiting
            }
            Access::Failed | Access::Busy | Access::Absent => self.end(Attempted::Failed),
        }
    }

    /// Whether everything that was asked for has been answered. The access itself is given up.
    pub(super) fn is_over(&mut self, way: &Way<'_>) -> bool {
        !matches!(self.waited(way), Waited::On)
    }

    /// Gives the access up, and does not want to hear of it any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn end(&mut self, attempted: Attempted) -> Attempted {
        self.forget();
        attempted
    }

    fn stall(&mut self, way: &Way<'_>, stall: Stall, write: bool) {
        (way.stalls)();
        self.wait = Wait::Stall { stall, write };
    }

    fn waited(&mut self, way: &Way<'_>) -> Waited {
        let waited = match &self.wait {
            Wait::Nothing => return Waited::Try,
            Wait::Pages(ticket) => match ticket.state() {
                GroupState::Waiting => return Waited::On,
                GroupState::Success => {
                    way.memory.note_retry();
                    Waited::Try
                }
                GroupState::Invalid | GroupState::Failure => Waited::Failed,
            },
            Wait::Stall { stall, write } => match way.memory.stalled(*stall, *write) {
                StallState::Waiting => return Waited::On,
                StallState::Retry => Waited::Try,
                StallState::Aborted => Waited::Failed,
                StallState::Ignored => Waited::Ignored,
            },
        };
        way.worked.set(true);
        self.wait = Wait::Nothing;
        waited
    }

    fn request(&mut self, way: &Way<'_>, place: Place, write: bool) -> Result<(), Refused> {
        if self.requests == REQUESTS_IN_A_ROW {
            return Err(Refused::Off);
        }
        let ticket = way.memory.request(way.pasid, &place.pages(), write)?;
        way.worked.set(true);
        self.requests += 1;
        self.wait = Wait::Pages(ticket);
        Ok(())
    }
}

fn access(way: &Way<'_>, at: Iova, bytes: &mut Bytes<'_>) -> Access {
    let access = match bytes {
        Bytes::Read(into) => way.memory.read(way.pasid, at, into),
        Bytes::Write(from) => way.memory.write(way.pasid, at, from),
    };
    if access != Access::Absent {
        way.worked.set(true);
    }
    access
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_ahead_end_where_the_need_ends_and_where_addresses_end() {
        let pages = |at, needed, pages_at_once| {
            let pages = Place { at, needed, pages_at_once }.pages();
            (pages[0].get(), pages.len())
        };
        assert_eq!(pages(0x1ffc, 4, 8), (0x1000, 1));
        assert_eq!(pages(0x1ffc, 5, 8), (0x1000, 2));
        assert_eq!(pages(0x1000, 0x10_0000, 8), (0x1000, 8));
        assert_eq!(pages(0x1000, 0x10_0000, 1), (0x1000, 1));
        assert_eq!(pages(u64::MAX - 1, 2, 32), (0xffff_ffff_ffff_f000, 1));
        assert_eq!(pages(5, 0, 0), (0, 1));
    }
}
