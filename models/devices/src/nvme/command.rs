//! Submission and completion queue entries.
//!
//! Spec: NVMe 1.4, 4.2 "Submission Queue Entry – Command Format"; 4.6 "Completion Queue Entry".

use super::status::Status;

/// Bytes in a submission queue entry.
pub(crate) const SQE_BYTES: usize = 64;
/// Bytes in a completion queue entry.
pub(crate) const CQE_BYTES: usize = 16;

/// A command, as its entry says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    dwords: [u32; SQE_BYTES / 4],
}

impl Command {
    pub(crate) fn from_bytes(bytes: &[u8; SQE_BYTES]) -> Self {
        let (dwords, _) = bytes.as_chunks::<4>();
        Self { dwords: core::array::from_fn(|index| u32::from_le_bytes(dwords[index])) }
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.dwords[0] as u8
    }

    /// FUSE, bits 9:8: not 0 for half of a fused pair.
    pub(crate) fn fuse(&self) -> u8 {
        (self.dwords[0] >> 8 & 3) as u8
    }

    /// PSDT, bits 15:14: 0 if the data pointer is PRPs.
    pub(crate) fn psdt(&self) -> u8 {
        (self.dwords[0] >> 14 & 3) as u8
    }

    pub(crate) fn id(&self) -> u16 {
        (self.dwords[0] >> 16) as u16
    }

    pub(crate) fn nsid(&self) -> u32 {
        self.dwords[1]
    }

    pub(crate) fn prp1(&self) -> u64 {
        self.qword(6)
    }

    pub(crate) fn prp2(&self) -> u64 {
        self.qword(8)
    }

    /// Command dword `index`, 10 to 15.
    pub(crate) fn cdw(&self, index: usize) -> u32 {
        self.dwords[index]
    }

    /// Command dwords `index` and the next, the lower one first.
    pub(crate) fn qword(&self, index: usize) -> u64 {
        u64::from(self.dwords[index]) | u64::from(self.dwords[index + 1]) << 32
    }
}

/// A completion, before it is an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) result: u32,
    pub(crate) sq_head: u16,
    pub(crate) sq: u16,
    pub(crate) command: u16,
    pub(crate) phase: bool,
    pub(crate) status: Status,
}

impl Completion {
    pub(crate) fn to_bytes(self) -> [u8; CQE_BYTES] {
        let last =
            u32::from(self.command) | u32::from(self.phase) << 16 | u32::from(self.status.field()) << 17;
        let mut bytes = [0; CQE_BYTES];
        bytes[0..4].copy_from_slice(&self.result.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.sq_head.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.sq.to_le_bytes());
        bytes[12..16].copy_from_slice(&last.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_field_by_field() {
        let mut bytes = [0; SQE_BYTES];
        bytes[..8].copy_from_slice(&[0x02, 0x81, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12]);
        bytes[24..40].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
        bytes[40..48].copy_from_slice(&[5, 0, 0, 0, 6, 0, 0, 0]);
        let command = Command::from_bytes(&bytes);
        assert_eq!((command.opcode(), command.fuse(), command.psdt()), (2, 1, 2));
        assert_eq!((command.id(), command.nsid()), (0x1234, 0x1234_5678));
        assert_eq!((command.prp1(), command.prp2()), (0x2_0000_0001, 0x4_0000_0003));
        assert_eq!((command.cdw(10), command.qword(10)), (5, 0x6_0000_0005));
    }

    #[test]
    fn a_completion_is_sixteen_bytes() {
        let completion = Completion {
            result: 0x0403_0201,
            sq_head: 0x1234,
            sq: 7,
            command: 0xabcd,
            phase: true,
            status: Status::LBA_OUT_OF_RANGE,
        };
        let words = [0x0403_0201u32, 0, 0x0007_1234, 0x8101_abcd];
        assert_eq!(completion.to_bytes(), *words.map(u32::to_le_bytes).as_flattened());
    }
}
