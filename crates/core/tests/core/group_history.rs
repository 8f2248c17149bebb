//! Any history of a group in which any step may fail: core knows where hardware has each device, a user's devices reach nothing but what is the user's, no mapping of his
//! lies where a device of his has something reserved, and when hardware answers everything works.

use std::sync::Arc;

use portcullis_core::device::Device;
use portcullis_core::domain::{Domain, DomainType};
use portcullis_core::group::{DefaultDomain, DefaultType};
use portcullis_core::iommu::{Gather, ReservedKind};
use portcullis_core::owner::Owner;
use portcullis_types::{Iova, Pa, Perms, Prot};
use proptest::prelude::*;

use crate::support::{Bench, Call, GRANULE, LAZY, Machine, RAM, STRICT, bench_with, range, region};

const WINDOW: u64 = 0x9000;

fn trouble() -> impl Strategy<Value = Option<(Call, usize, usize)>> {
    let calls = [Call::Map, Call::Unmap, Call::Sync, Call::Attach, Call::AttachAndBlock, Call::NewDomain];
    prop::option::of((prop::sample::select(calls.to_vec()), 0..4usize, 1..4usize))
}

/// A group, three devices, and two domains of a user's.
struct Story {
    bench: Bench,
    devices: [Arc<Device<Machine>>; 3],
    domains: [Arc<Domain<Machine>>; 2],
    /// Drivers that use the DMA API, by device.
    used: [usize; 3],
    claims: [usize; 3],
    whole: bool,
}

