//! Any vendor's driver on a bed with its devices: what a case maps, attaches and asks.
//!
//! Not here: engines and memory (`floor`), bringing the driver up (`suite`).

use std::sync::Arc;

use portcullis::core::iommu::{FaultRecord, Gather, HwDomain, Iommu, Target};
use portcullis::types::{AccessKind, Iova, IovaRange, Pa, Perms, Prot, SourceId};

use super::{Refusal, Vendor};
use crate::conformance::bed::Bed;
use crate::conformance::bench::Outcome;
use crate::conformance::differences::also;
use crate::conformance::floor::{Access, Floor, Seen, WAY_OUT};
use crate::conformance::via::Via;
use crate::ensure;

/// A domain of a driver.
pub type Domain<B> = Arc<dyn HwDomain<Via<<B as Bed>::Platform>>>;
/// What a stream is attached to.
pub type Aim<B> = Target<Via<<B as Bed>::Platform>>;

/// A driver on a bed.
pub struct Rig<B: Bed, V: Vendor> {
    floor: Floor<B>,
    /// The driver.
    pub driver: Arc<V::Driver<B>>,
    setting: V::Setting,
}

/// What a case does with engines and memory it does with the rig.
impl<B: Bed, V: Vendor> core::ops::Deref for Rig<B, V> {
    type Target = Floor<B>;

    fn deref(&self) -> &Floor<B> {
        &self.floor
    }
}

impl<B: Bed, V: Vendor> Rig<B, V> {
    pub(super) fn new(
        bed: Arc<B>,
        via: Arc<Via<B::Platform>>,
        driver: Arc<V::Driver<B>>,
        setting: V::Setting,
    ) -> Result<Self, String> {
        let granule = driver.capabilities().page_sizes.smallest().ok_or("a domain without page sizes")?;
        Ok(Self { floor: Floor::new(bed, via, granule)?, driver, setting })
    }

