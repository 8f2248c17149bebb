//! What register writes do, who may write when, and how Updates complete.
//!
//! Spec: SMMUv3 H.a, 6.3 "Register formats", each register's "Accessing".

use model_bus::Width;

use crate::config::Config;
use crate::cr::{
    ATSCHK, CMDQEN, EVENTQ_IRQEN, EVENTQEN, GBPA_FIELDS, GBPA_UPDATE, GERROR_IRQEN, PRIQ_IRQEN, PRIQEN, PTM,
    SMMUEN, cr0_fields, irq_fields,
};
use crate::engine::Setup;
use crate::pri::LAST_ONLY;
use crate::queue::Queue;
use crate::registers::{Interrupt, Part, Register, locate};
use crate::report::gerror;
use crate::state::{Around, State};
use crate::strict::clause;

/// The bits that each base register stores. Spec: SMMUv3 H.a, 6.3.24, 6.3.26, 6.3.29.
const STREAM_TABLE_BASE: u64 = 0x400f_ffff_ffff_ffc0;
const QUEUE_BASE: u64 = 0x400f_ffff_ffff_ffff;

impl State {
    /// A register read.
    pub(crate) fn read_register(&mut self, offset: u64, width: Width, config: &Config) -> u64 {
        self.counters.register_reads += 1;
        match locate(offset, width, config) {
            Ok(Some((register, part))) => {
                if register == Register::PageZeroAlias {
                    self.notes.record(clause::PAGE_ONE, format!("read of {offset:#x}"));
                }
                let value = self.registers.read(register);
                match part {
                    Part::Whole => value,
                    Part::Lower => value & 0xffff_ffff,
                    Part::Upper => value >> 32,
                }
            }
            Ok(None) => 0,
            Err(()) => {
                self.notes.record(
                    clause::REGISTER_WIDTH,
                    format!("read of {} bytes at {offset:#x}", width.bytes()),
                );
                0
            }
        }
    }

    /// A register write.
    pub(crate) fn write_register(&mut self, offset: u64, width: Width, value: u64, around: Around<'_>) {
        self.counters.register_writes += 1;
        match locate(offset, width, around.config) {
            Ok(Some((register, part))) => {
                let old = self.registers.read(register);
                let value = match part {
                    Part::Whole => value,
                    Part::Lower => old & !0xffff_ffff | value & 0xffff_ffff,
                    Part::Upper => old & 0xffff_ffff | value << 32,
                };
                self.write(register, value, around);
            }
            Ok(None) => {}
            Err(()) => {
                self.notes.record(
                    clause::REGISTER_WIDTH,
                    format!("write of {} bytes at {offset:#x}", width.bytes()),
                );
            }
        }
    }

    fn write(&mut self, register: Register, value: u64, around: Around<'_>) {
        let word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        if !self.may_write(register, around.config) {
            self.notes.record(clause::WRITE_WHILE_ENABLED, format!("{register:?} = {value:#x}"));
            return;
        }
        match register {
            Register::Cr0 => self.write_cr0(word, around),
            Register::Cr1 => self.registers.cr1 = self.merge_cr1(word),
            Register::Cr2 => self.registers.cr2 = self.merge_cr2(word, around.config),
            Register::Gbpa => self.write_gbpa(word, around),
            Register::IrqCtrl => self.write_irq_ctrl(word, around),
            Register::Gerrorn => self.write_gerrorn(word),
            // Without IDR0.MSI these are RES0.
            Register::Interrupt(which, part) if !around.config.msi => {
                // But for LO, which counts for a wired interrupt, too.
                if (which, part) == (Interrupt::Page, 2) {
                    self.registers.page_message.attributes = word & LAST_ONLY;
                }
            }
            Register::Interrupt(which, part) => {
                let message = self.registers.message_mut(which);
                match part {
                    0 => message.address = value & 0x000f_ffff_ffff_fffc,
                    1 => message.data = word,
                    _ => message.attributes = word & attribute_bits(which),
                }
            }
            Register::StreamTableBase => self.registers.table_base = value & STREAM_TABLE_BASE,
            Register::StreamTableConfig => self.registers.table_config = word & 0x0003_07ff,
            Register::CommandBase => self.registers.commands.base = value & QUEUE_BASE,
            Register::CommandProd => self.write_command_prod(word, around.config),
            Register::CommandCons => self.registers.commands.cons = word & 0x7f0f_ffff,
            Register::EventBase => self.registers.events.base = value & QUEUE_BASE,
            Register::EventProd => self.registers.events.prod = word & 0x800f_ffff,
            Register::EventCons => self.write_event_cons(word, around.config),
            Register::PageBase => self.registers.pages.base = value & QUEUE_BASE,
            Register::PageProd => self.registers.pages.prod = word & 0x800f_ffff,
            Register::PageCons => self.write_page_cons(word, around.config),
            Register::PageZeroAlias => self.notes.record(clause::PAGE_ONE, format!("write of {value:#x}")),
            // Read-only: writes are ignored.
            Register::Fixed(_) | Register::Cr0Ack | Register::IrqCtrlAck | Register::Gerror => {}
        }
    }

