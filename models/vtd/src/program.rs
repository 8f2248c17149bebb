//! What writes to registers do.
//!
//! A global command takes some ticks (as the policy says), and is done when GSTS_REG says so. An access of 64 bits is one of the lower doubleword, then one of
//! the upper.
//!
//! Spec: VT-d 5.10, 11.2 "Software Access to Registers", 11.4.4.1 "Global Command Register", 6.6 "Set Root Table Pointer Operation", 6.7 "Set Interrupt
//! Remapping Table Pointer Operation", 6.9 "Hardware Register Programming Considerations".
//! Not here: invalidation by register (`by_register`).

use crate::bits::{bit, byte, field, mask};
use crate::config::{FAULT_RECORDS, IOTLB_REGISTERS};
use crate::engine::Root;
use crate::event::Which;
use crate::registers::COMPLETION_ERROR;
use crate::registers::{
    COMPATIBILITY, INTERRUPT_POINTER, INTERRUPTS, OVERFLOW, PAGE_REQUEST_OVERFLOW, PAGE_REQUEST_PENDING,
    QUEUE, QUEUE_ERROR, RECORDED, ROOT_POINTER, TIMEOUT_ERROR, TRANSLATION, WRITE_BUFFER,
};
use crate::remap::InterruptTable;
use crate::state::{Around, Outgoing, Owed, State};
use crate::strict::clause;

/// The controls that stay as they are written.
const LASTING: u32 = TRANSLATION | QUEUE | INTERRUPTS | COMPATIBILITY;
/// The controls that happen once.
const ONE_SHOT: u32 = ROOT_POINTER | WRITE_BUFFER | INTERRUPT_POINTER;

/// A command that waits to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    ticks: u32,
    /// The bit of GSTS_REG; 0 for the protection of memory.
    control: u32,
    on: bool,
    /// Accesses with smaller numbers must be back.
    drain: u64,
}

/// An invalidation by register that is not over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) ticks: u32,
    /// Of the IOTLB; else of the context cache.
    pub(crate) iotlb: bool,
    pub(crate) drain: u64,
}

/// A doubleword of a quadword, replaced.
pub(crate) fn replace(wide: u64, offset: u64, value: u32) -> u64 {
    let shift = if offset & 4 == 0 { 0 } else { 32 };
    wide & !(0xffff_ffff << shift) | u64::from(value) << shift
}