    /// Makes every engine known, each as a device of its own.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn add_devices(&self) -> Outcome {
        for stream in self.streams() {
            let added = self.driver.add_device(&format!("engine {stream:#x}"), &[SourceId(stream)]);
            added.map_err(|error| format!("adding {stream:#x}: {error:?}"))?;
        }
        Ok(())
    }

    /// Removes the devices and turns the hardware off.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn end(&self) -> Outcome {
        for stream in self.streams() {
            self.remove(stream)?;
        }
        V::teardown::<B>(&self.driver).map_err(|error| format!("teardown: {error:?}"))
    }

    /// Removes the device of a stream, if there is one.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn remove(&self, stream: u32) -> Outcome {
        self.driver.remove_device(&[SourceId(stream)]).map_err(|error| format!("removing: {error:?}"))
    }

    /// A domain with nothing mapped but the way out.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn domain(&self) -> Result<Domain<B>, String> {
        let domain = self.driver.new_domain().map_err(|error| format!("a domain: {error:?}"))?;
        self.map(&domain, WAY_OUT, self.way_out(), self.granule.bytes(), Perms::READ_WRITE)?;
        Ok(domain)
    }

    /// Maps.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn map(&self, domain: &Domain<B>, at: u64, to: Pa, len_bytes: u64, perms: Perms) -> Outcome {
        let mapped = domain.map(Iova::new(at), to, len_bytes, Prot::cached(perms));
        mapped.map_err(|error| format!("mapping {at:#x} to {to}: {error:?}"))
    }

    /// Unmaps and syncs.
    ///
    /// # Errors
    ///
    /// The driver refused, or less was mapped.
    pub fn unmap(&self, domain: &Domain<B>, at: u64, len_bytes: u64) -> Outcome {
        let range = IovaRange::new(Iova::new(at), len_bytes).ok_or("a range that wraps")?;
        let mut gather = Gather::new();
        let unmapped = domain.unmap(range, &mut gather).map_err(|error| format!("unmap: {error:?}"))?;
        ensure!(unmapped == len_bytes, "{unmapped:#x} bytes of {len_bytes:#x} were unmapped at {at:#x}");
        domain.sync(&mut gather).map(drop).map_err(|error| format!("sync after unmap: {error:?}"))
    }

    /// Attaches a stream.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn attach(&self, stream: u32, target: &Aim<B>) -> Outcome {
        let attached = self.driver.attach(&[SourceId(stream)], target);
        attached.map_err(|error| format!("attaching {stream:#x} to {target:?}: {error:?}"))
    }

    /// A domain to which every engine is attached.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn led(&self) -> Result<Domain<B>, String> {
        let domain = self.domain()?;
        let target = Target::Domain(domain.clone());
        self.streams().into_iter().try_for_each(|stream| self.attach(stream, &target))?;
        Ok(domain)
    }

    /// The faults that were recorded since the last call.
    pub fn events(&self) -> Vec<FaultRecord> {
        self.wait();
        let mut records = Vec::new();
        self.driver.drain_events(&mut |record| records.push(*record));
        records
    }

    /// Demands that an access goes to `landing`, and that nothing is recorded.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn passes(&self, access: Access, landing: Pa) -> Outcome {
        let seen = self.carry(access, landing)?;
        let records = self.events();
        ensure!(seen == Seen::Moved, "{access:x?} did not reach {landing}: {records:x?}");
        ensure!(records.is_empty(), "{access:x?} passed, and yet: {records:x?}");
        Ok(())
    }

    /// Demands that an access does not reach `landing`. Answers what was recorded.
    ///
    /// # Errors
    ///
    /// It does.
    pub fn refuses(&self, access: Access, landing: Pa) -> Result<Vec<FaultRecord>, String> {
        let seen = self.carry(access, landing)?;
        let records = self.events();
        ensure!(seen == Seen::Refused, "{access:x?} reached {landing}: {records:x?}");
        Ok(records)
    }

    /// Demands that an access does not reach `landing`, and that this, and who, where and how, is recorded once.
    ///
    /// # Errors
    ///
    /// It does, or something else is recorded.
    pub fn faults(&self, refusal: Refusal, access: Access, landing: Pa) -> Outcome {
        let names = V::names(self.setting, refusal, access.kind == AccessKind::Write);
        self.faults_as(names, access, landing)
    }

    /// The same, by a name of the vendor's.
    ///
    /// # Errors
    ///
    /// It does, or something else is recorded.
    pub fn faults_as(&self, names: &[&str], access: Access, landing: Pa) -> Outcome {
        let records = self.refuses(access, landing)?;
        self.told_as(&records, names, access)
    }

    /// Demands that what was recorded is this one refusal, by whichever name the bed is known to use.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn told(&self, records: &[FaultRecord], refusal: Refusal, access: Access) -> Outcome {
        let names = V::names(self.setting, refusal, access.kind == AccessKind::Write);
        self.told_as(records, names, access)
    }

    fn told_as(&self, records: &[FaultRecord], names: &[&str], access: Access) -> Outcome {
        let said = names.iter().flat_map(|name| also(self.bed.name(), name));
        let names: Vec<&str> = names.iter().chain(said).copied().collect();
        self.tells(records, &names, access)
    }

    /// Demands that what was recorded is this one refusal, by one of these names.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn tells(&self, records: &[FaultRecord], names: &[&str], access: Access) -> Outcome {
        let [record] = records else {
            return Err(format!("{access:x?}: one record of {names:?} wanted, {records:x?}"));
        };
        ensure!(names.contains(&record.name), "{access:x?}: {names:?} wanted, {record:x?}");
        let source = SourceId(self.stream(self.engine_for(access)));
        ensure!(record.source == Some(source), "{access:x?} was of {source:?}: {record:x?}");
        let bits = V::recorded_bits(&*self.bed);
        let kept = if bits < 64 { (1 << bits) - 1 } else { u64::MAX };
        let page = |at: u64| at & !0xfff & kept;
        let at = record.iova.map(|at| page(at.get()));
        ensure!(at == Some(page(access.at)), "{access:x?} is recorded elsewhere: {record:x?}");
        let kind = record.access.map(|access| access.kind);
        ensure!(kind == Some(access.kind), "{access:x?} is recorded as another: {record:x?}");
        Ok(())
    }
}

impl<B: Bed, V: Vendor> Drop for Rig<B, V> {
    fn drop(&mut self) {
        // What is accessed goes back behind this.
        let _off = V::teardown::<B>(&self.driver);
    }
}
