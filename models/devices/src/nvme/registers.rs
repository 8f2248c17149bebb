//! The controller's registers and doorbells.
//!
//! Spec: NVMe 1.4, 3.1 "Register Definition".

use model_bus::Width;

use super::events::{INVALID_DOORBELL_VALUE, INVALID_DOORBELL_WRITE};
use super::queue::distance;
use super::state::State;
use super::strict::clause;

const CAP: u64 = 0x00;
const VS: u64 = 0x08;
const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
/// Where the doorbells begin.
pub(crate) const DOORBELLS: u64 = 0x1000;

pub(crate) const CC_ENABLE: u32 = 1;
/// CC.SHN, bits 15:14: not 0 if software wants a shutdown.
pub(crate) const CC_SHUTDOWN: u32 = 3 << 14;
const CC_WRITABLE: u32 = 0x00ff_fff1;
/// CC.CSS, MPS and AMS, bits 13:4: what may change only while the controller is disabled.
const CC_WHILE_DISABLED: u32 = 0x3ff0;
pub(crate) const CSTS_READY: u32 = 1;
pub(crate) const CSTS_FATAL: u32 = 1 << 1;
/// CSTS.SHST 10b: shutdown processing is complete.
pub(crate) const CSTS_SHUTDOWN_DONE: u32 = 0b10 << 2;
/// 1.4.0.
pub(crate) const VERSION: u32 = 0x0001_0400;
/// Entries of these sizes, as powers of two, are all there are.
pub(crate) const SQE_LG2: u32 = 6;
pub(crate) const CQE_LG2: u32 = 4;

impl State {
    /// CAP: contiguous queues only (CQR), one arbitration, 10 s for becoming ready, the NVM command set, pages from 4 KiB.
    fn capabilities(&self) -> u64 {
        const CONTIGUOUS: u64 = 1 << 16;
        const TIMEOUT_500_MS: u64 = 20 << 24;
        const NVM_COMMANDS: u64 = 1 << 37;
        u64::from(self.limits.queue_entries - 1)
            | CONTIGUOUS
            | TIMEOUT_500_MS
            | u64::from(self.limits.doorbell_stride) << 32
            | NVM_COMMANDS
            | u64::from(self.limits.page_max) << 52
    }

    fn dword(&self, offset: u64) -> u32 {
        match offset {
            CAP => self.capabilities() as u32,
            0x04 => (self.capabilities() >> 32) as u32,
            VS => VERSION,
            INTMS | INTMC => self.interrupt_mask,
            CC => self.cc,
            CSTS => self.csts,
            AQA => self.aqa,
            ASQ => self.asq as u32,
            0x2c => (self.asq >> 32) as u32,
            ACQ => self.acq as u32,
            0x34 => (self.acq >> 32) as u32,
            _ => 0,
        }
    }

    /// Reads registers. Narrow accesses, which the book leaves undefined, read their part of the register.
    pub(crate) fn read_register(&self, offset: u64, width: Width) -> u64 {
        let dword = u64::from(self.dword(offset & !3));
        match width {
            Width::Bits64 => dword | u64::from(self.dword(offset + 4)) << 32,
            Width::Bits32 => dword,
            Width::Bits16 => dword >> (8 * (offset & 2)) & 0xffff,
            Width::Bits8 => dword >> (8 * (offset & 3)) & 0xff,
        }
    }

    /// Writes registers. Narrow writes, which the book leaves undefined, do nothing.
    pub(crate) fn write_register(&mut self, offset: u64, width: Width, value: u64) {
        match width {
            Width::Bits64 => {
                self.write_dword(offset, value as u32);
                self.write_dword(offset + 4, (value >> 32) as u32);
            }
            Width::Bits32 => self.write_dword(offset, value as u32),
            Width::Bits16 | Width::Bits8 => (),
        }
    }

    fn write_dword(&mut self, offset: u64, value: u32) {
        let low = |old: u64| old & !0xffff_ffff | u64::from(value & !0xfff);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        let admin_queue = (self.aqa, self.asq, self.acq);
        match offset {
            INTMS => self.interrupt_mask |= value,
            INTMC => self.interrupt_mask &= !value,
            CC => self.write_configuration(value & CC_WRITABLE),
            AQA => self.aqa = value & 0x0fff_0fff,
            ASQ => self.asq = low(self.asq),
            0x2c => self.asq = high(self.asq),
            ACQ => self.acq = low(self.acq),
            0x34 => self.acq = high(self.acq),
            DOORBELLS.. => self.write_doorbell(offset - DOORBELLS, value),
            _ => (),
        }
        self.admin_queue_written(admin_queue);
    }

