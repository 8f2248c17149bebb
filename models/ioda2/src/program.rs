//! What loads and stores of registers do, once they are of the right width.
//!
//! Observed: QEMU 7.2, hw/pci-host/pnv_phb3.c, pnv_phb3_reg_write, pnv_phb3_reg_read; skiboot hw/phb3.c, phb3_err_ER_clear (stored ones clear a status; the rest is
//! stored as it is).
//! Choice: QUIESCE_DMA is kept, and stops nobody; what has no effect of its own is storage.
//! Not here: widths, the wait of a load, and configuration space (`phb`).

use model_bus::Flights;

use crate::message::Sent;
use crate::registers::{
    ANY_ERROR, ANY_FIRST, ANY_FREEZE, CONTROL, CPU_LOADSTORE_STATUS, DLP_TRAIN_CTL, DMA_CHAN_STATUS,
    DMARD_SYNC, ERROR_GROUPS, ETU_ERR_SUMMARY, FFI_LOCK, FFI_LOCKED, FFI_REQUEST, FFI_SOURCE, FIRST,
    IODA_ADDR, IODA_DATA0, IVC_INVALIDATE, IVC_UPDATE, KILL_ALL, LEM_FIR, LEM_FIR_AND, LEM_FIR_OR, LEM_MASK,
    LEM_MASK_AND, LEM_MASK_OR, LEM_WOF, LSI_SOURCE, LSI_SOURCE_ID, M64_UPPER_BITS, PHB3_CONFIG, QUIESCE_DMA,
    RTC_INVALIDATE, RTT_BAR, STATUS, SYNC_COMPLETE, SYNC_START, TCE_KILL, bar_mask, clears_by_ones, exists,
    is_read_only, quiesce,
};
use crate::state::{Around, State};
use crate::strict::clause;
use crate::tables::{PEEV, PESTA, PESTB, RBA, Selected, select};

impl State {
    /// What a load answers.
    pub(crate) fn load(&mut self, offset: u64, around: Around<'_>) -> u64 {
        if !exists(offset) {
            self.notes.record(clause::UNKNOWN_REGISTER, format!("load at {offset:#x}"));
            return 0;
        }
        match offset {
            DMA_CHAN_STATUS | CPU_LOADSTORE_STATUS => self.channel_status(),
            ETU_ERR_SUMMARY => {
                let groups = ERROR_GROUPS.iter().enumerate();
                let wrong = groups.filter(|&(_, group)| self.registers.get(group + STATUS) != 0);
                wrong.fold(0, |summary, (place, _)| summary | 1 << (63 - place))
            }
            TCE_KILL if self.posted.is_empty() && around.flights.are_back(self.fence) => 0,
            TCE_KILL => KILL_ALL,
            DMARD_SYNC => sync_state(self.sync, around.flights),
            IODA_DATA0 => self.load_ioda(),
            DLP_TRAIN_CTL => self.registers.train_control(),
            FFI_LOCK => {
                let was = self.registers.get(FFI_LOCK);
                self.registers.set(FFI_LOCK, FFI_LOCKED);
                was
            }
            // What is only stored to reads as zero.
            RTC_INVALIDATE | IVC_INVALIDATE | IVC_UPDATE | FFI_REQUEST | LEM_FIR_AND | LEM_FIR_OR
            | LEM_MASK_AND | LEM_MASK_OR => 0,
            _ => self.registers.get(offset),
        }
    }

    /// What a store does.
    pub(crate) fn store(&mut self, offset: u64, value: u64, around: Around<'_>) {
        if !exists(offset) {
            self.notes.record(clause::UNKNOWN_REGISTER, format!("store of {value:#x} at {offset:#x}"));
            return;
        }
        if is_read_only(offset) {
            self.notes.record(clause::READ_ONLY, format!("store of {value:#x} at {offset:#x}"));
            return;
        }
        if let Some(mask) = bar_mask(offset) {
            self.store_bar(offset, value, mask, around);
            return;
        }
        let registers = &mut self.registers;
        match offset {
            TCE_KILL => self.store_kill(value, around),
            RTC_INVALIDATE => self.store_rtc_invalidate(value, around),
            DMARD_SYNC if value & SYNC_START != 0 => self.sync = Some(around.flights.next()),
            DMARD_SYNC => self.sync = None,
            IODA_DATA0 => self.store_ioda(value, around),
            IVC_UPDATE => self.ivc.update(value),
            IVC_INVALIDATE => self.ivc.invalidate(value),
            FFI_REQUEST => self.force_interrupt(value, around),
            LSI_SOURCE_ID => registers.set(offset, value & LSI_SOURCE.in_place()),
            M64_UPPER_BITS => registers.set(offset, value & 0xfffc_0000_0000_0000),
            QUIESCE_DMA => registers.set(offset, quiesce(value)),
            LEM_FIR_AND => registers.set(LEM_FIR, registers.get(LEM_FIR) & value),
            LEM_FIR_OR => registers.set(LEM_FIR, registers.get(LEM_FIR) | value),
            LEM_MASK_AND => registers.set(LEM_MASK, registers.get(LEM_MASK) & value),
            LEM_MASK_OR => registers.set(LEM_MASK, registers.get(LEM_MASK) | value),
            LEM_WOF => registers.set(LEM_WOF, 0),
            PHB3_CONFIG | CONTROL => {
                registers.set(offset, value);
                self.fence = around.flights.next();
            }
            _ if clears_by_ones(offset) => registers.set(offset, registers.get(offset) & !value),
            _ => registers.set(offset, value),
        }
    }

