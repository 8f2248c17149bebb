//! The third job: the disk is handed a buffer by a process's own address, through the process's own page table, and the process checks the bytes itself.
//!
//! This SMMU has no substreams, so the disk is given to the process as a whole ([`SvaUnit::domain`]): its queues are in the process's memory, too, and what the
//! process has not got the disk does not reach. Nobody looks at the pointer that the process passes: the process's table is what decides. There is no doorbell for
//! messages in that table, so the driver looks at its queues instead.

use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portcullis_core::device::Device;
use portcullis_core::iommu::FaultRecord;
use portcullis_core::iopf::FaultQueue;
use portcullis_core::mm::ProcessMemory;
use portcullis_core::pasid::MmPasids;
use portcullis_core::sva::SvaUnit;
use portcullis_core::unit::IommuUnit;
use portcullis_hal::BlockLayout;
use portcullis_nvme::Nvme;
use portcullis_types::{Pa, PaRange};

use super::Label;
use super::blocked::polled;
use crate::disk::Slot;
use crate::error::{Wrong, doing, ensure};
use crate::lock::Lock;
use crate::mmio::Window;
use crate::mmu::PAGE;
use crate::platform::Metal;
use crate::process::{Calls, Process};
use crate::uart::println;
use crate::view::{self, Addresses, View};

/// The process's address space id. Such as are in use by Portcullis's own domains give way.
const ASID: u16 = 1;

pub(super) fn run(slot: &Slot<'_>, label: &Label) -> Result<(), Wrong> {
    let device = &slot.place().device;
    let unit = slot.system.smmus.iter().find(|smmu| Arc::ptr_eq(smmu.unit.iommu(), device.iommu()));
    let unit = unit.map(|smmu| smmu.unit.clone()).ok_or_else(|| Wrong("the disk has no SMMU".into()))?;
    let sva = SvaUnit::new(unit.clone(), Arc::new(MmPasids::new()), Arc::new(FaultQueue::new()));
    let process = Process::new(ASID)?;
    let memory: Arc<dyn ProcessMemory> = process.clone();
    let domain = sva.domain(&memory).map_err(doing("sharing the process's memory"))?;
    let faults = Arc::new(Faults { first: AtomicU64::new(0), count: AtomicU64::new(0) });
    let heard = faults.clone();
    let handler = move |_: &Device<Metal>, record: &FaultRecord| heard.hear(record);
    domain.set_fault_handler(Some(Arc::new(handler)));
    let group = &slot.place().group;
    group.attach(&domain).map_err(doing("giving the disk to the process"))?;
    println!(
        "job 3: the disk walks the table of process {ASID}, {} KiB of tables",
        process.table_bytes() >> 10
    );

    slot.set_bus_master(true);
    let nvme = slot.start(view::handle("a process's addresses", process.clone())?, &polled())?;
    let disk = Arc::new(Served { nvme: Lock::new(Some(nvme)), unit, faults: faults.clone() });
    let buffer = process.add_memory(label.crc_bytes.into(), PAGE)?;
    let beside = process.add_memory(PAGE, PAGE)?;
    let scattered = [buffer, buffer + PAGE].map(|va| process.lookup(va).map_or(0, Pa::get));
    println!(
        "job 3: its buffer is at {buffer:#x}, the first pages of which are at {:#x} and {:#x}",
        scattered[0], scattered[1]
    );
    let status = process.run(disk.clone(), [buffer, beside, label.last_block, 0]);
    ensure!(status == 0, "the process ended with {status}");
    let (first, count) = (faults.first.load(Relaxed), faults.count.load(Relaxed));
    ensure!(count > 0 && first == buffer, "{count} faults, the first at {first:#x}");
    println!(
        "job 3: what it gave back was refused at {buffer:#x}; {} bytes were read by its own addresses",
        label.crc_bytes
    );

    disk.stop()?;
    slot.set_bus_master(false);
    process.exit()?;
    group.detach().map_err(doing("taking the disk back"))?;
    Ok(())
}

/// What the SMMU reported of the disk while it was the process's.
struct Faults {
    first: AtomicU64,
    count: AtomicU64,
}

impl Faults {
    fn hear(&self, record: &FaultRecord) {
        if self.count.fetch_add(1, Relaxed) == 0 {
            self.first.store(record.iova.map_or(0, |iova| iova.get()), Relaxed);
        }
    }
}

/// The disk, as it serves the process.
struct Served {
    nvme: Lock<Option<Nvme<View, Window>>>,
    unit: Arc<IommuUnit<Metal>>,
    faults: Arc<Faults>,
}

impl Served {
    fn stop(&self) -> Result<(), Wrong> {
        let nvme = self.nvme.lock().take().ok_or_else(|| Wrong("the disk stopped twice".into()))?;
        nvme.shutdown().map_err(|error| Wrong(format!("the disk did not stop: {error}")))
    }
}

impl Calls for Served {
    /// Done means that the command succeeded and that nothing was refused on its way.
    fn read(&self, lba: u64, va: u64, bytes: u64) -> bool {
        let before = self.faults.count.load(Relaxed);
        // Taken out, so that no lock is held while the disk works.
        let Some(mut nvme) = self.nvme.lock().take() else { return false };
        let read = PaRange::new(Pa::new(va), bytes).map(|buffer| nvme.read(lba, &[buffer]));
        *self.nvme.lock() = Some(nvme);
        self.unit.dispatch_faults();
        matches!(read, Some(Ok(()))) && self.faults.count.load(Relaxed) == before
    }
}

/// The driver's queues are in the process's memory as well.
impl Addresses for Process {
    fn alloc(&self, layout: BlockLayout) -> Option<u64> {
        self.add_memory(layout.size_bytes(), layout.align_bytes()).ok()
    }

    fn free(&self, first: u64, layout: BlockLayout) {
        let bytes = layout.size_bytes().next_multiple_of(PAGE);
        assert!(self.unmap(first, bytes).is_ok(), "taking {first:#x} back");
    }

    fn lookup(&self, address: u64) -> Option<Pa> {
        Process::lookup(self, address)
    }
}
