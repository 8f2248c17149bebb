//! A device as VFIO has it: it can be reset, and has a few interrupts that go to event files.
//!
//! Not here: how it moves bytes (`engine`), what a PCI function is (`portcullis::vfio::pci`).

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use portcullis::core::iommu::SyncError;
use portcullis::core::table_group::Slot;
use portcullis::types::{PaRange, SizeLg2};
use portcullis::vfio::{
    DeviceFacts, Errno, EventFile, IrqAction, IrqChange, IrqData, Irqs, MapArea, Region, VfioDevice,
};

use super::engine::Engine;
use super::platform::SimPlatform;
use crate::hub::locked;

/// Interrupts of a function.
const VECTORS: usize = 4;
/// VFIO_DEVICE_FLAGS_RESET.
const CAN_RESET: u32 = 1;
/// VFIO_IRQ_INFO_EVENTFD.
const BY_EVENT: u32 = 1;

/// A device.
pub(crate) struct SimFunction {
    engine: Arc<Engine>,
    open: AtomicBool,
    vectors: Mutex<[Option<Arc<dyn EventFile>>; VECTORS]>,
}

impl SimFunction {
    pub(crate) fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self { engine, open: AtomicBool::new(false), vectors: Mutex::default() })
    }

    /// Whether a user has it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// How many interrupts go somewhere.
    pub(crate) fn connected(&self) -> usize {
        locked(&self.vectors).iter().flatten().count()
    }

    /// An interrupt goes somewhere, and nobody asked for it.
    #[cfg(test)]
    pub(crate) fn connect(&self, to: Arc<dyn EventFile>) {
        locked(&self.vectors)[0] = Some(to);
    }

    /// Raises an interrupt.
    pub(crate) fn raise(&self, vector: usize) {
        let to = locked(&self.vectors)[vector % VECTORS].clone();
        if let Some(to) = to {
            to.signal();
        }
    }
}

impl VfioDevice<SimPlatform> for SimFunction {
    fn open(&self) -> Result<(), Errno> {
        self.open.store(true, Relaxed);
        self.engine.reset();
        Ok(())
    }

    fn close(&self) {
        self.open.store(false, Relaxed);
        let gone = core::mem::take(&mut *locked(&self.vectors));
        drop(gone);
    }

    fn facts(&self) -> DeviceFacts {
        DeviceFacts { flags: CAN_RESET, region_count: 1, irq_count: 1 }
    }

    fn region(&self, index: u32, _: SizeLg2) -> Result<Region, Errno> {
        if index > 0 {
            return Err(Errno::Einval);
        }
        Ok(Region { size_bytes: 0, flags: 0, areas: None })
    }

    fn irqs(&self, index: u32) -> Result<Irqs, Errno> {
        if index > 0 {
            return Err(Errno::Einval);
        }
        Ok(Irqs { flags: BY_EVENT, count: u32::try_from(VECTORS).expect("few vectors") })
    }

    fn set_irqs(&self, change: IrqChange) -> Result<(), Errno> {
        let first = usize::try_from(change.start).map_err(|_| Errno::Einval)?;
        match (change.action, change.data) {
            (IrqAction::Trigger, IrqData::None) if change.count == 0 => {
                let gone = core::mem::take(&mut *locked(&self.vectors));
                drop(gone);
                Ok(())
            }
            (IrqAction::Trigger, IrqData::Event(files)) => {
                let mut vectors = locked(&self.vectors);
                vectors.iter_mut().skip(first).zip(files).for_each(|(vector, file)| *vector = file);
                Ok(())
            }
            (IrqAction::Trigger, _) => {
                self.raise(first);
                Ok(())
            }
            _ => Err(Errno::Enotty),
        }
    }

    fn reset(&self) -> Result<(), Errno> {
        self.engine.reset();
        Ok(())
    }

    fn read(&self, _: u32, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::Einval)
    }

    fn write(&self, _: u32, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::Einval)
    }

    fn address(&self, _: u32, _: MapArea) -> Option<PaRange> {
        None
    }
}

/// The way to reset the devices of one group.
pub(crate) struct SimSlot(pub(crate) Vec<Arc<Engine>>);

impl fmt::Debug for SimSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimSlot")
    }
}

impl Slot for SimSlot {
    fn hot_reset(&self) -> Result<(), SyncError> {
        self.0.iter().for_each(|engine| engine.reset());
        Ok(())
    }

    fn set_up(&self) -> Result<(), SyncError> {
        Ok(())
    }
}