    fn store_bar(&mut self, offset: u64, value: u64, mask: u64, around: Around<'_>) {
        if value & !mask != 0 {
            self.notes.record(clause::BAR_ALIGNMENT, format!("{value:#x} at {offset:#x}"));
        }
        self.registers.set(offset, value & mask);
        if offset == RTT_BAR {
            self.fence = around.flights.next();
        }
    }

    fn channel_status(&self) -> u64 {
        let flag = |set: bool, flag: u64| if set { flag } else { 0 };
        flag(self.registers.any_group(STATUS), ANY_ERROR)
            | flag(self.registers.any_group(FIRST), ANY_FIRST)
            | flag(self.freezes.any(), ANY_FREEZE)
    }

    /// The entry that IODA_ADDR selects. Moves on.
    fn selected(&mut self) -> Option<Selected> {
        let address = self.registers.get(IODA_ADDR);
        let Some((selected, next)) = select(address) else {
            self.notes.record(clause::IODA_TABLE, format!("{address:#018x}"));
            return None;
        };
        self.registers.set(IODA_ADDR, next);
        Some(selected)
    }

    fn load_ioda(&mut self) -> u64 {
        let Some(Selected { table, index }) = self.selected() else { return 0 };
        match table {
            PESTA | PESTB => self.freezes.read(index, table == PESTB),
            PEEV => self.freezes.summary(index),
            _ => self.tables.get(table, index),
        }
    }

    fn store_ioda(&mut self, value: u64, around: Around<'_>) {
        let Some(Selected { table, index }) = self.selected() else { return };
        match table {
            PESTA | PESTB => self.freezes.write(index, table == PESTB, value),
            PEEV => (),
            _ => self.tables.set(table, index, value),
        }
        self.fence = around.flights.next();
    }

    /// A store to FFI_REQUEST: software sends a message itself, without a PE, and gives the lock back.
    fn force_interrupt(&mut self, value: u64, around: Around<'_>) {
        if self.registers.get(FFI_LOCK) & FFI_LOCKED == 0 {
            self.notes.record(clause::FFI_UNLOCKED, format!("{value:#x}"));
        }
        self.registers.set(FFI_LOCK, 0);
        let _sent = self.send_message(FFI_SOURCE.get(value) as u32, false, around);
    }

    /// Sends a message to a source. False if it has no entry.
    pub(crate) fn send_message(&mut self, source: u32, again: bool, around: Around<'_>) -> bool {
        let sent = self.ivc.send(source, again, &self.registers, around.fabric, &mut self.notes);
        match sent {
            Ok(Sent::Presented { server, priority }) => self.present(source as u16, server, priority, around),
            Ok(Sent::Remembered | Sent::Dropped) => (),
            Err(_) => return false,
        }
        true
    }

    /// A server rejected an interrupt: it is presented again in a later step.
    pub(crate) fn reject(&mut self, source: u16) {
        let index = usize::from(source / 64) & 31;
        self.tables.set(RBA, index, self.tables.get(RBA, index) | 1 << (source % 64));
    }

    /// Presents what was rejected. Answers whether there was anything: that is asked at every step, and there hardly ever is.
    pub(crate) fn present_rejected(&mut self, around: Around<'_>) -> bool {
        if self.tables.is_clear(RBA) {
            return false;
        }
        let mut any = false;
        for index in 0..32 {
            let rejected = self.tables.get(RBA, index);
            self.tables.set(RBA, index, 0);
            for bit in (0..64).filter(|bit| rejected >> bit & 1 != 0) {
                any = true;
                self.send_message(64 * index as u32 + bit, true, around);
            }
        }
        any
    }
}

fn sync_state(sync: Option<u64>, flights: &Flights) -> u64 {
    match sync {
        None => 0,
        Some(number) if flights.are_back(number) => SYNC_COMPLETE,
        Some(_) => SYNC_START,
    }
}