    fn write_configuration(&mut self, value: u32) {
        let (was, is) = (self.cc & CC_ENABLE != 0, value & CC_ENABLE != 0);
        let ready = self.csts & CSTS_READY != 0;
        match (was, is) {
            (false, true) if ready => self.misuse(clause::ENABLED_WHILE_READY, value),
            // A controller that is broken comes back by a reset alone.
            (true, false) if !ready && self.csts & CSTS_FATAL == 0 => {
                self.misuse(clause::DISABLED_BEFORE_READY, value);
            }
            (true, true) if (self.cc ^ value) & CC_WHILE_DISABLED != 0 => {
                self.misuse(clause::LIVE_CONFIGURATION, value);
            }
            _ => (),
        }
        self.reset_due |= was && !is;
        self.cc = value;
        if is && !was && (self.asq | self.acq) & (self.page_bytes() as u64 - 1) != 0 {
            self.misuse(clause::ADMIN_QUEUE_OFF_ITS_PAGE, value);
        }
    }

    /// AQA, ASQ and ACQ, of which software has just written a part.
    fn admin_queue_written(&mut self, before: (u32, u64, u64)) {
        if self.cc & CC_ENABLE != 0 && before != (self.aqa, self.asq, self.acq) {
            self.misuse(clause::LIVE_ADMIN_QUEUE, self.cc);
        }
    }

    fn misuse(&mut self, clause: &'static str, cc: u32) {
        self.misuse.push((clause, format!("CC {cc:#x}, CSTS {:#x}", self.csts)));
    }

    fn write_doorbell(&mut self, offset: u64, value: u32) {
        let stride = 4u64 << self.limits.doorbell_stride;
        if !self.is_running() || !offset.is_multiple_of(stride) {
            return;
        }
        let index = offset / stride;
        let queue = u16::try_from(index / 2).unwrap_or(u16::MAX);
        let outcome =
            if index.is_multiple_of(2) { self.ring_tail(queue, value) } else { self.ring_head(queue, value) };
        if let Err(info) = outcome {
            self.events.report_error(info);
        }
    }

    /// Spec: NVMe 1.4, 5.2.1 "Command Completion", "Asynchronous Event Information – Error Status".
    fn ring_tail(&mut self, queue: u16, value: u32) -> Result<(), u8> {
        let queue = self.sq(queue).ok_or(INVALID_DOORBELL_WRITE)?;
        if value >= queue.entries || value == queue.tail {
            return Err(INVALID_DOORBELL_VALUE);
        }
        if distance(queue.tail, value, queue.entries) > queue.free() {
            return Err(INVALID_DOORBELL_VALUE);
        }
        queue.tail = value;
        Ok(())
    }

