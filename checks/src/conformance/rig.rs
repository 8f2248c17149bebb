//! A driver on a bed with its devices: what a case maps, attaches and asks, and how it is judged.
//!
//! What an access did is judged by memory ([`Rig::passes`], [`Rig::refuses`], [`Rig::faults`]), and what was recorded of it by the
//! driver's own events.
//!
//! Not here: bringing the driver up (`bench`), what is done with any driver (`ground`), engines and the memory that they access (`floor`).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

use portcullis::core::iommu::{Iommu, SyncError, Target};
use portcullis::types::{Pa, SourceId};

use super::bed::Bed;
use super::bench::{Domain, Driver, Outcome};
use super::common::Judge;
use super::differences::unsaid;
pub use super::floor::{Access, Seen, fetch, read, write};
use super::ground::Ground;
use super::records::{Wanted, What, shown};
use super::sight::{Leaf, Sight};
use super::via::{Between, Via};
use crate::ensure;

/// A driver on a bed, with devices.
pub struct Rig<B: Bed> {
    /// The driver, the engines, and memory for them.
    ground: Ground<B, Driver<B>>,
    /// What is between.
    pub between: Arc<Between>,
    off: AtomicBool,
}

/// What a case does with the driver, engines and memory it does with the rig.
impl<B: Bed> core::ops::Deref for Rig<B> {
    type Target = Ground<B, Driver<B>>;

    fn deref(&self) -> &Ground<B, Driver<B>> {
        &self.ground
    }
}

impl<B: Bed> Judge for Rig<B> {
    type Bed = B;
    type Driver = Driver<B>;

    fn passes(&self, access: Access, landing: Pa) -> Outcome {
        Self::passes(self, access, landing)
    }

    fn is_refused(&self, access: Access, landing: Pa) -> Outcome {
        self.refuses(access, landing).map(drop)
    }
}

impl<B: Bed> Rig<B> {
    /// A rig of a driver that was brought up. No devices are known yet.
    pub(super) fn new(
        bed: Arc<B>,
        via: Arc<Via<B::Platform>>,
        between: Arc<Between>,
        driver: Arc<Driver<B>>,
    ) -> Result<Self, String> {
        Ok(Self { ground: Ground::new(bed, via, driver)?, between, off: AtomicBool::new(false) })
    }

