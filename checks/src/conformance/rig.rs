//! A driver on a bed with its devices: what a case maps, attaches and asks, and how it is judged.
//!
//! What an access did is judged by memory ([`Rig::passes`], [`Rig::refuses`], [`Rig::faults`]), and what was recorded of it by the
//! driver's own events.
//!
//! Not here: bringing the driver up (`bench`).

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis::core::iommu::{Gather, Iommu, SyncError, Target};
use portcullis::hal::{BlockLayout, Clock, DmaMemory};
use portcullis::types::{AccessKind, Iova, IovaRange, Pa, Perms, Prot, SizeLg2, SourceId};

use super::bed::{Ask, Bed, Carried, WayOut};
use super::bench::{Aim, Domain, Driver, Outcome};
use super::differences::unsaid;
use super::records::{Wanted, What, shown};
use super::sight::{Leaf, Sight};
use super::via::{Between, Via};
use crate::ensure;

/// Where engines may write what they have read, in every domain of the suite. Below 4 GiB, and far from what cases map.
const WAY_OUT: u64 = 0xf000_0000;
/// How often hardware is given time before an event is held not to come.
const PATIENCE: usize = 24;

/// A driver on a bed, with devices.
pub struct Rig<B: Bed> {
    /// The bed.
    pub bed: Arc<B>,
    /// What is between.
    pub between: Arc<Between>,
    /// The driver.
    pub driver: Arc<Driver<B>>,
    /// The smallest page.
    pub granule: SizeLg2,
    via: Arc<Via<B::Platform>>,
    buffers: Mutex<Vec<(Pa, BlockLayout)>>,
    way_out: Pa,
    off: AtomicBool,
}

/// What an access did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Bytes moved.
    Moved,
    /// None did.
    Refused,
}

/// An access of a case: four bytes, unmarked, by the first engine that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which engine; the first that can if none.
    pub engine: Option<usize>,
    /// At which address.
    pub at: u64,
    /// Doing what.
    pub kind: AccessKind,
    /// Marked as privileged.
    pub privileged: bool,
    /// With this PASID.
    pub pasid: Option<u32>,
}

/// A write.
pub const fn write(at: u64) -> Access {
    Access { engine: None, at, kind: AccessKind::Write, privileged: false, pasid: None }
}

/// A read.
pub const fn read(at: u64) -> Access {
    Access { kind: AccessKind::Read, ..write(at) }
}

/// A fetch of instructions.
pub const fn fetch(at: u64) -> Access {
    Access { kind: AccessKind::Execute, ..write(at) }
}

impl Access {
    /// By this engine.
    #[must_use]
    pub const fn by(self, engine: usize) -> Self {
        Self { engine: Some(engine), ..self }
    }

    /// Marked as privileged.
    #[must_use]
    pub const fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }

    /// With a PASID.
    #[must_use]
    pub const fn in_space(self, pasid: u32) -> Self {
        Self { pasid: Some(pasid), ..self }
    }
}

/// Four bytes: what is refused as a whole, by every bus.
const BYTES: usize = 4;
static TOKEN: AtomicU32 = AtomicU32::new(1);

/// Bytes that no engine sends of its own accord, not the same again for a long time.
fn token() -> [u8; BYTES] {
    (0xa500_0000 | TOKEN.fetch_add(1, Relaxed) & 0x00ff_ffff).to_le_bytes()
}

impl<B: Bed> Rig<B> {
    /// A rig of a driver that was brought up. No devices are known yet.
    pub(super) fn new(
        bed: Arc<B>,
        via: Arc<Via<B::Platform>>,
        between: Arc<Between>,
        driver: Arc<Driver<B>>,
        granule: SizeLg2,
    ) -> Result<Self, String> {
        let (buffers, off) = (Mutex::default(), AtomicBool::new(false));
        let mut rig = Self { bed, via, between, driver, granule, buffers, way_out: Pa::new(0), off };
        rig.way_out = rig.page()?;
        Ok(rig)
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

    /// The streams of the engines.
    pub fn streams(&self) -> Vec<u32> {
        self.bed.engines().iter().map(|engine| engine.stream.0).collect()
    }

    /// The stream of an engine.
    pub fn stream(&self, engine: usize) -> u32 {
        self.bed.engines()[engine].stream.0
    }

    /// Which engine does an access.
    pub fn engine_for(&self, access: Access) -> usize {
        let reads = access.kind != AccessKind::Write;
        let able = self.bed.engines().iter().position(|engine| engine.reads || !reads);
        access.engine.or(able).unwrap_or(0)
    }

    /// The machine behind every hand.
    pub fn machine(&self) -> &dyn super::via::Machine {
        self.via.machine()
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

    /// Memory that nobody else uses, as large as the smallest page and aligned to it.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn page(&self) -> Result<Pa, String> {
        self.memory(self.granule.get())
    }

    /// The same, of `1 << size_lg2` bytes.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn memory(&self, size_lg2: u8) -> Result<Pa, String> {
        let layout = BlockLayout::naturally_aligned(size_lg2);
        let first = self.via.alloc_buffer(layout).ok_or("no memory for data")?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push((first, layout));
        Ok(first)
    }

