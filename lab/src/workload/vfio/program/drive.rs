//! The disk through VFIO: opened, read piece by piece, stopped, closed. Who uses it maps the memory, in whatever kind of container.

use sha2::{Digest, Sha256};

use super::nvme::{Controller, IN_FLIGHT, Registers, Shared};
use super::sys::{Errno, Failed, Sys};
use crate::input::hex;

/// How much is read by one command.
pub(in crate::workload) const PIECE_BYTES: u64 = 128 << 10;
/// So much of the registers is used: the controller's, and the doorbells of two pairs of queues.
const REGISTER_BYTES: u64 = 0x2000;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::workload) struct Told {
    /// SHA-256 of what arrived, in hexadecimal.
    pub(in crate::workload) digest: String,
    /// A block in bytes.
    pub(in crate::workload) block_bytes: u64,
    /// How many reads were made.
    pub(in crate::workload) commands: u64,
    /// How often an event file was signalled.
    pub(in crate::workload) signals: u64,
    /// Whether registers were mapped, or reached through the file.
    pub(in crate::workload) mapped_registers: bool,
}

/// A disk that is open.
pub(in crate::workload) struct Drive {
    device: u64,
    events: [u64; 2],
    mapped: Option<(u64, u64)>,
    controller: Controller,
    /// Pieces that are in flight: where from, how many bytes.
    in_flight: Vec<(u64, u64)>,
    hash: Sha256,
}

/// What to say of a disk that is not open.
pub(in crate::workload) fn not_open() -> Failed {
    Failed("the device is not open".into())
}

impl Drive {
    /// Opens the device and brings the disk up, with its queues in `control`.
    pub(in crate::workload) fn open(
        sys: &Sys<'_>,
        group: u64,
        name: &str,
        control: Shared,
        coherent: bool,
    ) -> Result<Self, Failed> {
        let device = sys.open_device(group, name)?;
        sys.reset_device(device)?;
        let bar = sys.region(device, 0)?;
        let area = bar.areas.iter().copied().find(|&(at, len)| at == 0 && len >= REGISTER_BYTES);
        let (registers, mapped) = match area {
            Some((_, len)) => {
                let at = sys.map_file(device, bar.offset, len).map_err(|errno| errno.on("registers"))?;
                (Registers::Mapped(at), Some((at, len)))
            }
            None => (Registers::File { fd: device, offset: bar.offset }, None),
        };
        let event = || sys.event_file().map_err(|errno| errno.on("an event file"));
        let events = [event()?, event()?];
        sys.set_msix(device, &events)?;
        sys.enable_bus_master(device)?;
        let controller = Controller::start(sys, registers, control, coherent, events)?;
        Ok(Self { device, events, mapped, controller, in_flight: Vec::new(), hash: Sha256::new() })
    }

    /// Has the disk read what comes next: as many pieces as there are buffers. Nothing is waited for.
    pub(in crate::workload) fn submit(
        &mut self,
        sys: &Sys<'_>,
        done: u64,
        total: u64,
        data: &[Shared; IN_FLIGHT],
    ) -> Result<(), Failed> {
        let block = self.controller.block_bytes;
        for (slot, from) in (0..IN_FLIGHT).zip((0..).map(|piece| done + piece * PIECE_BYTES)) {
            if from >= total {
                break;
            }
            let wanted = (total - from).min(PIECE_BYTES);
            let bytes = wanted.next_multiple_of(block);
            self.controller.submit_read(sys, slot, from, bytes, data[slot])?;
            self.in_flight.push((from, wanted));
        }
        Ok(())
    }

    /// Waits for what is in flight, and takes it. Answers how many bytes are done.
    pub(in crate::workload) fn collect(
        &mut self,
        sys: &Sys<'_>,
        data: &[Shared; IN_FLIGHT],
    ) -> Result<u64, Failed> {
        let pieces = core::mem::take(&mut self.in_flight);
        self.controller.wait_reads(sys, pieces.len())?;
        let mut bytes = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(0)];
        let mut done = 0;
        for (buffer, &(from, wanted)) in data.iter().zip(&pieces) {
            let piece = &mut bytes[..usize::try_from(wanted).unwrap_or(0)];
            self.controller.take(sys, buffer.va, wanted)?;
            sys.load(buffer.va, piece)?;
            self.hash.update(&*piece);
            done = from + wanted;
        }
        Ok(done)
    }

    /// Stops the disk. It stays open. Answers what came of it.
    pub(in crate::workload) fn stop(&mut self, sys: &Sys<'_>) -> Result<Told, Failed> {
        self.controller.stop(sys)?;
        sys.no_msix(self.device)?;
        Ok(Told {
            digest: hex(&core::mem::take(&mut self.hash).finalize()),
            block_bytes: self.controller.block_bytes,
            commands: self.controller.commands,
            signals: self.controller.signals,
            mapped_registers: self.mapped.is_some(),
        })
    }

    /// Closes it.
    pub(in crate::workload) fn close(self, sys: &Sys<'_>) -> Result<(), Failed> {
        let on = |errno: Errno| errno.on("closing");
        if let Some((at, len)) = self.mapped {
            sys.unmap(at, len).map_err(|errno| errno.on("unmapping registers"))?;
        }
        sys.close(self.device).map_err(on)?;
        self.events.into_iter().try_for_each(|event| sys.close(event)).map_err(on)
    }
}