    /// The guards: "must only be modified when X == 0".
    fn may_write(&self, register: Register, config: &Config) -> bool {
        let cr0 = &self.registers.cr0;
        let irq = &self.registers.irq_ctrl;
        match register {
            Register::CommandBase | Register::CommandCons => cr0.is_off(CMDQEN),
            Register::EventBase | Register::EventProd => cr0.is_off(EVENTQEN),
            Register::StreamTableBase | Register::StreamTableConfig => cr0.is_off(SMMUEN),
            Register::Interrupt(Interrupt::Gerror, _) => !config.msi || irq.is_off(GERROR_IRQEN),
            // By PRIQEN as it is, whatever SMMUEN says (6.3.9.5 "PRIQEN").
            Register::PageBase | Register::PageProd => cr0.is_off(PRIQEN),
            Register::Interrupt(Interrupt::Page, _) => irq.is_off(PRIQ_IRQEN),
            Register::Interrupt(Interrupt::Event, _) => !config.msi || irq.is_off(EVENTQ_IRQEN),
            _ => true,
        }
    }

    /// QUEUE_* are guarded by the queues' enables, TABLE_* by SMMUEN. Spec: SMMUv3 H.a, 6.3.11 "SMMU_CR1".
    fn merge_cr1(&mut self, value: u32) -> u32 {
        let queues = (0x3f, CMDQEN | EVENTQEN | PRIQEN);
        let tables = (0xfc0, SMMUEN);
        self.merge_guarded("CR1", self.registers.cr1, value, &[queues, tables])
    }

    /// E2H, RECINVSID and PTM are guarded by SMMUEN. Spec: SMMUv3 H.a, 6.3.12 "SMMU_CR2".
    fn merge_cr2(&mut self, value: u32, config: &Config) -> u32 {
        // "When SMMU_IDR0.BTM == 1"; "when SMMU_IDR0.Hyp == 1"; otherwise RES0.
        let fields = 0b010 | if config.broadcast { PTM } else { 0 } | u32::from(config.hyp);
        self.merge_guarded("CR2", self.registers.cr2, value, &[(fields, SMMUEN)])
    }

    fn merge_guarded(&mut self, name: &str, old: u32, value: u32, groups: &[(u32, u32)]) -> u32 {
        groups.iter().fold(0, |merged, &(fields, guard)| {
            let changed = (old ^ value) & fields != 0;
            let open = self.registers.cr0.is_off(guard);
            if changed && !open {
                self.notes.record(clause::WRITE_WHILE_ENABLED, format!("{name} = {value:#x}"));
            }
            merged | if open { value } else { old } & fields
        })
    }

    fn write_cr0(&mut self, value: u32, around: Around<'_>) {
        let value = value & cr0_fields(around.config);
        let busy = self.registers.cr0.in_progress() & (self.registers.cr0.written ^ value);
        if busy != 0 {
            self.notes.record(clause::UPDATE_IN_PROGRESS, format!("CR0 = {value:#x}"));
            return;
        }
        let ticks = self.dice.up_to(around.config.policy.acknowledge_ticks);
        self.registers.cr0.write(value, ticks);
        if ticks == 0 {
            self.update(around);
        }
    }

    fn write_irq_ctrl(&mut self, value: u32, around: Around<'_>) {
        let value = value & irq_fields(around.config);
        let busy = self.registers.irq_ctrl.in_progress() & (self.registers.irq_ctrl.written ^ value);
        if busy != 0 {
            self.notes.record(clause::UPDATE_IN_PROGRESS, format!("IRQ_CTRL = {value:#x}"));
            return;
        }
        let ticks = self.dice.up_to(around.config.policy.acknowledge_ticks);
        self.registers.irq_ctrl.write(value, ticks);
        if ticks == 0 {
            self.update(around);
        }
    }

    /// "If Update is 1 when written, or is not written as 1, the write is ignored."
    fn write_gbpa(&mut self, value: u32, around: Around<'_>) {
        if self.registers.gbpa.written & GBPA_UPDATE != 0 || value & GBPA_UPDATE == 0 {
            self.notes.record(clause::GBPA_UPDATE, format!("GBPA = {value:#x}"));
            return;
        }
        let ticks = self.dice.up_to(around.config.policy.acknowledge_ticks);
        self.registers.gbpa.write(value & (GBPA_FIELDS | GBPA_UPDATE), ticks);
        if ticks == 0 {
            self.update(around);
        }
    }