impl State {
    /// A write of an aligned doubleword.
    pub(crate) fn write32(&mut self, offset: u64, value: u32, around: Around<'_>) {
        if let Some((reserved, message)) = self.registers.events.write(offset, value) {
            self.note_reserved(offset, reserved.into());
            self.outbox.extend(message.map(Outgoing::Event));
            return;
        }
        let config = around.config;
        let queue = config.queued_invalidation;
        let prs = config.scalable_has(|mode| mode.page_requests);
        match offset {
            0x18 => self.write_command(value, around),
            0x20 | 0x24 => {
                let io = if config.io_permissions { 0 } else { 1 << 7 };
                let rest = mask(9, 8) | mask(6, 0) | io;
                self.registers.rtaddr = self.masked(offset, self.registers.rtaddr, value, rest);
            }
            0x28 | 0x2c => self.write_context_command(offset, value, around),
            0x34 => self.write_fault_status(value),
            0x64 if config.protected_memory => self.write_protection(value, around),
            0x68..=0x7c if config.protected_memory => self.write_protected_range(offset, value),
            0x88 | 0x8c if queue => {
                let rest = mask(63, 19) | mask(3, 0);
                self.registers.iqt = self.masked(offset, self.registers.iqt, value, rest);
            }
            0x90 | 0x94 if queue => {
                if self.registers.iqh != self.registers.iqt && self.registers.is_on(QUEUE) {
                    self.notes.record(clause::QUEUE_MOVED, format!("{value:#x}"));
                }
                self.registers.iqa = self.masked(offset, self.registers.iqa, value, mask(10, 3));
            }
            0x9c if queue => {
                self.note_reserved(offset, (value & !1).into());
                self.registers.ics &= !(value & 1);
                if self.registers.ics & 1 == 0 {
                    self.registers.events.of(Which::Invalidation).serviced();
                }
            }
            0xb8 | 0xbc if config.interrupt_remapping => {
                let eime = if config.wide_apic_ids { 0 } else { 1 << 11 };
                self.registers.irta = self.masked(offset, self.registers.irta, value, mask(10, 4) | eime);
            }
            0xc0 | 0xc4 if prs => {
                let rest = mask(63, 19) | mask(4, 0);
                self.registers.pqh = self.masked(offset, self.registers.pqh, value, rest);
            }
            0xc8 | 0xcc if prs => {
                let rest = mask(63, 19) | mask(4, 0);
                self.registers.pqt = self.masked(offset, self.registers.pqt, value, rest);
            }
            0xd0 | 0xd4 if prs => {
                self.registers.pqa = self.masked(offset, self.registers.pqa, value, mask(11, 3));
            }
            0xdc if prs => {
                let fields = PAGE_REQUEST_PENDING | PAGE_REQUEST_OVERFLOW;
                self.note_reserved(offset, (value & !fields).into());
                self.registers.prs &= !(value & fields);
                if self.registers.prs == 0 {
                    self.registers.events.of(Which::PageRequest).serviced();
                }
            }
            _ if offset & !0xf == IOTLB_REGISTERS => self.write_iotlb_registers(offset, value, around),
            _ if offset >= FAULT_RECORDS => self.write_record(offset, value),
            // What is not there, and what is read-only, is not moved by a write.
            _ => {}
        }
    }

    fn note_reserved(&mut self, offset: u64, bits: u64) {
        if bits != 0 {
            let detail = format!("register {offset:#x}: bits {bits:#x} written as 1");
            self.notes.record(clause::REGISTER_RESERVED, detail);
        }
    }

    /// What a quadword register holds after a write to half of it; `reserved` are its reserved bits.
    fn masked(&mut self, offset: u64, old: u64, value: u32, reserved: u64) -> u64 {
        let written = replace(old, offset, value);
        self.note_reserved(offset, written & reserved);
        written & !reserved
    }

    fn write_fault_status(&mut self, value: u32) {
        let fields = OVERFLOW | QUEUE_ERROR | COMPLETION_ERROR | TIMEOUT_ERROR;
        self.registers.fsts &= !(value & fields);
        self.faults_serviced();
    }

    /// F is the only field of a fault record that a write moves.
    fn write_record(&mut self, offset: u64, value: u32) {
        if let Some((index, 1)) = self.registers.record_at(offset)
            && offset & 4 != 0
            && value >> 31 == 1
        {
            self.registers.records[index][1] &= !RECORDED;
            self.faults_serviced();
        }
    }

    fn write_command(&mut self, value: u32, around: Around<'_>) {
        let rest = value & !(LASTING | ONE_SHOT);
        self.note_reserved(0x18, rest.into());
        let config = around.config;
        let mut there = TRANSLATION | ROOT_POINTER | WRITE_BUFFER;
        if config.queued_invalidation {
            there |= QUEUE;
        }
        if config.interrupt_remapping {
            there |= INTERRUPTS | INTERRUPT_POINTER | COMPATIBILITY;
        }
        if !config.write_buffers {
            there &= !WRITE_BUFFER;
        }
        if self.commands.iter().any(|waiting| waiting.control != 0) {
            self.notes.record(clause::COMMAND_BUSY, format!("{value:#x} written to GCMD_REG"));
        }
        // What is under way counts as done: it will be.
        let lasting = self.commands.iter().fold(self.registers.gsts & LASTING, |status, waiting| {
            if waiting.on { status | waiting.control & LASTING } else { status & !waiting.control }
        });
        let changed = ((value ^ lasting) & LASTING | value & ONE_SHOT) & there;
        if changed.count_ones() > 1 {
            self.notes.record(clause::COMMAND_SEVERAL, format!("{changed:#x} at once"));
        }
        for control in (0..32).rev().map(|n| 1 << n).filter(|control| changed & control != 0) {
            self.begin(control, value & control != 0, around);
        }
    }

