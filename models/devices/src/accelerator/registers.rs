//! The accelerator's registers.
//!
//! Spec: docs/accelerator.md, "Registers".
//! Not here: what the engine does about them.

use model_bus::Width;

use super::queue::{Queue, QueueError};

/// How many bytes the registers take.
pub(super) const REGISTER_BYTES: u64 = 64 << 10;
const ID: u64 = 0x0000;
const CAP: u64 = 0x0008;
const CTRL: u64 = 0x0010;
const STATUS: u64 = 0x0018;
const QUEUES: u64 = 0x1000;
const QUEUE_BYTES: u64 = 0x40;
const CONTROL: u64 = 0x18;
const DOORBELLS: u64 = 0x8000;
const DOORBELL_BYTES: u64 = 0x400;
/// "PCZ1".
const ID_VALUE: u64 = 0x315a_4350;

/// What `CAP` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cap {
    pub(super) queues: u8,
    pub(super) entries_lg2: u8,
    pub(super) pasid_bits: u8,
    pub(super) stop_marker: bool,
}

impl Cap {
    fn word(self) -> u64 {
        u64::from(self.queues)
            | u64::from(self.entries_lg2) << 8
            | u64::from(self.pasid_bits) << 16
            | u64::from(self.stop_marker) << 24
    }
}

/// What somebody has to do about a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// Queues changed their state.
    Changed,
    /// A queue failed.
    Failed(usize, QueueError),
}

#[derive(Debug)]
pub(super) struct Registers {
    cap: Cap,
    enabled: bool,
    ready: bool,
    pub(super) queues: Vec<Queue>,
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Global(u64),
    Queue(usize, u64),
    Tail(usize),
    Head(usize),
    Nowhere,
}

impl Registers {
    pub(super) fn new(cap: Cap) -> Self {
        Self { cap, enabled: false, ready: true, queues: vec![Queue::default(); usize::from(cap.queues)] }
    }

    /// The 8-byte register at `offset`, a multiple of 8.
    fn place(&self, offset: u64) -> Place {
        let within = |first: u64, each: u64| {
            let index = (offset.checked_sub(first)? / each) as usize;
            (index < self.queues.len()).then_some((index, (offset - first) % each))
        };
        match (within(DOORBELLS, DOORBELL_BYTES), within(QUEUES, QUEUE_BYTES)) {
            (Some((queue, 0)), _) => Place::Tail(queue),
            (Some((queue, 8)), _) => Place::Head(queue),
            (None, Some((queue, at))) => Place::Queue(queue, at),
            (None, None) if offset < QUEUES => Place::Global(offset),
            _ => Place::Nowhere,
        }
    }

    fn get(&self, offset: u64) -> u64 {
        match self.place(offset) {
            Place::Global(ID) => ID_VALUE,
            Place::Global(CAP) => self.cap.word(),
            Place::Global(CTRL) => u64::from(self.enabled),
            Place::Global(STATUS) => u64::from(self.ready),
            Place::Queue(queue, at) => self.queues[queue].read(at),
            Place::Tail(queue) => u64::from(self.queues[queue].tail()),
            Place::Head(queue) => u64::from(self.queues[queue].head()),
            Place::Global(_) | Place::Nowhere => 0,
        }
    }

