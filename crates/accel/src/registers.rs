//! Where registers lie, and what their bits say.
//!
//! Spec: `docs/accelerator.md`, "Registers".

use crate::accelerator::Form;
use crate::error::AccelError;

/// Bytes of registers, doorbells included.
pub const REGISTER_BYTES: usize = 0x1_0000;

/// 31:0 say what device this is.
pub(crate) const ID: usize = 0x0000;
/// What the device can do.
pub(crate) const CAP: usize = 0x0008;
/// What the device is to do.
pub(crate) const CTRL: usize = 0x0010;
/// Whether it has done that.
pub(crate) const STATUS: usize = 0x0018;

/// The value of [`ID`]: "PCZ1".
pub(crate) const ID_VALUE: u32 = 0x315a_4350;
/// In [`CTRL`]: at work.
pub(crate) const CTRL_ENABLE: u32 = 1 << 0;
/// In [`STATUS`]: what [`CTRL`] asked for is done.
pub(crate) const STATUS_READY: u32 = 1 << 0;

/// In a queue's registers: the PASID of its accesses.
pub(crate) const PASID: usize = 0x00;
/// In [`PASID`]: accesses carry it.
pub(crate) const PASID_VALID: u32 = 1 << 31;
/// In a queue's registers: the address of the ring.
pub(crate) const BASE: usize = 0x08;
/// In a queue's registers: the number of entries as a power of two.
pub(crate) const SIZE: usize = 0x10;
/// In a queue's registers: what it is to do.
pub(crate) const CONTROL: usize = 0x18;
/// In a queue's registers: what it does.
pub(crate) const STATE: usize = 0x20;
/// In a queue's registers: why it failed.
pub(crate) const ERROR: usize = 0x28;

/// Written to [`CONTROL`]: begin.
pub(crate) const START: u32 = 1;
/// Written to [`CONTROL`]: come to an end.
pub(crate) const STOP: u32 = 2;
/// Written to [`CONTROL`]: be off at once.
pub(crate) const ABORT: u32 = 3;

/// Bytes of a queue's doorbell. Four of them share a page of 4 KiB: who reaches one by a mapping of that page reaches its neighbours as well, and can make
/// their queues fail, though not see what they do.
pub const DOORBELL_BYTES: usize = 0x400;
/// In a doorbell: where the process says behind which job it has written the last.
pub const DOORBELL_TAIL: usize = 0x00;
/// In a doorbell: where the device says the same of jobs that are done.
pub const DOORBELL_HEAD: usize = 0x08;

/// The most queues that there can be.
const MAX_QUEUES: u8 = 16;
/// The most entries of a queue, as a power of two.
const MAX_SIZE_LG2: u8 = 12;
/// The most bits of a PASID.
const MAX_PASID_BITS: u8 = 20;

/// The offset of a register of a queue.
pub(crate) const fn queue_register(queue: u8, register: usize) -> usize {
    0x1000 + 0x40 * queue as usize + register
}

/// The offset of a register of a doorbell.
pub(crate) const fn doorbell_register(queue: u8, register: usize) -> usize {
    0x8000 + DOORBELL_BYTES * queue as usize + register
}

/// What an accelerator can do: `CAP`, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How many queues it has: 1 to 16.
    pub queue_count: u8,
    /// The most entries of a queue, as a power of two: 1 to 12.
    pub max_size_lg2: u8,
    /// How many bits its PASIDs have: 0 to 20. With 0 it has none.
    pub pasid_bits: u8,
    /// Whether a stop answers at once and sends a stop marker behind the last page request, instead of waiting for responses.
    pub stop_marker: bool,
}

impl Capabilities {
    /// Reads `CAP`.
    ///
    /// # Errors
    ///
    /// [`AccelError::Gone`]; [`AccelError::Capabilities`] if it says what cannot be.
    pub(crate) fn decode(cap: u32, form: Form) -> Result<Self, AccelError> {
        if cap == u32::MAX {
            return Err(AccelError::Gone);
        }
        let [queue_count, max_size_lg2, pasid_bits, flags] = cap.to_le_bytes();
        let stop_marker = flags & 1 != 0;
        let fits = (1..=MAX_QUEUES).contains(&queue_count)
            && (1..=MAX_SIZE_LG2).contains(&max_size_lg2)
            && pasid_bits <= MAX_PASID_BITS
            && (!stop_marker || form == Form::Pcie);
        let found = Self { queue_count, max_size_lg2, pasid_bits, stop_marker };
        if fits { Ok(found) } else { Err(AccelError::Capabilities { cap }) }
    }
}

/// What a queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing; its registers can be written.
    Off,
    /// It takes jobs.
    Running,
    /// It was stopped, and something of it is still under way.
    Stopping,
    /// It makes no more accesses.
    Failed,
    /// The device does not answer: its registers read as all ones.
    Gone,
    /// A number that the book does not know: what is written here.
    Unknown(u32),
}

impl State {
    pub(crate) fn decode(state: u32) -> Self {
        match state {
            0 => Self::Off,
            1 => Self::Running,
            2 => Self::Stopping,
            3 => Self::Failed,
            u32::MAX => Self::Gone,
            other => Self::Unknown(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_says_queues_entries_pasids_and_how_a_stop_goes() {
        let cap = Capabilities::decode(0x0114_0c10, Form::Pcie).unwrap();
        assert_eq!((cap.queue_count, cap.max_size_lg2, cap.pasid_bits, cap.stop_marker), (16, 12, 20, true));
        let cap = Capabilities::decode(0xfe00_0101, Form::Platform).unwrap();
        assert_eq!((cap.queue_count, cap.max_size_lg2, cap.pasid_bits, cap.stop_marker), (1, 1, 0, false));
    }

    #[test]
    fn what_cap_cannot_say_is_refused() {
        for cap in [0x0014_0c00, 0x0014_0c11, 0x0014_0010, 0x0014_0d10, 0x0015_0c10, 0] {
            assert_eq!(Capabilities::decode(cap, Form::Pcie), Err(AccelError::Capabilities { cap }));
        }
        assert_eq!(Capabilities::decode(u32::MAX, Form::Pcie), Err(AccelError::Gone));
        let cap = 0x0114_0c10;
        assert_eq!(Capabilities::decode(cap, Form::Platform), Err(AccelError::Capabilities { cap }));
    }

    #[test]
    fn queues_and_doorbells_lie_where_the_book_has_them() {
        assert_eq!([queue_register(0, PASID), queue_register(15, ERROR)], [0x1000, 0x13e8]);
        assert_eq!(
            [doorbell_register(0, DOORBELL_HEAD), doorbell_register(15, DOORBELL_TAIL)],
            [0x8008, 0xbc00]
        );
    }
}