    fn begin(&mut self, control: u32, on: bool, around: Around<'_>) {
        match control {
            ROOT_POINTER | INTERRUPT_POINTER => self.registers.gsts &= !control,
            WRITE_BUFFER => self.registers.gsts |= control,
            _ => {}
        }
        self.judge_command(control, on, around);
        let ticks = self.dice.up_to(around.config.policy.acknowledge_ticks);
        // 6.5.4, 6.5.5: draining is required when remapping goes from disabled to enabled.
        let drains = on && matches!(control, TRANSLATION | INTERRUPTS);
        let drain = if drains { around.flights.next() } else { 0 };
        self.commands.push(Waiting { ticks, control, on, drain });
        if around.config.policy.acknowledge_ticks == 0 {
            self.finish_commands(around);
        }
    }

    /// Notes what the book forbids about a command.
    fn judge_command(&mut self, control: u32, on: bool, around: Around<'_>) {
        let registers = &self.registers;
        let next_mode = byte(field(registers.rtaddr, 11, 10), 0);
        let eime = bit(registers.irta, 11);
        let clause = match (control, on) {
            (TRANSLATION, true) if !registers.is_on(ROOT_POINTER) => Some(clause::ENABLE_WITHOUT_ROOT),
            (TRANSLATION, true) if self.owed != Owed::Nothing => Some(clause::ROOT_NOT_INVALIDATED),
            (ROOT_POINTER, _)
                if registers.is_on(TRANSLATION)
                    && !around.config.root_invalidates
                    && next_mode != self.root.mode =>
            {
                Some(clause::MODE_CHANGED)
            }
            (INTERRUPTS, true) if !registers.is_on(INTERRUPT_POINTER) => {
                Some(clause::ENABLE_WITHOUT_INTERRUPT_TABLE)
            }
            (INTERRUPTS, true) if self.interrupts_owed => Some(clause::INTERRUPT_TABLE_NOT_INVALIDATED),
            (INTERRUPT_POINTER, _) if registers.is_on(INTERRUPTS) && eime != self.interrupt_table.wide => {
                Some(clause::INTERRUPT_MODE_CHANGED)
            }
            (QUEUE, true) if registers.iqt != 0 => Some(clause::QUEUE_TAIL),
            (QUEUE, true) if !self.jobs.is_empty() => Some(clause::QUEUE_ENABLED_EARLY),
            (QUEUE, false)
                if registers.iqh != registers.iqt || !self.waits.is_empty() || !self.pending.is_empty() =>
            {
                Some(clause::QUEUE_DISABLED)
            }
            _ => None,
        };
        if let Some(clause) = clause {
            self.notes.record(clause, format!("GSTS_REG {:#x}", self.registers.gsts));
        }
    }

    /// Does the commands that are due. Answers whether any was.
    pub(crate) fn finish_commands(&mut self, around: Around<'_>) -> bool {
        let mut moved = false;
        for mut waiting in core::mem::take(&mut self.commands) {
            if waiting.ticks == 0 && around.flights.are_back(waiting.drain) {
                self.finish(waiting.control, waiting.on, around);
                moved = true;
            } else {
                waiting.ticks = waiting.ticks.saturating_sub(1);
                self.commands.push(waiting);
            }
        }
        moved
    }

