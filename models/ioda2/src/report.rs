//! What an error does: the status registers, the PEST, the freeze, the interrupt.
//!
//! Observed: skiboot hw/phb3.c, phb3_init_errors (which errors freeze), phb3_read_phb_status (what is told), phb3_set_peltv (the PELT-V: 256 bits for each PE, the first
//! one the most significant of the first byte).
//! Choice: an error that its group does not let freeze is told, and refused, and freezes nobody. What LOG_0 and LOG_1 hold is in no header: here the requester
//! with what it tried, and the address.

use model_bus::Write;
use portcullis_types::Pa;
use portcullis_types::trace::Value;

use crate::bits::bit;
use crate::cause::{FirstError, Part};
use crate::message::Interrupt;
use crate::registers::{
    ERROR_GROUPS, FIRST, FREEZE_ENABLE, IRQ_ENABLE, LEM_FIR, LEM_MASK, LEM_WOF, LOG_0, LOG_1, LSI_SOURCE,
    LSI_SOURCE_ID, PELTV_BAR, PEST_BAR, STATUS,
};
use crate::state::{Around, State};
use crate::strict::clause;
use crate::tables::{LXIVT, LXIVT_PRIORITY, LXIVT_SERVER};

/// The LSI that tells of errors of PEs. Observed: skiboot include/phb3.h, PHB3_LSI_PCIE_ER.
const LSI_ERROR: u16 = 7;

impl State {
    /// Records an error, and freezes its PE, if it is one that freezes.
    pub(crate) fn report(&mut self, pe: Option<u8>, error: FirstError, around: Around<'_>) {
        *self.counters.errors.entry(error.cause).or_default() += 1;
        let Some((part, status)) = error.status() else { return };
        let group = match part {
            Part::Outbound => ERROR_GROUPS[1],
            Part::InboundA => ERROR_GROUPS[2],
            Part::InboundB => ERROR_GROUPS[3],
        };
        self.tell(group, status, part, &error);
        if let Some(pe) = pe.filter(|_| self.registers.get(group + FREEZE_ENABLE) & status != 0) {
            self.freeze_with_children(pe, error, around);
        }
        if self.registers.get(group + IRQ_ENABLE) & status != 0 {
            self.raise_lsi(LSI_ERROR, around);
        }
    }

    fn tell(&mut self, group: u64, status: u64, part: Part, error: &FirstError) {
        let registers = &mut self.registers;
        registers.set(group + STATUS, registers.get(group + STATUS) | status);
        if registers.get(group + FIRST) == 0 {
            registers.set(group + FIRST, status);
            let who = u64::from(error.rid) << 48 | error.transaction.code() << 40 | u64::from(error.data);
            registers.set(group + LOG_0, who);
            registers.set(group + LOG_1, error.address);
        }
        let lem = bit(part.lem_bit());
        registers.set(LEM_FIR, registers.get(LEM_FIR) | lem);
        if registers.get(LEM_WOF) == 0 && registers.get(LEM_MASK) & lem == 0 {
            registers.set(LEM_WOF, lem);
        }
    }

    /// Freezes a PE and those that its entry of the PELT-V names.
    pub(crate) fn freeze_with_children(&mut self, pe: u8, error: FirstError, around: Around<'_>) {
        let mut children = [0; 32];
        match self.registers.table(PELTV_BAR) {
            Some(table) => {
                // An entry that cannot be read names nobody.
                if around.fabric.read(Pa::new(table + 32 * u64::from(pe)), &mut children).is_err() {
                    children = [0; 32];
                }
            }
            None => self.notes.record(clause::PELTV_DISABLED, format!("PE {pe:#x}: {}", error.cause.name())),
        }
        self.freeze(pe, error, around);
        // Nearly every PE stands alone.
        for (byte, &bits) in (0u8..).zip(&children).filter(|(_, bits)| **bits != 0) {
            let named = (0..8).filter(|place| bits & 0x80 >> place != 0).map(|place| 8 * byte + place);
            named.filter(|&child| child != pe).for_each(|child| self.freeze(child, error, around));
        }
    }

    fn freeze(&mut self, pe: u8, error: FirstError, around: Around<'_>) {
        if !self.freezes.freeze(pe, error) {
            return;
        }
        self.counters.freezes += 1;
        match self.registers.table(PEST_BAR) {
            Some(table) => {
                let mut bytes = [0; 16];
                for (chunk, word) in bytes.chunks_exact_mut(8).zip(error.pest()) {
                    chunk.copy_from_slice(&word.to_be_bytes());
                }
                let at = Pa::new(table + 16 * u64::from(pe));
                // Where there is no memory, the particulars are lost; the freeze is not.
                let _lost = around.fabric.write(Write { at, bytes: &bytes, source: None });
            }
            None => self.notes.record(clause::PEST_DISABLED, format!("PE {pe:#x}: {}", error.cause.name())),
        }
        let fields = [
            ("pe", Value::Hex(pe.into())),
            ("cause", Value::Str(error.cause.name())),
            ("rid", Value::Hex(error.rid.into())),
            ("addr", Value::Addr(error.address)),
        ];
        around.trace("pe_freeze", &fields);
    }

    /// Presents an LSI, unless it is masked.
    fn raise_lsi(&mut self, lsi: u16, around: Around<'_>) {
        let entry = self.tables.get(LXIVT, lsi.into());
        let priority = LXIVT_PRIORITY.get(entry) as u8;
        if priority == 0xff {
            return;
        }
        let source = (LSI_SOURCE.get(self.registers.get(LSI_SOURCE_ID)) << 3) as u16 | lsi;
        let server = LXIVT_SERVER.get(entry) as u32 >> 2;
        self.present(source, server, priority, around);
    }

    /// Puts an interrupt where the machine takes it.
    pub(crate) fn present(&mut self, source: u16, server: u32, priority: u8, around: Around<'_>) {
        let number = self.xscom.interrupt_base() + u32::from(source);
        self.counters.interrupts += 1;
        around.trace(
            "interrupt",
            &[
                ("number", Value::Hex(number.into())),
                ("server", Value::Hex(server.into())),
                ("priority", Value::Dec(priority.into())),
            ],
        );
        self.interrupts.push_back(Interrupt { number, source, server, priority });
    }
}
