//! Every short history of calls, held against the table: who holds a group, how often, and which call is refused why.

use std::sync::Arc;

use crate::support::{Bench, Machine, STRICT, bench};
use portcullis_core::device::Device;
use portcullis_core::domain::{Domain, DomainType};
use portcullis_core::owner::{Errno, Owner};

/// Everything that two drivers and two users can do to a group of two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Use(usize),
    Unuse(usize),
    ClaimGroup(usize),
    ReleaseGroup(usize),
    ClaimDevice(usize, usize),
    ReleaseDevice(usize, usize),
    Attach(usize),
    Detach(usize),
}

use Step::{Attach, ClaimDevice, ClaimGroup, Detach, ReleaseDevice, ReleaseGroup, Unuse, Use};

const STEPS: [Step; 13] = [
    Use(0),
    Use(1),
    Unuse(0),
    Unuse(1),
    ClaimGroup(1),
    ClaimGroup(2),
    ReleaseGroup(1),
    ReleaseGroup(2),
    ClaimDevice(0, 1),
    ClaimDevice(1, 2),
    ReleaseDevice(0, 1),
    Attach(1),
    Detach(1),
];

/// The table, in numbers.
#[derive(Debug, Default)]
struct Table {
    uses: [usize; 2],
    owner: usize,
    whole: bool,
    claims: [usize; 2],
    attached: bool,
}

impl Table {
    fn count(&self) -> usize {
        self.uses.iter().chain(&self.claims).sum::<usize>() + usize::from(self.whole)
    }

    fn place(&self) -> &'static str {
        match (self.owner, self.attached) {
            (0, _) => "domain0",
            (_, false) => "blocked",
            (_, true) => "domain1",
        }
    }

    fn does(&mut self, step: Step) -> Result<(), Errno> {
        let free = self.count() == 0;
        let refuse_unless = |fine, errno| if fine { Ok(()) } else { Err(errno) };
        match step {
            Use(device) => {
                refuse_unless(self.owner == 0, Errno::Ebusy)?;
                self.uses[device] += 1;
            }
            Unuse(device) => {
                refuse_unless(self.uses[device] > 0, Errno::Einval)?;
                self.uses[device] -= 1;
            }
            ClaimGroup(who) => {
                refuse_unless(free, Errno::Eperm)?;
                (self.owner, self.whole) = (who, true);
            }
            ClaimDevice(device, who) => {
                refuse_unless(free || self.owner == who, Errno::Eperm)?;
                self.owner = who;
                self.claims[device] += 1;
            }
            ReleaseGroup(who) => {
                refuse_unless(self.owner != 0, Errno::Einval)?;
                refuse_unless(self.owner == who, Errno::Eperm)?;
                refuse_unless(self.whole, Errno::Einval)?;
                refuse_unless(self.claims == [0, 0], Errno::Ebusy)?;
                self.whole = false;
            }
            ReleaseDevice(device, who) => {
                refuse_unless(self.owner != 0, Errno::Einval)?;
                refuse_unless(self.owner == who, Errno::Eperm)?;
                refuse_unless(self.claims[device] > 0, Errno::Einval)?;
                self.claims[device] -= 1;
            }
            Attach(who) | Detach(who) => {
                refuse_unless(self.owner == who, Errno::Eperm)?;
                self.attached = matches!(step, Attach(_));
            }
        }
        if self.owner != 0 && self.count() == 0 {
            (self.owner, self.attached) = (0, false);
        }
        Ok(())
    }
}

struct Real {
    bench: Bench,
    devices: [Arc<Device<Machine>>; 2],
    domain: Arc<Domain<Machine>>,
}

impl Real {
    fn new() -> Self {
        let bench = bench(STRICT);
        let devices = [1, 2].map(|source| bench.member(source, |_| ()));
        let domain = Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap();
        Self { bench, devices, domain }
    }

    fn does(&self, step: Step) -> Result<(), Errno> {
        let Self { bench: Bench { group, .. }, devices, domain } = self;
        let owner = |who| Owner::new(who).unwrap();
        match step {
            Use(at) => group.use_default_domain(&devices[at], "driver").map_err(|error| error.errno()),
            Unuse(at) => group.unuse_default_domain(&devices[at]).map_err(|error| error.errno()),
            ClaimGroup(who) => group.claim_group(owner(who)).map_err(|error| error.errno()),
            ReleaseGroup(who) => group.release_group(owner(who)).map(drop).map_err(|error| error.errno()),
            ClaimDevice(at, who) => {
                group.claim_device(&devices[at], owner(who)).map_err(|error| error.errno())
            }
            ReleaseDevice(at, who) => {
                group.release_device(&devices[at], owner(who)).map(drop).map_err(|error| error.errno())
            }
            Attach(who) => group.attach_as(owner(who), domain).map_err(|error| error.errno()),
            Detach(who) => group.detach_as(owner(who)).map_err(|error| error.errno()),
        }
    }
}

fn history(number: usize, length: u32) -> impl Iterator<Item = Step> {
    (0..length).map(move |at| STEPS[number / STEPS.len().pow(at) % STEPS.len()])
}

#[test]
fn every_history_of_four_calls_goes_as_the_table_says() {
    const LENGTH: u32 = 4;
    for number in 0..STEPS.len().pow(LENGTH) {
        let (real, mut table) = (Real::new(), Table::default());
        for step in history(number, LENGTH) {
            let told = || (step, history(number, LENGTH).collect::<Vec<_>>());
            assert_eq!(real.does(step), table.does(step), "{:?}", told());
            let now = real.bench.group.ownership();
            let owner = now.owner.map_or(0, Owner::identity);
            assert_eq!((now.count, owner), (table.count(), table.owner), "{:?}", told());
            let places = real.bench.iommu.places();
            assert!(places.iter().all(|place| place == table.place()), "{places:?} {:?}", told());
        }
    }
}