    /// Makes every engine known, each as a device of its own.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn add_devices(&self) -> Outcome {
        for (index, stream) in self.streams().into_iter().enumerate() {
            self.add_device(index, stream)?;
        }
        Ok(())
    }

    /// Makes an engine known.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn add_device(&self, index: usize, stream: u32) -> Outcome {
        let added = self.driver.add_device(&format!("engine {index}"), &[SourceId(stream)]);
        added.map_err(|error| format!("adding stream {stream:#x}: {error:?}"))
    }

    /// Blocks and removes the devices, turns the SMMU off, and takes memory back.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn end(&self) -> Outcome {
        if self.off.load(Relaxed) {
            return Ok(());
        }
        let removed = self.streams().into_iter().try_for_each(|stream| {
            self.attach(stream, &Target::Blocked).or_else(|error| {
                // A case may have removed it.
                if error.contains("UnknownSource") { Ok(()) } else { Err(error) }
            })?;
            self.driver.remove_device(&[SourceId(stream)]).map_err(|error| format!("removing: {error:?}"))
        });
        removed.and(self.turn_off())
    }

    /// Turns the SMMU off.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn turn_off(&self) -> Outcome {
        self.off.store(true, Relaxed);
        self.driver.teardown().map_err(|error| format!("teardown: {error:?}"))
    }

    /// The SMMU's structures.
    pub fn sight<R>(&self, look: impl FnOnce(&Sight<'_, B::Registers>) -> R) -> R {
        let registers = self.bed.registers();
        look(&Sight { registers: &registers, machine: self.machine() })
    }

    /// The descriptor of an address of an engine's stream.
    ///
    /// # Errors
    ///
    /// There is no table.
    pub fn leaf(&self, engine: usize, at: u64) -> Result<Leaf, String> {
        let leaf = self.sight(|sight| sight.leaf(self.stream(engine), at));
        leaf.ok_or_else(|| format!("no table leads to {at:#x}"))
    }

    /// Makes hardware forget a domain.
    ///
    /// # Errors
    ///
    /// It did not confirm.
    pub fn flush(&self, domain: &Domain<B>) -> Outcome {
        let flushed: Result<_, SyncError> = domain.flush_all();
        flushed.map(drop).map_err(|error| format!("flush: {error:?}"))
    }

    /// The records that were written since the last call.
    pub fn events(&self) -> Vec<[u64; 4]> {
        self.wait();
        let mut records = Vec::new();
        self.driver.drain_events(&mut |record| records.push(record.raw));
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
        ensure!(seen == Seen::Moved, "{access:x?} did not reach {landing}: {}", all(&records));
        ensure!(records.is_empty(), "{access:x?} passed, and yet: {}", all(&records));
        Ok(())
    }

    /// Demands that an access does not reach `landing`. Answers what was recorded.
    ///
    /// # Errors
    ///
    /// It does.
    pub fn refuses(&self, access: Access, landing: Pa) -> Result<Vec<[u64; 4]>, String> {
        let seen = self.carry(access, landing)?;
        let records = self.events();
        ensure!(seen == Seen::Refused, "{access:x?} reached {landing}: {}", all(&records));
        Ok(records)
    }

    /// Demands that an access does not reach `landing`, and that nothing is recorded.
    ///
    /// # Errors
    ///
    /// It does, or something is.
    pub fn refuses_quietly(&self, access: Access, landing: Pa) -> Outcome {
        let records = self.refuses(access, landing)?;
        ensure!(records.is_empty(), "{access:x?} was refused, and recorded: {}", all(&records));
        Ok(())
    }

    /// Demands that an access does not reach `landing`, and that this is recorded.
    ///
    /// # Errors
    ///
    /// It does, or something else is recorded.
    pub fn faults(&self, access: Access, landing: Pa, wanted: Wanted) -> Outcome {
        self.faults_strictly(access, landing, wanted.without(unsaid(self.bed.name())))
    }

    /// The same, also of bits that this bed is known to get wrong in every record.
    ///
    /// # Errors
    ///
    /// It does, or something else is recorded.
    pub fn faults_strictly(&self, access: Access, landing: Pa, wanted: Wanted) -> Outcome {
        let records = self.refuses(access, landing)?;
        let [record] = records.as_slice() else {
            return Err(format!("{access:x?}: {} wanted, {}", shown(&wanted.words), all(&records)));
        };
        ensure!(
            wanted.is(record),
            "{access:x?}: {} wanted (bits {:x?}), {}",
            shown(&wanted.words),
            wanted.known,
            shown(record)
        );
        Ok(())
    }

    /// What an access is to a record.
    pub fn what(&self, access: Access) -> What {
        let Access { at, kind, privileged, .. } = access;
        What { stream: self.stream(self.engine_for(access)), at, kind, privileged }
    }

    /// Demands that a fault of the domain's stage is recorded of an access.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn faults_with(&self, number: u64, access: Access, landing: Pa) -> Outcome {
        self.faults(
            access,
            landing,
            super::records::fault(number, self.what(access), self.driver.uses_stage2()),
        )
    }
}

impl<B: Bed> Drop for Rig<B> {
    fn drop(&mut self) {
        // What is accessed goes back behind this.
        let _off = self.driver.teardown();
    }
}

fn all(records: &[[u64; 4]]) -> String {
    if records.is_empty() {
        return "nothing was recorded".into();
    }
    records.iter().map(shown).collect::<Vec<_>>().join("; ")
}
