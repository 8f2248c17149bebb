//! Log pages: errors, health, firmware.
//!
//! Spec: NVMe 1.4, 5.14.1 "Log Specific Information".

use std::collections::VecDeque;

use super::command::Command;
use super::status::Status;

/// How many errors are kept: one more than Identify's ELPE.
pub(crate) const ERRORS_KEPT: usize = 4;
const ERROR_ENTRY_BYTES: usize = 64;

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {
    errors: VecDeque<[u8; ERROR_ENTRY_BYTES]>,
    error_count: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

impl Logs {
    /// Remembers a command that failed.
    pub(crate) fn error(&mut self, sq: u16, command: &Command, phase: bool, status: Status) {
        const LOCATION_UNKNOWN: u16 = 0xffff;
        self.error_count += 1;
        let mut entry = [0; ERROR_ENTRY_BYTES];
        entry[0..8].copy_from_slice(&self.error_count.to_le_bytes());
        entry[8..10].copy_from_slice(&sq.to_le_bytes());
        entry[10..12].copy_from_slice(&command.id().to_le_bytes());
        entry[12..14].copy_from_slice(&(status.field() << 1 | u16::from(phase)).to_le_bytes());
        entry[14..16].copy_from_slice(&LOCATION_UNKNOWN.to_le_bytes());
        entry[16..24].copy_from_slice(&command.qword(10).to_le_bytes());
        entry[24..28].copy_from_slice(&command.nsid().to_le_bytes());
        self.errors.truncate(ERRORS_KEPT - 1);
        self.errors.push_front(entry);
    }

    /// The log page `id`; none if there is no such page.
    pub(crate) fn page(&self, id: u8) -> Option<Vec<u8>> {
        match id {
            0x01 => Some(self.error_page()),
            0x02 => Some(self.health_page()),
            0x03 => Some(firmware_page()),
            _ => None,
        }
    }

    fn error_page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self.errors.iter().flatten().copied().collect();
        page.resize(ERRORS_KEPT * ERROR_ENTRY_BYTES, 0);
        page
    }

    /// Spec: NVMe 1.4, 5.14.1.2 "SMART / Health Information".
    fn health_page(&self) -> Vec<u8> {
        const TEMPERATURE_K: u16 = 310;
        /// Data is counted in thousands of 512 bytes, rounded up.
        const UNIT_BYTES: u64 = 512_000;
        let mut page = vec![0; 512];
        page[1..3].copy_from_slice(&TEMPERATURE_K.to_le_bytes());
        page[3] = 100;
        page[4] = 10;
        let mut put = |at: usize, value: u64| page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(32, self.read_bytes.div_ceil(UNIT_BYTES));
        put(48, self.written_bytes.div_ceil(UNIT_BYTES));
        put(64, self.reads);
        put(80, self.writes);
        put(176, self.error_count);
        page
    }
}

/// Slot 1 is active, and holds the only revision there is.
fn firmware_page() -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 1;
    page[8..16].copy_from_slice(super::identify::FIRMWARE);
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::command::SQE_BYTES;

    #[test]
    fn the_newest_error_comes_first_and_the_oldest_goes() {
        let mut logs = Logs::default();
        for id in 1..=5u8 {
            let mut bytes = [0; SQE_BYTES];
            bytes[2] = id;
            bytes[4] = 1;
            bytes[40] = 0x80 + id;
            logs.error(3, &Command::from_bytes(&bytes), true, Status::LBA_OUT_OF_RANGE);
        }
        let page = logs.page(1).unwrap();
        assert_eq!(page.len(), 256);
        assert_eq!(
            page[..28],
            [
                5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 5, 0, 0x01, 0x81, 0xff, 0xff, 0x85, 0, 0, 0, 0, 0, 0, 0, 1, 0,
                0, 0
            ]
        );
        assert_eq!([page[64], page[128], page[192]], [4, 3, 2]);
    }

    #[test]
    fn health_counts_in_thousands_of_512_bytes() {
        let logs = Logs { reads: 7, read_bytes: 512_001, ..Logs::default() };
        let page = logs.page(2).unwrap();
        assert_eq!((page.len(), page[32], page[64], page[1]), (512, 2, 7, 0x36));
        assert_eq!(logs.page(3).unwrap()[0], 1);
        assert_eq!(logs.page(4), None);
    }
}