    /// "Software must not toggle fields that correspond to errors that are inactive." We leave such fields alone.
    fn write_gerrorn(&mut self, value: u32) {
        let toggled = self.registers.gerrorn ^ value;
        let inactive = toggled & !(self.registers.gerror ^ self.registers.gerrorn);
        if inactive != 0 {
            self.notes
                .record(clause::GERRORN_INACTIVE, format!("GERRORN = {value:#x}, of which {inactive:#x}"));
        }
        self.registers.gerrorn ^= toggled & !inactive;
    }

    /// While CMDQEN is 0 any index will do: 6.3.26, "Write initial values to SMMU_CMDQ_CONS and SMMU_CMDQ_PROD", in either order.
    fn write_command_prod(&mut self, value: u32, config: &Config) {
        let lg2 = self.registers.commands.lg2(config.command_queue_lg2);
        self.registers.commands.prod = value & 0x000f_ffff;
        let queue = self.registers.commands;
        // 3.21.2: "The SMMU stops consuming commands until the queue is disabled and re-enabled."
        let enabled = !self.registers.cr0.is_off(CMDQEN);
        if enabled && !queue.is_consistent(lg2) && !self.is_active(gerror::CMDQ_ERR) {
            self.stuck = true;
            self.note_indexes("CMDQ", &queue);
        }
    }

    /// "Software must only write the CONS index of an output queue in a consistent manner."
    fn write_event_cons(&mut self, value: u32, config: &Config) {
        let queue = &mut self.registers.events;
        let backwards = consume_to(queue, value, config.event_queue_lg2);
        let queue = *queue;
        if !self.registers.cr0.is_off(EVENTQEN) && backwards {
            self.note_indexes("EVENTQ", &queue);
        }
    }

    fn write_page_cons(&mut self, value: u32, config: &Config) {
        let queue = &mut self.registers.pages;
        let backwards = consume_to(queue, value, config.page_queue_lg2);
        let queue = *queue;
        if !self.registers.cr0.is_off(PRIQEN) && backwards {
            self.note_indexes("PRIQ", &queue);
        }
    }

    pub(crate) fn note_indexes(&mut self, name: &str, queue: &Queue) {
        let detail = format!("{name}: PROD {:#x}, CONS {:#x}", queue.prod, queue.cons);
        self.notes.record(clause::QUEUE_INDEXES, detail);
    }

    /// Completes the Updates that are due. Answers whether any was under way.
    pub(crate) fn update(&mut self, around: Around<'_>) -> bool {
        let mut waited = false;
        if self.registers.cr0.in_progress() != 0 {
            waited = true;
            self.update_cr0(around);
        }
        if self.registers.irq_ctrl.in_progress() != 0 {
            waited = true;
            // "An IRQ enable update from 1 to 0 does not complete until" messages under way are written.
            let idle = self.outbox.is_empty() && !around.traffic.has_messages();
            if self.registers.irq_ctrl.is_due() && idle {
                self.registers.irq_ctrl.effective = self.registers.irq_ctrl.written;
            }
        }
        if self.registers.gbpa.in_progress() != 0 {
            waited = true;
            if self.registers.gbpa.is_due() {
                self.registers.gbpa.written &= !GBPA_UPDATE;
                self.registers.gbpa.effective = self.registers.gbpa.written;
                self.micro.clear();
            }
        }
        waited
    }

    fn update_cr0(&mut self, around: Around<'_>) {
        if !self.registers.cr0.is_due() {
            return;
        }
        let (old, new) = (self.registers.cr0.effective, self.registers.cr0.written);
        // "SMMUEN from 1 to 0 completes when all accesses that were translated are complete."
        let stopping = old & !new & SMMUEN != 0;
        if stopping && !(around.traffic.is_dry(0) && around.traffic.is_dry(1)) {
            return;
        }
        let (on, off) = (new & !old, old & !new);
        if stopping {
            // 6.3.9.6: "All stalled transactions that might be present have been marked to be terminated with an abort."
            self.terminate(None, around);
        }
        if on & CMDQEN != 0 {
            self.note_queue("CMDQ", &{ self.registers.commands }, around.config.command_queue_lg2, 16);
            let lg2 = self.registers.commands.lg2(around.config.command_queue_lg2);
            self.stuck = !self.registers.commands.is_consistent(lg2);
        }
        if on & EVENTQEN != 0 {
            self.note_queue("EVENTQ", &{ self.registers.events }, around.config.event_queue_lg2, 32);
        }
        if on & PRIQEN != 0 {
            self.note_queue("PRIQ", &{ self.registers.pages }, around.config.page_queue_lg2, 16);
        }
        if (on | off) & ATSCHK != 0 {
            self.change_ats_check(on & ATSCHK != 0, around.config);
        }
        if off & EVENTQEN != 0 {
            self.counters.events_lost += self.late_events.len() as u64;
            self.late_events.clear();
        }
        if off & CMDQEN != 0 {
            // A CMD_SYNC that was begun and not consumed begins again.
            self.sync = None;
        }
        if on & SMMUEN != 0 {
            self.enable(around.config);
        }
        self.micro.clear();
        self.registers.cr0.effective = new;
    }