    fn finish(&mut self, control: u32, on: bool, around: Around<'_>) {
        match control {
            ROOT_POINTER => self.set_root(around),
            INTERRUPT_POINTER => self.set_interrupt_table(around),
            WRITE_BUFFER => {
                self.caches.flush_write_buffers();
                self.registers.gsts &= !WRITE_BUFFER;
                return;
            }
            0 => {
                self.registers.pmen = self.registers.pmen & !1 | u32::from(on);
                return;
            }
            // "For implementations reporting SMTS as Set, hardware performs global invalidation ... as part of Translation Disable."
            TRANSLATION if !on && around.config.scalable.is_some() => self.caches.clear_translations(),
            INTERRUPTS if !on && around.config.interrupt_table_invalidates => self.caches.interrupts.clear(),
            QUEUE if !on => {
                self.finish_pending(around);
                self.waits.clear();
                self.registers.iqh = 0;
            }
            QUEUE => self.registers.iqh = 0,
            _ => {}
        }
        if on {
            self.registers.gsts |= control;
        } else {
            self.registers.gsts &= !control;
        }
        self.reset_record_index();
    }

    fn set_root(&mut self, around: Around<'_>) {
        let rtaddr = self.registers.rtaddr;
        let mode = byte(field(rtaddr, 11, 10), 0);
        let config = around.config;
        self.root = Root { table: config.base_of(rtaddr), mode, io_permissions: bit(rtaddr, 7) };
        let there = match mode {
            0 => !self.root.io_permissions,
            1 => config.scalable.is_some(),
            3 => config.abort_dma,
            _ => false,
        };
        if !there {
            self.notes.record(clause::ROOT_POINTER, format!("RTADDR_REG {rtaddr:#x}"));
        }
        if config.root_invalidates {
            self.caches.clear_translations();
            self.owed = Owed::Nothing;
        } else if mode < 2 {
            self.owed = Owed::Contexts;
        }
    }

    fn set_interrupt_table(&mut self, around: Around<'_>) {
        let irta = self.registers.irta;
        self.interrupt_table = InterruptTable {
            at: around.config.base_of(irta),
            count: 2 << field(irta, 3, 0),
            wide: bit(irta, 11),
        };
        if around.config.interrupt_table_invalidates {
            self.caches.interrupts.clear();
        } else {
            self.interrupts_owed = true;
        }
    }

    fn write_protection(&mut self, value: u32, around: Around<'_>) {
        if self.commands.iter().any(|waiting| waiting.control == 0) {
            self.notes.record(clause::COMMAND_BUSY, format!("{value:#x} written to PMEN_REG"));
        }
        let on = value >> 31 == 1;
        self.registers.pmen = value & 1 << 31 | self.registers.pmen & 1;
        let ticks = self.dice.up_to(around.config.policy.acknowledge_ticks);
        let drain = if on { around.flights.next() } else { 0 };
        self.commands.push(Waiting { ticks, control: 0, on, drain });
        if around.config.policy.acknowledge_ticks == 0 {
            self.finish_commands(around);
        }
    }

    /// Base and limit: multiples of 2 MiB. Choice: N is 20.
    fn write_protected_range(&mut self, offset: u64, value: u32) {
        if self.registers.pmen != 0 {
            self.notes.record(clause::PROTECTED_CHANGED, format!("register {offset:#x}"));
        }
        const GRAIN: u32 = 0x1f_ffff;
        match offset {
            0x68 => self.registers.plm[0] = value & !GRAIN,
            0x6c => self.registers.plm[1] = value & !GRAIN,
            _ => {
                let index = usize::from(offset >= 0x78);
                let written = replace(self.registers.phm[index], offset, value);
                self.registers.phm[index] = written & !u64::from(GRAIN);
            }
        }
    }

    /// Whether a device may not touch a run of memory. The limits' low bits "are decoded by hardware as all 1s".
    pub(crate) fn is_protected(&self, address: u64, len_bytes: u64) -> bool {
        if self.registers.pmen & 1 == 0 {
            return false;
        }
        let last = address.saturating_add(len_bytes.max(1) - 1);
        let overlaps = |base: u64, limit: u64| base <= limit && address <= limit | 0x1f_ffff && base <= last;
        let [low_base, low_limit] = self.registers.plm;
        let [high_base, high_limit] = self.registers.phm;
        overlaps(low_base.into(), low_limit.into()) || overlaps(high_base, high_limit)
    }
}
