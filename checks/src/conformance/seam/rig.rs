//! Any vendor's driver on a bed with its devices: what a case maps, attaches and asks.
//!
//! Not here: what is done with any driver (`ground`), engines and memory (`floor`), bringing the driver up (`suite`).

use std::sync::Arc;

use portcullis::core::iommu::{FaultRecord, Iommu};
use portcullis::types::{AccessKind, Pa, SourceId};

use super::{Refusal, Vendor};
use crate::conformance::bed::Bed;
pub use crate::conformance::bench::Domain;
use crate::conformance::bench::Outcome;
use crate::conformance::common::Judge;
use crate::conformance::differences::also;
use crate::conformance::floor::{Access, Seen};
use crate::conformance::ground::Ground;
use crate::conformance::via::Via;
use crate::ensure;

/// A driver on a bed.
pub struct Rig<B: Bed, V: Vendor> {
    ground: Ground<B, V::Driver<B>>,
    setting: V::Setting,
}

/// What a case does with the driver, engines and memory it does with the rig.
impl<B: Bed, V: Vendor> core::ops::Deref for Rig<B, V> {
    type Target = Ground<B, V::Driver<B>>;

    fn deref(&self) -> &Ground<B, V::Driver<B>> {
        &self.ground
    }
}

impl<B: Bed, V: Vendor> Judge for Rig<B, V> {
    type Bed = B;
    type Driver = V::Driver<B>;

    fn passes(&self, access: Access, landing: Pa) -> Outcome {
        Self::passes(self, access, landing)
    }

    fn is_refused(&self, access: Access, landing: Pa) -> Outcome {
        self.refuses(access, landing).map(drop)
    }
}

impl<B: Bed, V: Vendor> Rig<B, V> {
    pub(super) fn new(
        bed: Arc<B>,
        via: Arc<Via<B::Platform>>,
        driver: Arc<V::Driver<B>>,
        setting: V::Setting,
    ) -> Result<Self, String> {
        Ok(Self { ground: Ground::new(bed, via, driver)?, setting })
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