    fn ring_head(&mut self, queue: u16, value: u32) -> Result<(), u8> {
        let queue = self.cq(queue).ok_or(INVALID_DOORBELL_WRITE)?;
        if value >= queue.entries || value == queue.head {
            return Err(INVALID_DOORBELL_VALUE);
        }
        if distance(queue.head, value, queue.entries) > queue.occupied() {
            return Err(INVALID_DOORBELL_VALUE);
        }
        queue.head = value;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::state::Limits;

    fn state() -> State {
        let limits =
            Limits { queue_entries: 1024, io_queues: 4, doorbell_stride: 1, page_max: 4, vectors: 5 };
        State::new(limits)
    }

    fn enabled() -> State {
        let mut state = state();
        state.write_register(0x24, Width::Bits32, 0x0007_0003);
        state.write_register(0x28, Width::Bits64, 0x12_3456_7fff);
        state.write_register(0x30, Width::Bits32, 0x8000_0000);
        state.write_register(0x34, Width::Bits32, 0x1);
        state.write_register(0x14, Width::Bits32, 0x0046_0001);
        assert!(state.enable());
        state
    }

    #[test]
    fn capabilities_and_version_read_as_the_book_lays_them_out() {
        let state = state();
        assert_eq!(state.read_register(0x00, Width::Bits64), 0x0040_0021_1401_03ff);
        assert_eq!(state.read_register(0x04, Width::Bits32), 0x0040_0021);
        assert_eq!(state.read_register(0x08, Width::Bits32), 0x0001_0400);
    }

    #[test]
    fn interrupt_masks_are_set_and_cleared_by_ones() {
        let mut state = state();
        state.write_register(0x0c, Width::Bits32, 0x5);
        state.write_register(0x10, Width::Bits32, 0x1);
        assert_eq!(
            (state.read_register(0x0c, Width::Bits32), state.read_register(0x10, Width::Bits32)),
            (4, 4)
        );
    }

    #[test]
    fn the_admin_queues_are_where_and_as_long_as_the_registers_say() {
        let state = enabled();
        assert_eq!(state.read_register(0x1c, Width::Bits32), 1);
        assert_eq!(state.read_register(0x28, Width::Bits64), 0x12_3456_7000);
        assert_eq!(state.read_register(0x30, Width::Bits64), 0x1_8000_0000);
        let (sq, cq) = (state.sqs[0].as_ref().unwrap(), state.cqs[0].as_ref().unwrap());
        assert_eq!((sq.base, sq.entries, cq.base, cq.entries), (0x12_3456_7000, 4, 0x1_8000_0000, 8));
    }

    #[test]
    fn a_configuration_that_is_not_supported_is_fatal() {
        let refuse = |aqa: u64, cc: u64| {
            let mut state = state();
            state.write_register(0x24, Width::Bits32, aqa);
            state.write_register(0x14, Width::Bits32, cc);
            assert!(!state.enable());
            assert_eq!(state.read_register(0x1c, Width::Bits32), 2);
        };
        refuse(0x0000_0003, 0x0046_0001);
        refuse(0x0003_0000, 0x0046_0001);
        refuse(0x0003_0003, 0x0046_0281);
        refuse(0x0003_0003, 0x0046_0011);
        refuse(0x0003_0003, 0x0046_0801);
    }

    #[test]
    fn a_reset_keeps_what_the_admin_queues_need_and_nothing_else() {
        let mut state = enabled();
        state.write_register(0x14, Width::Bits32, 0x0046_0000);
        assert!(state.reset_due && !state.is_running());
        state.reset();
        assert_eq!(state.read_register(0x1c, Width::Bits32), 0);
        assert_eq!(state.read_register(0x24, Width::Bits32), 0x0007_0003);
        assert_eq!(state.read_register(0x28, Width::Bits64), 0x12_3456_7000);
        assert!(state.sqs.iter().all(Option::is_none) && !state.reset_due);
    }

    #[test]
    fn doorbells_lie_a_stride_apart() {
        let mut state = enabled();
        state.write_register(0x1000, Width::Bits32, 3);
        assert_eq!(state.sqs[0].as_ref().unwrap().tail, 3);
        state.write_register(0x1004, Width::Bits32, 2);
        assert_eq!(state.sqs[0].as_ref().unwrap().tail, 3);
        state.cq(0).unwrap().tail = 2;
        state.write_register(0x1008, Width::Bits32, 2);
        assert_eq!(state.cqs[0].as_ref().unwrap().head, 2);
        assert_eq!(state.events.queued(), None);
    }

    #[test]
    fn a_doorbell_takes_only_what_its_queue_allows() {
        let info = |offset: u64, value: u64| {
            let mut state = enabled();
            state.cq(0).unwrap().tail = 2;
            state.write_register(offset, Width::Bits32, value);
            let untouched =
                state.sqs[0].as_ref().unwrap().tail == 0 && state.cqs[0].as_ref().unwrap().head == 0;
            assert!(untouched);
            state.events.queued()
        };
        let (wrong_value, wrong_queue) = (Some(0x0001_0100), Some(0x0001_0000));
        assert_eq!(info(0x1000, 4), wrong_value);
        assert_eq!(info(0x1000, 0), wrong_value);
        assert_eq!(info(0x1000, 0x1_0001), wrong_value);
        assert_eq!(info(0x1008, 3), wrong_value);
        assert_eq!(info(0x1008, 0), wrong_value);
        assert_eq!(info(0x1010, 1), wrong_queue);
        assert_eq!(info(0x1018, 1), wrong_queue);
        assert_eq!(info(0x1ff8, 1), wrong_queue);
    }

    #[test]
    fn a_tail_goes_round_no_further_than_to_the_entry_before_the_head() {
        let mut state = enabled();
        state.write_register(0x1000, Width::Bits32, 2);
        state.write_register(0x1000, Width::Bits32, 1);
        assert_eq!((state.sqs[0].as_ref().unwrap().tail, state.events.queued()), (2, Some(0x0001_0100)));
        let mut state = enabled();
        state.write_register(0x1000, Width::Bits32, 2);
        (0..2).for_each(|_| state.sq(0).unwrap().advance());
        state.write_register(0x1000, Width::Bits32, 1);
        assert_eq!((state.sqs[0].as_ref().unwrap().tail, state.events.queued()), (1, None));
    }

    #[test]
    fn what_may_change_only_while_the_controller_is_disabled_is_noted() {
        let misuse = |writes: &[(u64, u64)]| {
            let mut state = enabled();
            writes.iter().for_each(|&(at, value)| state.write_register(at, Width::Bits32, value));
            state.misuse.iter().map(|(clause, _)| *clause).collect::<Vec<_>>()
        };
        // What is there; entry sizes; a shutdown; a reset by a zero.
        assert_eq!(
            misuse(&[(0x24, 0x0007_0003), (0x14, 0x0000_0001), (0x14, 0x0046_4001), (0x14, 0)]),
            [""; 0]
        );
        for field in [0x0046_0011, 0x0046_0081, 0x0046_0801] {
            assert_eq!(misuse(&[(0x14, field)]), [clause::LIVE_CONFIGURATION], "{field:#x}");
        }
        for (at, value) in [(0x24, 0x0007_0007), (0x28, 0), (0x2c, 1), (0x30, 0), (0x34, 0)] {
            assert_eq!(misuse(&[(at, value)]), [clause::LIVE_ADMIN_QUEUE], "{at:#x}");
        }
    }

    #[test]
    fn enabling_and_disabling_wait_for_one_another() {
        let misuse = |mut state: State, values: &[u64]| {
            values.iter().for_each(|&value| state.write_register(0x14, Width::Bits32, value));
            state.misuse.iter().map(|(clause, _)| *clause).collect::<Vec<_>>()
        };
        assert_eq!(misuse(enabled(), &[0x0046_0000]), [""; 0]);
        assert_eq!(misuse(enabled(), &[0x0046_0000, 0x0046_0001]), [clause::ENABLED_WHILE_READY]);
        assert_eq!(misuse(state(), &[0x0046_0001, 0x0046_0000]), [clause::DISABLED_BEFORE_READY]);
        // Nothing else brings a controller back that could not be enabled.
        let mut broken = state();
        broken.write_register(0x14, Width::Bits32, 0x0046_0001);
        assert!(!broken.enable());
        assert_eq!(misuse(broken, &[0x0046_0000]), [""; 0]);
    }

    #[test]
    fn admin_queues_begin_with_a_page_of_the_size_that_is_configured() {
        let misuse = |asq, acq, cc| {
            let mut state = state();
            state.write_register(0x24, Width::Bits32, 0x0007_0003);
            state.write_register(0x28, Width::Bits64, asq);
            state.write_register(0x30, Width::Bits64, acq);
            state.write_register(0x14, Width::Bits32, cc);
            state.misuse.iter().map(|(clause, _)| *clause).collect::<Vec<_>>()
        };
        assert_eq!(misuse(0x1_1000, 0x2_2000, 0x0046_0001), [""; 0]);
        assert_eq!(misuse(0x1_0000, 0x2_0000, 0x0046_0201), [""; 0]);
        assert_eq!(misuse(0x1_1000, 0x2_0000, 0x0046_0201), [clause::ADMIN_QUEUE_OFF_ITS_PAGE]);
        assert_eq!(misuse(0x1_0000, 0x2_2000, 0x0046_0201), [clause::ADMIN_QUEUE_OFF_ITS_PAGE]);
    }

    #[test]
    fn a_reset_is_the_end_of_the_shutdown_before_it() {
        let mut state = enabled();
        state.write_register(0x14, Width::Bits32, 0x0046_4001);
        state.csts |= CSTS_SHUTDOWN_DONE;
        state.write_register(0x14, Width::Bits32, 0x0046_4000);
        state.reset();
        assert_eq!((state.cc & CC_SHUTDOWN, state.csts), (0, 0));
    }
}
