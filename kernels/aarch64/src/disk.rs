//! A driver bound to its device: what the bus does around Portcullis's NVMe driver.
//!
//! In this order: the group is the kernel's ([`dma_configure`]); each vector of the device gets a line of the interrupt controller, and the message that raises it
//! is composed *for the device*, which maps the doorbell's page into the device's domain; the device may be a bus master; the driver starts. [`Disk::stop`] goes
//! the same way back.

use alloc::format;
use alloc::sync::Arc;

use portcullis_core::bus::{DmaUse, Driver, Place, dma_configure};
use portcullis_core::dma::DmaHandle;
use portcullis_hal::Platform;
use portcullis_nvme::{self as nvme, Interrupts as Vectors, Nvme, Vector};
use portcullis_pci::{Ecam, Function, Message, MsixCapability, MsixTable};
use portcullis_types::PaRange;

use crate::discovery::{Bridge, Endpoint, System};
use crate::error::{Wrong, doing};
use crate::irq::Line;
use crate::mmio::Window;
use crate::mmu;
use crate::platform::Metal;

/// How many vectors the driver uses: the admin queue's and the I/O queue's.
const VECTORS: u16 = 2;

/// The disk, where it is and what it can do.
pub(crate) struct Slot<'a> {
    pub(crate) system: &'a System,
    pub(crate) bridge: &'a Bridge,
    pub(crate) endpoint: &'a Endpoint,
    /// The registers of the controller.
    registers: PaRange,
}

/// The disk's driver, bound.
pub(crate) struct Disk<'a> {
    slot: &'a Slot<'a>,
    pub(crate) nvme: Nvme<Metal, Window>,
    pub(crate) dma: DmaHandle<Metal>,
    pub(crate) lines: [Line; VECTORS as usize],
    msix: MsixCapability,
    in_use: Option<DmaUse<Metal>>,
}

impl<'a> Slot<'a> {
    /// The first NVMe controller behind an IOMMU, its registers mapped.
    pub(crate) fn find(system: &'a System) -> Result<Self, Wrong> {
        let all =
            system.bridges.iter().flat_map(|bridge| bridge.functions.iter().map(move |at| (bridge, at)));
        let mut disks = all.filter(|(bridge, at)| bridge.topology.functions[at.function].is_nvme());
        let (bridge, endpoint) =
            disks.next().ok_or_else(|| Wrong("no NVMe disk is behind an IOMMU".into()))?;
        let registers = bridge.topology.functions[endpoint.function].bar(0).and_then(|bar| bar.cpu_range());
        let registers = registers.ok_or_else(|| Wrong("the disk's registers were not placed".into()))?;
        mmu::map_device(registers).map_err(doing("mapping the disk's registers"))?;
        Ok(Self { system, bridge, endpoint, registers })
    }

    fn function(&self) -> &Function {
        &self.bridge.topology.functions[self.endpoint.function]
    }

    fn config(&self) -> &Ecam<Window> {
        &self.bridge.config
    }

    pub(crate) fn place(&self) -> &Place<Metal> {
        &self.endpoint.place
    }

    /// Lets the disk send requests, or not.
    pub(crate) fn set_bus_master(&self, on: bool) {
        let (config, function) = (self.config(), self.endpoint.function);
        if on {
            self.bridge.topology.enable_bus_master(config, function);
        } else {
            self.bridge.topology.disable_bus_master(config, function);
        }
    }

    /// Brings the controller up for somebody who has memory for it: that is all that the driver needs to know.
    pub(crate) fn start<P: Platform>(
        &self,
        dma: DmaHandle<P>,
        vectors: &Vectors,
    ) -> Result<Nvme<P, Window>, Wrong> {
        let bytes = self.registers.len_bytes().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        let config = nvme::Config { register_bytes: bytes, ..nvme::Config::default() };
        let started = Nvme::start(dma, Window::new(self.registers), vectors, &config);
        started.map_err(|error| Wrong(format!("the disk's driver did not start: {error}")))
    }

    /// Lines of the interrupt controller for the disk's vectors, and the messages that raise them in the disk's own table.
    fn connect(&self, dma: &DmaHandle<Metal>) -> Result<([Line; VECTORS as usize], MsixCapability), Wrong> {
        let found =
            MsixCapability::find(self.config(), self.function()).map_err(doing("looking for MSI-X"))?;
        let msix = found.filter(|msix| msix.bar() == 0 && msix.vectors() >= VECTORS);
        let msix = msix.ok_or_else(|| Wrong("the disk has no MSI-X table beside its registers".into()))?;
        msix.enable_masked(self.config());
        let table = MsixTable::new(&msix, Window::new(self.registers));
        let interrupts = &self.system.interrupts;
        let line = |vector: u16| {
            let line = interrupts
                .message(self.endpoint.message_id, vector.into())
                .map_err(doing("mapping a message"))?;
            let message = dma
                .compose_msi(interrupts.doorbell(), vector.into())
                .map_err(doing("composing a message"))?;
            let message = Message { address: message.address.get(), data: message.data };
            let set = table.set(vector, message).and_then(|()| table.set_masked(vector, false));
            set.map_err(doing("filling the MSI-X table"))?;
            Ok::<Line, Wrong>(line)
        };
        let lines = [line(0)?, line(1)?];
        msix.set_function_mask(self.config(), false);
        Ok((lines, msix))
    }
}

impl<'a> Disk<'a> {
    /// Binds the driver.
    pub(crate) fn bind(slot: &'a Slot<'a>) -> Result<Self, Wrong> {
        let Place { device, group } = slot.place();
        let in_use = dma_configure(Some(slot.place()), Some(&Driver::new("nvme")), || Ok::<(), Wrong>(()));
        let in_use = in_use.map_err(|_| Wrong("the disk's group is not for the DMA API".into()))?;
        let dma = group.dma(device).ok_or_else(|| Wrong("the disk is not in its group".into()))?;
        let (lines, msix) = slot.connect(&dma)?;
        slot.set_bus_master(true);
        let [admin, io] = lines.clone();
        let vectors = Vectors { admin: Arc::new(admin), io: Vector { index: 1, interrupt: Arc::new(io) } };
        let nvme = slot.start(dma.clone(), &vectors)?;
        Ok(Self { slot, nvme, dma, lines, msix, in_use })
    }

    /// Unbinds the driver: the disk does no more DMA and sends no more messages, and all it was given is back.
    pub(crate) fn stop(self) -> Result<(), Wrong> {
        let Self { slot, nvme, lines, msix, in_use, .. } = self;
        let stopped = nvme.shutdown();
        slot.set_bus_master(false);
        msix.disable(slot.config());
        slot.system.interrupts.forget(&lines).map_err(doing("forgetting the disk's messages"))?;
        drop(in_use);
        stopped.map_err(|error| Wrong(format!("the disk's driver did not stop: {error}")))
    }
}