    /// A domain with nothing mapped but the way out.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn domain(&self) -> Result<Domain<B>, String> {
        let domain = self.driver.new_domain().map_err(|error| format!("a domain: {error:?}"))?;
        self.map(&domain, WAY_OUT, self.way_out, self.granule.bytes(), Perms::READ_WRITE)?;
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

    /// Makes hardware forget a domain.
    ///
    /// # Errors
    ///
    /// It did not confirm.
    pub fn flush(&self, domain: &Domain<B>) -> Outcome {
        let flushed: Result<_, SyncError> = domain.flush_all();
        flushed.map(drop).map_err(|error| format!("flush: {error:?}"))
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

    /// Attaches every engine to a domain.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn lead(&self, domain: &Domain<B>) -> Outcome {
        let target = Target::Domain(domain.clone());
        self.streams().into_iter().try_for_each(|stream| self.attach(stream, &target))
    }

    /// A domain to which every engine is attached.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn led(&self) -> Result<Domain<B>, String> {
        let domain = self.domain()?;
        self.lead(&domain)?;
        Ok(domain)
    }

    /// Fills memory, so that hardware sees it.
    pub fn fill(&self, at: Pa, bytes: &[u8]) {
        self.via.write(at, bytes);
        self.via.clean(at, bytes.len() as u64);
        self.machine().barrier();
    }

    /// What is in memory, as hardware left it.
    pub fn bytes(&self, at: Pa, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.via.invalidate(at, len as u64);
        self.via.read(at, &mut bytes);
        bytes
    }

    /// Does an access, with nothing recorded yet of what came of it. `landing` is where it goes if it goes anywhere.
    ///
    /// # Errors
    ///
    /// It did something that no access does.
    pub fn carry(&self, access: Access, landing: Pa) -> Result<Seen, String> {
        let before = token();
        self.fill(landing, &before);
        let carried = self.ask(access, BYTES);
        let after = self.bytes(landing, BYTES);
        let seen = if access.kind == AccessKind::Write {
            match after {
                after if after == carried.bytes => Seen::Moved,
                after if after == before => Seen::Refused,
                after => return Err(format!("{access:x?} left {after:x?} behind, not {:x?}", carried.bytes)),
            }
        } else if carried.bytes == before {
            Seen::Moved
        } else {
            Seen::Refused
        };
        let said = carried.refused.map(|refused| if refused { Seen::Refused } else { Seen::Moved });
        ensure!(
            said.is_none_or(|said| said == seen),
            "{access:x?}: {seen:?}, but the engine was told {said:?}"
        );
        Ok(seen)
    }

    /// Does an access of `len` bytes.
    pub fn ask(&self, access: Access, len: usize) -> Carried {
        let Access { at, kind, privileged, pasid, .. } = access;
        let ask = Ask { engine: self.engine_for(access), pasid, at, len, kind, privileged };
        let way_out = WayOut { iova: WAY_OUT, pa: self.way_out };
        self.bed.carry_out(&[ask], Some(way_out)).pop().expect("an answer for each ask")
    }

    /// The records that were written since the last call.
    pub fn events(&self) -> Vec<[u64; 4]> {
        (0..PATIENCE).for_each(|_| self.via.relax());
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
        // Where the end was not confirmed the hardware may go on reading its tables: memory for data goes back all the same, it is the bed's last use.
        let _off = self.driver.teardown();
        let buffers = core::mem::take(&mut *self.buffers.lock().unwrap_or_else(PoisonError::into_inner));
        buffers.into_iter().for_each(|(first, layout)| self.via.free_buffer(first, layout));
    }
}

fn all(records: &[[u64; 4]]) -> String {
    if records.is_empty() {
        return "nothing was recorded".into();
    }
    records.iter().map(shown).collect::<Vec<_>>().join("; ")
}