    fn note_queue(&mut self, name: &str, queue: &Queue, most: u8, entry_bytes: u64) {
        let lg2 = queue.lg2(most);
        if queue.is_too_large(most) {
            self.notes.record(clause::QUEUE_SIZE, format!("{name}_BASE {:#x}", queue.base));
        }
        if queue.address() != queue.aligned(lg2, entry_bytes) {
            self.notes.record(clause::QUEUE_ALIGNMENT, format!("{name}_BASE {:#x}", queue.base));
        }
        if !queue.is_consistent(lg2) {
            self.note_indexes(name, queue);
        }
    }

    /// SMMUEN goes from 0 to 1: the registers of the stream table count now.
    fn enable(&mut self, config: &Config) {
        let (base, format) = (self.registers.table_base, self.registers.table_config);
        let log2size = format & 0x3f;
        let lg2 = log2size.min(u32::from(config.stream_id_bits.min(32)));
        if lg2 != log2size {
            self.notes.record(clause::STREAM_TABLE_SIZE, format!("LOG2SIZE {log2size}"));
        }
        let (fmt, split) = (format >> 16 & 3, format >> 6 & 0x1f);
        let two_level = fmt == 1 && config.two_level_streams;
        if fmt != 0 && !two_level || two_level && !matches!(split, 6 | 8 | 10) {
            self.notes.record(clause::STREAM_TABLE_FORMAT, format!("FMT {fmt}, SPLIT {split}"));
        }
        // "Other values are reserved, and behave as 6."
        let split = two_level.then_some(if matches!(split, 8 | 10) { split } else { 6 });
        let address = base & 0x000f_ffff_ffff_ffc0;
        // Linear: aligned to 2^(LOG2SIZE + 6). Two levels: to the larger of 64 bytes and 8 bytes an L1 entry.
        let table_lg2 = split.map_or(lg2 + 6, |split| (lg2.saturating_sub(split) + 3).max(6));
        let aligned = address >> table_lg2 << table_lg2;
        if aligned != address {
            self.notes.record(
                clause::STREAM_TABLE_ALIGNMENT,
                format!("STRTAB_BASE {address:#x} of 2^{table_lg2} bytes"),
            );
        }
        if !self.invalidated.configuration || !self.invalidated.translations {
            self.notes.record(clause::ENABLED_BEFORE_INVALIDATION, format!("{:?}", self.invalidated));
        }
        // "As a side effect of SMMUEN completing Update to 1, a prior change to this register is guaranteed to have taken effect."
        self.participates = config.broadcast && self.registers.cr2 & PTM == 0;
        let e2h = self.registers.cr2 & 1 != 0;
        if e2h != self.setup.e2h && self.caches.holds_el2() {
            self.notes.record(clause::E2H_CHANGE, format!("E2H {}", u8::from(e2h)));
        }
        self.setup = Setup {
            ats_check: self.setup.ats_check,
            table: aligned & ((1 << config.oas()) - 1),
            lg2,
            split,
            e2h,
            record_bad_streams: self.registers.cr2 & 2 != 0,
            el2_invalidated: self.setup.el2_invalidated,
        };
    }
}

/// Writes CONS of a queue that the SMMU fills. Answers whether that is backwards, or past PROD.
fn consume_to(queue: &mut Queue, value: u32, most: u8) -> bool {
    let lg2 = queue.lg2(most);
    let before = queue.waiting(lg2);
    queue.cons = value & 0x800f_ffff;
    queue.waiting(lg2) > before || !queue.is_consistent(lg2)
}

/// CFG2 of an interrupt: memory attributes, and for the PRI queue's also LO. Spec: SMMUv3 H.a, 6.3.36 "SMMU_PRIQ_IRQ_CFG2".
fn attribute_bits(which: Interrupt) -> u32 {
    if which == Interrupt::Page { LAST_ONLY | 0x3f } else { 0x3f }
}
