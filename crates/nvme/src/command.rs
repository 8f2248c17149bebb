//! Submission queue entries: what we tell the controller to do.
//!
//! Spec: NVMe Base 2.0, 3.3.3.1 "Submission Queue Entry"; each command's own section.

use crate::prp::Prps;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 64;

/// An I/O or admin opcode. The two sets overlap; which is meant is the queue's business.
pub(crate) mod opcode {
    /// Flush (I/O).
    pub(crate) const FLUSH: u8 = 0x00;
    /// Write (I/O).
    pub(crate) const WRITE: u8 = 0x01;
    /// Read (I/O).
    pub(crate) const READ: u8 = 0x02;
    /// Delete I/O Submission Queue (admin).
    pub(crate) const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue (admin).
    pub(crate) const CREATE_SQ: u8 = 0x01;
    /// Delete I/O Completion Queue (admin).
    pub(crate) const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue (admin).
    pub(crate) const CREATE_CQ: u8 = 0x05;
    /// Identify (admin).
    pub(crate) const IDENTIFY: u8 = 0x06;
    /// Set Features (admin).
    pub(crate) const SET_FEATURES: u8 = 0x09;
}

/// Which structure Identify is to return: its `CNS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identify {
    /// Of this namespace.
    Namespace(u32),
    /// Of the controller.
    Controller,
}

/// A command, but for its id, which its queue gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Command {
    /// What to do.
    pub(crate) opcode: u8,
    /// On which namespace; 0 where none is meant.
    pub(crate) namespace: u32,
    /// Where the data is.
    pub(crate) prps: Prps,
    /// Dwords 10, 11 and 12.
    pub(crate) arguments: [u32; 3],
}

impl Command {
    /// Identify into one page at `page`.
    pub(crate) fn identify(what: Identify, page: u64) -> Self {
        let (namespace, cns) = match what {
            Identify::Namespace(id) => (id, 0),
            Identify::Controller => (0, 1),
        };
        Self { opcode: opcode::IDENTIFY, namespace, prps: Prps::one(page), arguments: [cns, 0, 0] }
    }

    /// Set Features, Number of Queues: one of each kind. Both fields count from 0.
    pub(crate) fn one_queue_pair() -> Self {
        Self { opcode: opcode::SET_FEATURES, arguments: [0x07, 0, 0], ..Self::default() }
    }

    /// Create I/O Completion Queue: contiguous, with interrupts.
    pub(crate) fn create_cq(queue: u16, entries: u16, base: u64, vector: u16) -> Self {
        let arguments = [queue_and_size(queue, entries), u32::from(vector) << 16 | 0b11, 0];
        Self { opcode: opcode::CREATE_CQ, prps: Prps::one(base), arguments, ..Self::default() }
    }

    /// Create I/O Submission Queue: contiguous, completing to the queue of the same id.
    pub(crate) fn create_sq(queue: u16, entries: u16, base: u64) -> Self {
        let arguments = [queue_and_size(queue, entries), u32::from(queue) << 16 | 0b1, 0];
        Self { opcode: opcode::CREATE_SQ, prps: Prps::one(base), arguments, ..Self::default() }
    }

    /// Delete I/O Submission Queue.
    pub(crate) fn delete_sq(queue: u16) -> Self {
        Self { opcode: opcode::DELETE_SQ, arguments: [u32::from(queue), 0, 0], ..Self::default() }
    }

    /// Delete I/O Completion Queue.
    pub(crate) fn delete_cq(queue: u16) -> Self {
        Self { opcode: opcode::DELETE_CQ, arguments: [u32::from(queue), 0, 0], ..Self::default() }
    }

    /// Read or Write of `block_count` blocks, 1 to 65536, from `lba`.
    pub(crate) fn blocks(opcode: u8, namespace: u32, lba: u64, block_count: u32, prps: Prps) -> Self {
        let [low, high] = halves(lba);
        let arguments = [low, high, (block_count - 1) & 0xffff];
        Self { opcode, namespace, prps, arguments }
    }

    /// Flush.
    pub(crate) fn flush(namespace: u32) -> Self {
        Self { opcode: opcode::FLUSH, namespace, ..Self::default() }
    }

    /// The entry, as it is to lie in memory, for the command id `id`.
    pub(crate) fn encode(&self, id: u16) -> [u8; ENTRY_BYTES] {
        let mut words = [0; ENTRY_BYTES / 4];
        words[0] = u32::from(id) << 16 | u32::from(self.opcode);
        words[1] = self.namespace;
        words[6..8].copy_from_slice(&halves(self.prps.first));
        words[8..10].copy_from_slice(&halves(self.prps.second));
        words[10..13].copy_from_slice(&self.arguments);
        let mut bytes = [0; ENTRY_BYTES];
        bytes
            .chunks_exact_mut(4)
            .zip(words)
            .for_each(|(place, word)| place.copy_from_slice(&word.to_le_bytes()));
        bytes
    }
}

/// The two dwords of a quadword, low one first, as they lie in an entry.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
const fn halves(quadword: u64) -> [u32; 2] {
    [quadword as u32, (quadword >> 32) as u32]
}

fn queue_and_size(queue: u16, entries: u16) -> u32 {
    u32::from(entries - 1) << 16 | u32::from(queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: Command, id: u16) -> [u32; 16] {
        let bytes = command.encode(id);
        core::array::from_fn(|at| u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap()))
    }

    #[test]
    fn a_read_lies_in_memory_as_the_book_says() {
        let prps = Prps { first: 0x1_2345_6780, second: 0x2_0000_1000 };
        let entry = words(Command::blocks(opcode::READ, 1, 0x5_0000_0003, 8, prps), 0xabcd);
        let expected = [
            0xabcd_0002,
            1,
            0,
            0,
            0,
            0,
            0x2345_6780,
            1,
            0x1000,
            2, // dwords 0 to 9
            3,
            5,
            7,
            0,
            0,
            0,
        ];
        assert_eq!(entry, expected);
    }

    #[test]
    fn queues_are_created_with_sizes_from_0_and_their_vector() {
        let cq = words(Command::create_cq(1, 33, 0x8000, 5), 0);
        assert_eq!((cq[0], cq[6], cq[10], cq[11]), (0x05, 0x8000, 0x0020_0001, 0x0005_0003));
        let sq = words(Command::create_sq(1, 33, 0x9000), 0);
        assert_eq!((sq[0], sq[6], sq[10], sq[11]), (0x01, 0x9000, 0x0020_0001, 0x0001_0001));
    }

    #[test]
    fn identify_says_which_structure() {
        let controller = words(Command::identify(Identify::Controller, 0x3000), 2);
        assert_eq!(
            (controller[0], controller[1], controller[6], controller[10]),
            (0x0002_0006, 0, 0x3000, 1)
        );
        let namespace = words(Command::identify(Identify::Namespace(7), 0x3000), 2);
        assert_eq!((namespace[1], namespace[10]), (7, 0));
    }

    #[test]
    fn the_longest_command_has_65536_blocks() {
        let entry = words(Command::blocks(opcode::WRITE, 1, 0, 65_536, Prps::default()), 0);
        assert_eq!(entry[12], 0xffff);
    }
}
