//! The second job: a driver that has the disk write where nothing is mapped. Nothing gets there, and the SMMU says who tried, and where.
//!
//! Two addresses are tried: that of a page of the kernel's, which no device was ever given, and one that was the disk's until a moment ago. The queues are given to
//! the disk properly, so that it does its work up to the last step.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::device::Device;
use portcullis_core::dma::{Coherent, Direction, DmaHandle};
use portcullis_core::iommu::{FaultReason, FaultRecord};
use portcullis_hal::{BlockLayout, DmaMemory};
use portcullis_nvme::{Interrupt, Interrupts, Nvme, NvmeError, Vector};
use portcullis_types::{Pa, PaRange};

use super::Buffer;
use crate::disk::Slot;
use crate::error::{Wrong, doing, ensure};
use crate::lock::Lock;
use crate::mmio::Window;
use crate::mmu::PAGE;
use crate::platform::Metal;
use crate::uart::println;
use crate::view::{self, Addresses, View};

/// What a page holds that nobody may write to.
const PATTERN: u8 = 0xa5;

pub(super) fn run(slot: &Slot<'_>) -> Result<(), Wrong> {
    let place = slot.place();
    let dma = place.group.dma(&place.device).ok_or_else(|| Wrong("the disk is not in its group".into()))?;
    let faults = Faults::watch(&dma);
    slot.set_bus_master(true);
    let kept = Arc::new(Kept { dma: dma.clone(), buffers: Lock::new(BTreeMap::new()) });
    let mut nvme = slot.start(view::handle("a disk's own addresses", kept)?, &polled())?;
    let victim = Buffer::new(PAGE)?;
    Metal.write(victim.first(), &[PATTERN; PAGE as usize]);

    let never = victim.first().get();
    let tried = Try { nvme: &mut nvme, slot, faults: &faults, victim: &victim };
    tried.at(never, "a page of the kernel's, by its physical address")?;

    let mapping =
        dma.map_single(victim.first(), PAGE, Direction::FromDevice).map_err(doing("mapping a page"))?;
    let once = mapping.iova().get();
    dma.unmap_single(mapping).map_err(doing("unmapping a page"))?;
    let tried = Try { nvme: &mut nvme, slot, faults: &faults, victim: &victim };
    tried.at(once, "an address that was the disk's a moment ago")?;

    nvme.shutdown().map_err(|error| Wrong(format!("the disk did not stop: {error}")))?;
    slot.set_bus_master(false);
    dma.domain().set_fault_handler(None);
    Ok(())
}

/// Vectors for a driver that has no interrupts: it looks each time.
pub(super) fn polled() -> Interrupts {
    struct Always;
    impl Interrupt for Always {
        fn take(&self) -> bool {
            true
        }
    }
    Interrupts { admin: Arc::new(Always), io: Vector { index: 0, interrupt: Arc::new(Always) } }
}

/// An attempt.
struct Try<'a> {
    nvme: &'a mut Nvme<View, Window>,
    slot: &'a Slot<'a>,
    faults: &'a Faults,
    victim: &'a Buffer,
}

impl Try<'_> {
    /// Has the disk write a block to `address`.
    fn at(self, address: u64, what: &str) -> Result<(), Wrong> {
        let block = self.nvme.namespace().block_bytes;
        let target = PaRange::new(Pa::new(address), block).ok_or_else(|| Wrong("it wraps".into()))?;
        // A disk that is told that its write was refused fails the command. QEMU's is not told.
        let answer = match self.nvme.read(0, &[target]) {
            Ok(()) => "the disk did not notice",
            Err(NvmeError::Command { .. }) => "the command failed",
            Err(error) => return Err(Wrong(format!("reading to {address:#x}: {error}"))),
        };
        let smmus = &self.slot.system.smmus;
        smmus.iter().for_each(|smmu| _ = smmu.unit.dispatch_faults());
        let records = self.faults.take();
        let first = records
            .first()
            .ok_or_else(|| Wrong(format!("nothing was reported of the write to {address:#x}")))?;
        let (source, iova) = (first.source.map(|source| source.0), first.iova.map(|iova| iova.get()));
        let own = self.slot.place().device.sources().first().map(|source| source.0);
        ensure!(source == own && iova == Some(address), "another fault than that of the write: {first:?}");
        ensure!(first.reason == FaultReason::NotMapped, "not for want of a mapping: {first:?}");
        let untouched = self.victim.bytes().iter().all(|&byte| byte == PATTERN);
        ensure!(untouched, "the disk's write to {address:#x} got through");
        println!(
            "job 2: {what}: write to {address:#x} blocked, {} events {} of stream {:#x}, nothing written ({answer})",
            records.len(),
            first.name,
            source.unwrap_or_default()
        );
        Ok(())
    }
}

/// What the SMMU reported of a domain's devices.
pub(super) struct Faults(Arc<Lock<Vec<FaultRecord>>>);

impl Faults {
    /// Notes every fault in the domain from now on.
    fn watch(dma: &DmaHandle<Metal>) -> Self {
        let records: Arc<Lock<Vec<FaultRecord>>> = Arc::new(Lock::new(Vec::new()));
        let noted = records.clone();
        let handler = move |_: &Device<Metal>, record: &FaultRecord| noted.lock().push(*record);
        dma.domain().set_fault_handler(Some(Arc::new(handler)));
        Self(records)
    }

    fn take(&self) -> Vec<FaultRecord> {
        core::mem::take(&mut *self.0.lock())
    }
}

/// The disk's memory as the DMA API has given it, by the addresses that the disk says.
struct Kept {
    dma: DmaHandle<Metal>,
    buffers: Lock<BTreeMap<u64, Coherent>>,
}

impl Addresses for Kept {
    fn alloc(&self, layout: BlockLayout) -> Option<u64> {
        let buffer = self.dma.alloc_coherent(layout.size_bytes()).ok()?;
        let address = buffer.iova().get();
        self.buffers.lock().insert(address, buffer);
        Some(address)
    }

    fn free(&self, first: u64, _: BlockLayout) {
        let buffer = self.buffers.lock().remove(&first);
        let freed = buffer.map(|buffer| self.dma.free_coherent(buffer));
        assert!(matches!(freed, Some(Ok(()))), "taking {first:#x} back");
    }

    fn lookup(&self, address: u64) -> Option<Pa> {
        self.dma.domain().lookup(portcullis_types::Iova::new(address))
    }
}