    pub(super) fn read(&self, offset: u64, width: Width) -> u64 {
        let register = self.get(offset & !7);
        match width {
            Width::Bits64 => register,
            Width::Bits32 => register >> (8 * (offset & 4)) & 0xffff_ffff,
            Width::Bits8 | Width::Bits16 => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, width: Width, value: u64) -> Effect {
        let at = offset & !7;
        let (value, low) = match width {
            Width::Bits64 => (value, true),
            Width::Bits32 => {
                let shift = 8 * (offset & 4);
                let kept = self.get(at) & !(0xffff_ffff << shift);
                (kept | (value & 0xffff_ffff) << shift, shift == 0)
            }
            Width::Bits8 | Width::Bits16 => return Effect::Nothing,
        };
        match self.place(at) {
            Place::Global(CTRL) => self.control(value & 1 != 0),
            Place::Queue(queue, CONTROL) if low => self.queue_control(queue, value as u32),
            Place::Queue(queue, at) => {
                self.queues[queue].write(at, value);
                Effect::Nothing
            }
            Place::Tail(queue) if low => match self.queues[queue].ring(value as u32) {
                Some(error) => self.fail(queue, error),
                None => Effect::Nothing,
            },
            Place::Global(_) | Place::Tail(_) | Place::Head(_) | Place::Nowhere => Effect::Nothing,
        }
    }

    fn control(&mut self, enabled: bool) -> Effect {
        if self.enabled == enabled {
            return Effect::Nothing;
        }
        self.enabled = enabled;
        self.ready = false;
        if !enabled {
            self.queues.iter_mut().for_each(Queue::reset);
        }
        Effect::Changed
    }

    fn queue_control(&mut self, queue: usize, value: u32) -> Effect {
        match value {
            1 if self.enabled => {
                if let Some(error) = self.queues[queue].start(self.cap.entries_lg2) {
                    return self.fail(queue, error);
                }
            }
            2 => self.queues[queue].stop(),
            3 => self.queues[queue].off(),
            _ => return Effect::Nothing,
        }
        Effect::Changed
    }

    pub(super) fn fail(&mut self, queue: usize, error: QueueError) -> Effect {
        self.queues[queue].fail(error);
        Effect::Failed(queue, error)
    }

    /// What CTRL asked for is done. Answers whether it was not before.
    pub(super) fn settle(&mut self) -> bool {
        !core::mem::replace(&mut self.ready, true)
    }

    /// As after power on.
    pub(super) fn reset(&mut self) {
        self.enabled = false;
        self.ready = true;
        self.queues.iter_mut().for_each(Queue::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        Registers::new(Cap { queues: 2, entries_lg2: 12, pasid_bits: 20, stop_marker: true })
    }

    #[test]
    fn the_first_registers_say_what_it_is() {
        let registers = registers();
        assert_eq!(registers.read(0, Width::Bits32), 0x315a_4350);
        assert_eq!(registers.read(8, Width::Bits64), 0x0114_0c02);
        assert_eq!((registers.read(0xc, Width::Bits32), registers.read(0x18, Width::Bits64)), (0, 1));
        assert_eq!((registers.read(0, Width::Bits8), registers.read(0, Width::Bits16)), (0, 0));
    }

    #[test]
    fn a_register_is_written_whole_or_by_halves_low_word_first() {
        let mut registers = registers();
        registers.write(0x1008, Width::Bits32, 0x8000_0040);
        registers.write(0x100c, Width::Bits32, 0x1234);
        assert_eq!(registers.read(0x1008, Width::Bits64), 0x1234_8000_0040);
        assert_eq!(registers.read(0x100c, Width::Bits32), 0x1234);
        registers.write(0x1048, Width::Bits64, 0xffff_ffff_0000_0080);
        assert_eq!(registers.read(0x1048, Width::Bits64), 0xffff_ffff_0000_0080);
        registers.write(0x1008, Width::Bits16, 0);
        assert_eq!(registers.read(0x1008, Width::Bits32), 0x8000_0040);
        registers.write(0x1010, Width::Bits32, 0xffff_fff4);
        assert_eq!(registers.read(0x1010, Width::Bits64), 4);
    }

    #[test]
    fn nothing_starts_while_disabled_and_disabling_is_power_on_again() {
        let mut registers = registers();
        registers.write(0x1008, Width::Bits64, 0x1000);
        registers.write(0x1010, Width::Bits64, 4);
        registers.write(0x1018, Width::Bits32, 1);
        assert_eq!(registers.read(0x1020, Width::Bits64), 0);
        assert_eq!(registers.write(0x10, Width::Bits32, 1), Effect::Changed);
        assert_eq!(registers.read(0x18, Width::Bits32), 0);
        assert!(registers.settle() && !registers.settle());
        assert_eq!(registers.read(0x18, Width::Bits32), 1);
        registers.write(0x101c, Width::Bits32, 1);
        assert_eq!(registers.read(0x1020, Width::Bits64), 0);
        registers.write(0x1018, Width::Bits64, 1);
        assert_eq!(registers.read(0x1020, Width::Bits64), 1);
        registers.write(0x8000, Width::Bits32, 3);
        assert_eq!((registers.read(0x8000, Width::Bits64), registers.read(0x8008, Width::Bits64)), (3, 0));
        registers.write(0x10, Width::Bits32, 0);
        assert!([0x1008, 0x1010, 0x1020, 0x8000].iter().all(|&at| registers.read(at, Width::Bits64) == 0));
    }

    #[test]
    fn there_are_as_many_queues_as_cap_says() {
        let mut registers = registers();
        for at in [0x1088, 0x8800, 0x8010, 0xfff8, 0x1038] {
            registers.write(at, Width::Bits64, u64::MAX);
            assert_eq!(registers.read(at, Width::Bits64), 0, "{at:#x}");
        }
    }
}
