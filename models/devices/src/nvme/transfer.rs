//! Moving a command's data.

use super::Nvme;
use super::command::Command;
use super::prp::{Segment, resolve};
use super::status::Status;

impl Nvme {
    /// The largest transfer, in bytes. Spec: NVMe 1.4, 5.15.2.2, "Maximum Data Transfer Size (MDTS)".
    pub(super) fn transfer_max(&self) -> usize {
        4096 << self.options.mdts
    }

    /// Where a command's `len` bytes lie.
    fn segments(&self, command: &Command, len: usize) -> Result<Vec<Segment>, Status> {
        if command.psdt() != 0 || len > self.transfer_max() {
            return Err(Status::INVALID_FIELD);
        }
        let page = self.state().page_bytes();
        resolve(&self.requester, command.prp1(), command.prp2(), len, page)
    }

    /// Writes `bytes` to where the command wants them.
    pub(super) fn send(&self, command: &Command, bytes: &[u8]) -> Result<(), Status> {
        let mut rest = bytes;
        for segment in self.segments(command, bytes.len())? {
            let (now, later) = rest.split_at(segment.len);
            self.requester.write(None, segment.at, now).map_err(|_| Status::TRANSFER_ERROR)?;
            rest = later;
        }
        Ok(())
    }

    /// Reads `len` bytes from where the command has them.
    pub(super) fn receive(&self, command: &Command, len: usize) -> Result<Vec<u8>, Status> {
        let segments = self.segments(command, len)?;
        let mut bytes = vec![0; len];
        let mut rest = &mut bytes[..];
        for segment in segments {
            let (now, later) = rest.split_at_mut(segment.len);
            self.requester.read(None, segment.at, now).map_err(|_| Status::TRANSFER_ERROR)?;
            rest = later;
        }
        Ok(bytes)
    }
}
