//! What the driver makes of a bridge, seen by devices' accesses and by the words in the bridge's tables.

extern crate std;

mod bringup;
mod domains;
mod frozen;
mod ownership;
mod resets;
mod windows;

use alloc::sync::Arc;

use portcullis_core::device::{Device, DeviceInfo};
use portcullis_core::domain::FlushMode;
use portcullis_core::group::{DefaultDomain, Group};
use portcullis_core::iommu::{HwDomain, Iommu, SyncError, Target};
use portcullis_core::owner::Owner;
use portcullis_core::table_group::{DmaTable, TableEntry, TableGroup, TableSpec};
use portcullis_core::unit::IommuUnit;
use portcullis_hal::Platform;
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Perms, Prot, SizeLg2, SourceId};

use crate::config::{Config, M32};
use crate::testing::{Bridge, Fake};

/// Request ids of devices.
const DISK: u16 = 0x0008;
const CARD: u16 = 0x0110;

const BYPASS: u64 = 1 << 59;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn source(rid: u16) -> SourceId {
    SourceId(rid.into())
}

fn range(first: u64, len_bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len_bytes).unwrap()
}

fn user() -> Owner {
    Owner::new(0x51).unwrap()
}

fn with_bypass(config: &mut Config) {
    config.bypass_end = Some(Pa::new(0x1000_0000));
}

/// A group and its only device.
type Grouped = (Arc<Group<Fake>>, Arc<Device<Fake>>);

/// A machine with core in it: a bridge and devices, each with a PE and a group of its own.
struct Machine {
    fake: Arc<Fake>,
    bridge: Arc<Bridge>,
    unit: IommuUnit<Fake>,
    groups: std::vec::Vec<Grouped>,
}

impl Machine {
    fn new(rids: &[u16], change: impl FnOnce(&mut Config)) -> Self {
        let fake = Fake::new();
        let bridge = fake.bridge(change);
        let unit = IommuUnit::new(fake.clone(), bridge.clone());
        let mut machine = Self { fake, bridge, unit, groups: std::vec::Vec::new() };
        rids.iter().for_each(|&rid| machine.plug(rid));
        machine
    }

    fn plug(&mut self, rid: u16) {
        let device = self.unit.add_device(DeviceInfo::new("device", &[source(rid)])).unwrap();
        let kind = DefaultDomain::Dma(FlushMode::Strict);
        let group = Group::new(self.fake.clone(), self.bridge.clone(), rid.into(), kind).unwrap();
        group.add_device(&device).unwrap();
        self.groups.push((Arc::new(group), device));
    }

    fn group(&self, at: usize) -> &Arc<Group<Fake>> {
        &self.groups[at].0
    }

    fn table_group(&self, rid: u16) -> Arc<dyn TableGroup> {
        self.bridge.table_group(source(rid)).unwrap()
    }

    fn unfreeze(&self, rid: u16) {
        use portcullis_core::table_group::Freeze;
        let group = self.table_group(rid);
        let eeh = group.eeh().unwrap();
        eeh.unfreeze(Freeze::Io).unwrap();
        eeh.unfreeze(Freeze::Dma).unwrap();
    }

    /// What an access reaches. A PE that it froze goes on.
    fn reach(&self, rid: u16, address: u64) -> Option<u64> {
        let reached = self.fake.access(rid, address, true);
        if reached.is_none() {
            self.unfreeze(rid);
        }
        reached
    }
}

fn spec(window: usize, page_lg2: u8, window_bytes: u64, levels: u8) -> TableSpec {
    TableSpec { window, page: SizeLg2::new(page_lg2).unwrap(), window_bytes, levels }
}

fn page(pa: u64) -> TableEntry {
    TableEntry { pa: Pa::new(pa), perms: Perms::READ_WRITE, user: 0x7f00_0000 | pa }
}

fn flush(table: &dyn DmaTable, range: IovaRange) {
    let mut gather = portcullis_core::iommu::Gather::new();
    gather.add(range, table.spec().page, false);
    let _ = table.flush(&mut gather).unwrap();
    assert!(gather.is_empty());
}

fn target<P: Platform>(domain: &Arc<dyn HwDomain<P>>) -> Target<P> {
    Target::Domain(domain.clone())
}

/// What an operation says for which the bridge did not answer.
const NO_ANSWER: SyncError = SyncError::Timeout { waiting_for: "PHB3_CONFIG", last: u64::MAX };

const READ_WRITE: Prot = Prot::cached(Perms::READ_WRITE);