impl Story {
    fn new() -> Self {
        let bench = bench_with(STRICT, range(0, 0xffff));
        let devices = [
            bench.device(1, |info| {
                info.firmware_regions = vec![region(0x2000, 0x2fff, ReservedKind::Reserved)]
            }),
            bench.device(2, |info| {
                let soft = region(WINDOW, WINDOW + 0xfff, ReservedKind::SoftwareMsi);
                info.firmware_regions = vec![region(0x3800, 0x47ff, ReservedKind::DirectRelaxable), soft];
            }),
            bench.device(3, |info| info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::Msi)]),
        ];
        bench.group.add_device(&devices[0]).unwrap();
        let domain =
            || Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap();
        let domains = [domain(), domain()];
        domains[0].set_msi_window(range(WINDOW, WINDOW + 0xfff)).unwrap();
        Self { bench, devices, domains, used: [0; 3], claims: [0; 3], whole: false }
    }

    fn step(&mut self, kind: u32, at: usize, which: usize, page: u64) {
        let Self { bench, devices, domains, .. } = self;
        let (group, user) = (&bench.group, Owner::new(7).unwrap());
        let (device, domain) = (&devices[at], &domains[which]);
        match kind {
            0 => drop(group.add_device(device)),
            1 => drop(group.remove_device(device)),
            2 => self.used[at] += usize::from(group.use_default_domain(device, "nvme").is_ok()),
            3 => self.used[at] -= usize::from(group.unuse_default_domain(device).is_ok()),
            4 => self.whole |= group.claim_group(user).is_ok(),
            5 => self.whole &= group.release_group(user).is_err(),
            6 => self.claims[at] += usize::from(group.claim_device(device, user).is_ok()),
            7 => self.claims[at] -= usize::from(group.release_device(device, user).is_ok()),
            8 => drop(group.attach(domain)),
            9..=10 => drop(group.attach_as(user, domain)),
            11 => drop(group.replace_as(user, domain)),
            12 => drop(group.detach()),
            13 => drop(group.detach_as(user)),
            14 => drop(group.attach_device(device, domain, Some(user).filter(|_| page > 3))),
            15..=17 => {
                let rw = Prot::cached(Perms::READ_WRITE);
                let _ = domain.map(Iova::new(page * GRANULE), Pa::new(RAM), 2 * GRANULE, rw);
            }
            18 => self.unmap(which, page),
            _ => {
                let kinds = [DefaultDomain::Identity, STRICT, LAZY];
                drop(group.set_default_type(DefaultType::This(kinds[at])));
            }
        }
    }

    /// Unmaps two pages, and again until hardware has confirmed that.
    fn unmap(&self, which: usize, page: u64) {
        let (domain, first) = (&self.domains[which], page * GRANULE);
        for _ in 0..9 {
            let mut gather = Gather::new();
            let unmapped = domain.unmap(range(first, first + 2 * GRANULE - 1), &mut gather);
            if domain.sync(&mut gather).is_ok() && unmapped.is_ok() {
                return;
            }
        }
    }

    fn holds(&self) {
        let Self { bench, devices, domains, .. } = self;
        let ownership = bench.group.ownership();
        for device in devices {
            let source = device.sources()[0].0;
            let place = bench.iommu.place(source).unwrap();
            let Some(domain) = device.domain() else {
                assert_eq!(place, "blocked", "{} is in no group", device.name());
                continue;
            };
            match domain.domain_type() {
                DomainType::Blocked => assert_eq!(place, "blocked"),
                DomainType::Identity => assert_eq!(place, "identity"),
                _ => assert!(place.starts_with("domain"), "{place}"),
            }
            let users = matches!(domain.domain_type(), DomainType::Blocked | DomainType::Unmanaged);
            assert!(users || ownership.owner.is_none(), "a user's device is where {place} is");
            let at = domains.iter().position(|own| Arc::ptr_eq(own, &domain));
            assert_eq!(at.is_some(), place == "domain1" || place == "domain2");
            // The group's own is number 0.
            let mapped = at.map_or(Vec::new(), |at| bench.iommu.domain(1 + at).mapped());
            for (iova, _) in mapped {
                let page = range(iova, iova + GRANULE - 1);
                let regions = device.reserved_regions();
                let taken =
                    regions.iter().find(|region| region.kind.binds_users() && region.range.overlaps(page));
                assert_eq!(taken, None, "{iova:#x} is mapped for {}", device.name());
            }
        }
        assert_eq!(
            ownership.count,
            self.used.iter().chain(&self.claims).sum::<usize>() + usize::from(self.whole)
        );
    }

    fn all_is_well_again(mut self) {
        self.bench.iommu.fail_no_more();
        let user = Owner::new(7).unwrap();
        let group = &self.bench.group;
        for (at, device) in self.devices.iter().enumerate() {
            (0..self.used[at]).for_each(|_| group.unuse_default_domain(device).unwrap());
            (0..self.claims[at]).for_each(|_| drop(group.release_device(device, user).unwrap()));
        }
        if core::mem::take(&mut self.whole) {
            drop(group.release_group(user).unwrap());
        }
        (self.used, self.claims) = ([0; 3], [0; 3]);
        (0..15).for_each(|page| (0..2).for_each(|which| self.unmap(which, page)));
        let group = &self.bench.group;
        group.detach().unwrap();
        for device in &self.devices {
            let _ = group.add_device(device);
            assert!(Arc::ptr_eq(&device.domain().unwrap(), &group.default_domain()), "{}", device.name());
        }
        group.claim_group(user).unwrap();
        self.domains.iter().for_each(|domain| group.replace_as(user, domain).unwrap());
        self.whole = true;
        self.holds();
    }
}

proptest! {
    #[test]
    fn whatever_fails_core_knows_where_devices_are_and_who_may_have_them_there(
        steps in prop::collection::vec((0..20u32, 0..3usize, 0..2usize, 1..12u64, trouble()), 1..60),
    ) {
        let mut story = Story::new();
        for (kind, at, which, page, trouble) in steps {
            if let Some((call, pass, fail)) = trouble {
                story.bench.iommu.fail(call, pass, fail);
            }
            story.step(kind, at, which, page);
            story.bench.iommu.fail_no_more();
            story.holds();
        }
        story.all_is_well_again();
    }
}
