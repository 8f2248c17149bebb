//! An NVM Express controller with one namespace.
//!
//! An [`Nvme`] is a PCIe function: put it into a slot, and let the bus step it. Its bytes lie on a [`Medium`]. Everything it reads and writes
//! in memory, entries and lists and data and interrupts, goes through its [`Requester`], and is counted there.
//!
//! Commands are fetched in turn from the queues that have any, carried out in an order that the seed chooses, and completed
//! when their data has moved. Whatever a driver writes, the controller answers with a status, an
//! asynchronous event, or the fatal status that the book provides.
//!
//! Spec: NVMe 1.4 ("NVM Express Base Specification"), sections as cited in each file.
//! Not here: SGLs, metadata and protection information, namespace management, firmware, power states, fused commands, interrupt pins.

mod admin;
mod command;
mod engine;
mod events;
mod features;
mod identify;
mod io;
mod log;
mod medium;
mod prp;
mod queue;
mod queue_commands;
mod registers;
mod state;
mod status;
mod strict;
mod transfer;

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Clocked, Notes, Traffic, Unpredictable, Width};
use portcullis_types::trace::Sink;

use self::engine::Turn;
use self::io::Disk;
use self::registers::DOORBELLS;
use self::state::{Limits, State};
use crate::pcie::{
    Bar, ConfigBuilder, ConfigSpace, DEVICE_CONTROL, Function, INITIATE_RESET, Identity, MessageLayout,
    Messages, PortKind, Requester, express,
};

pub use medium::{FileMedium, Medium, MediumError, MemoryMedium};
pub use strict::clause;

/// What a controller is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeOptions {
    /// Who it says it is on PCIe.
    pub identity: Identity,
    /// Whether it sits behind a port or on the root bus.
    pub port: PortKind,
    /// Its serial number, at most 20 characters.
    pub serial: String,
    /// Its model, at most 40 characters.
    pub model: String,
    /// The size of a logical block as a power of two: 9 or 12.
    pub block_lg2: u8,
    /// How many I/O queues of each kind, 1 to 256.
    pub io_queues: u16,
    /// The most entries of a queue, 2 to 65536.
    pub queue_entries: u32,
    /// `CAP.DSTRD`: doorbells are `4 << doorbell_stride` bytes apart. At most 8.
    pub doorbell_stride: u8,
    /// The largest transfer as a power of two of 4 KiB, 1 to 12.
    pub mdts: u8,
    /// The largest memory page as a power of two of 4 KiB: 4 is 64 KiB. At most 4.
    pub page_max: u8,
    /// How many MSI-X vectors, 1 to 2048.
    pub vectors: u16,
    /// Decides the order of what may happen in any.
    pub seed: u64,
}

impl Default for NvmeOptions {
    /// 512-byte blocks, 16 queues of 1024 entries, transfers of up to 1 MiB, 17 vectors.
    fn default() -> Self {
        Self {
            identity: Identity { vendor: 0x1b36, device: 0x0010, revision: 2, class: 0x01_08_02 },
            port: PortKind::Endpoint,
            serial: "PORTCULLIS-0001".into(),
            model: "Portcullis model disk".into(),
            block_lg2: 9,
            io_queues: 16,
            queue_entries: 1024,
            doorbell_stride: 0,
            mdts: 8,
            page_max: 4,
            vectors: 17,
            seed: 0,
        }
    }
}

/// An NVM Express controller.
pub struct Nvme {
    options: NvmeOptions,
    config: Arc<ConfigSpace>,
    /// Where its PCI Express capability is; none for one on a conventional bus.
    express: Option<usize>,
    bar: [Bar; 1],
    layout: MessageLayout,
    requester: Requester,
    messages: Messages,
    disk: Disk,
    state: Mutex<State>,
    turn: Mutex<Turn>,
    notes: Mutex<Notes>,
    sink: Arc<dyn Sink>,
}

impl fmt::Debug for Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvme")
            .field("disk", &self.disk)
            .field("traffic", &self.traffic())
            .finish_non_exhaustive()
    }
}

impl Nvme {
    /// A controller, in no slot yet, whose namespace is `medium`, rounded up to whole blocks.
    ///
    /// # Panics
    ///
    /// If an option is outside what its description allows.
    pub fn new(options: NvmeOptions, medium: Box<dyn Medium>, sink: Arc<dyn Sink>) -> Arc<Self> {
        check(&options);
        let layout = message_layout(&options);
        let end = u64::from(layout.pending) + layout.pending_bytes();
        let bar = Bar { index: 0, size_bytes: end.next_power_of_two(), wide: true, prefetchable: false };
        let mut builder = ConfigBuilder::new(options.identity, 0);
        bar.lay_out(&mut builder);
        let express = express(&mut builder, options.port);
        let places = layout.lay_out(&mut builder);
        let config = Arc::new(builder.build());
        let limits = Limits {
            queue_entries: options.queue_entries,
            io_queues: options.io_queues,
            doorbell_stride: options.doorbell_stride,
            page_max: options.page_max,
            vectors: options.vectors,
        };
        Arc::new(Self {
            requester: Requester::new(config.clone()),
            messages: Messages::new(config.clone(), layout, places, sink.clone()),
            disk: Disk::new(medium, options.block_lg2),
            state: Mutex::new(State::new(limits)),
            turn: Mutex::new(Turn::new(options.seed)),
            notes: Mutex::new(Notes::new("model.nvme", sink.clone())),
            config,
            express,
            bar: [bar],
            layout,
            options,
            sink,
        })
    }

    /// What has gone between the controller and memory since it was put into its slot.
    pub fn traffic(&self) -> Traffic {
        self.requester.traffic()
    }

    /// What software did with its registers that the book of NVMe forbids, and with its interrupts that that of PCIe does, since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        [self.notes().take(), self.messages.take_unpredictable()].concat()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many interrupts did not arrive.
    pub fn lost_interrupts(&self) -> u64 {
        self.messages.lost()
    }

    /// How many logical blocks there are.
    pub fn block_count(&self) -> u64 {
        self.disk.blocks()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The MSI-X register that `offset` in the BAR is in: the offset in the table, or in the pending bits.
    fn message_register(&self, offset: u64) -> Option<MessageRegister> {
        let inside = |first: u32, len: u64| offset.checked_sub(u64::from(first)).filter(|&at| at < len);
        let table = inside(self.layout.table, self.layout.table_bytes()).map(MessageRegister::Table);
        table.or_else(|| {
            inside(self.layout.pending, self.layout.pending_bytes()).map(MessageRegister::Pending)
        })
    }
}

enum MessageRegister {
    Table(u64),
    Pending(u64),
}

fn check(options: &NvmeOptions) {
    assert!(options.serial.len() <= 20 && options.model.len() <= 40, "a name is too long");
    assert!(matches!(options.block_lg2, 9 | 12), "blocks are of 512 or 4096 bytes");
    assert!((1..=256).contains(&options.io_queues), "1 to 256 I/O queues");
    assert!((2..=65536).contains(&options.queue_entries), "2 to 65536 entries");
    assert!(options.doorbell_stride <= 8 && options.page_max <= 4, "a stride or page beyond the model's");
    assert!((1..=12).contains(&options.mdts) && (1..=2048).contains(&options.vectors), "MDTS or vectors");
}

/// Table and pending bits come after the doorbells, each on a page of its own.
fn message_layout(options: &NvmeOptions) -> MessageLayout {
    const PAGE: u64 = 4096;
    let doorbells = 2 * (u64::from(options.io_queues) + 1) * (4 << options.doorbell_stride);
    let table = (DOORBELLS + doorbells).next_multiple_of(PAGE);
    let pending = (table + 16 * u64::from(options.vectors)).next_multiple_of(PAGE);
    MessageLayout {
        vectors: options.vectors,
        bar: 0,
        table: table as u32,
        pending: pending as u32,
        msi_vectors_lg2: Some(0),
    }
}

impl Function for Nvme {
    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn bars(&self) -> &[Bar] {
        &self.bar
    }

    fn read_bar(&self, _: usize, offset: u64, width: Width) -> u64 {
        match self.message_register(offset) {
            Some(MessageRegister::Table(at)) => self.messages.read_table(at, width),
            Some(MessageRegister::Pending(at)) => self.messages.read_pending(at, width),
            None => self.state().read_register(offset, width),
        }
    }

    fn write_bar(&self, _: usize, offset: u64, width: Width, value: u64) {
        match self.message_register(offset) {
            Some(MessageRegister::Table(at)) => self.messages.write_table(at, width, value),
            Some(MessageRegister::Pending(_)) => (),
            None => {
                let mut state = self.state();
                state.write_register(offset, width, value);
                let misuse = core::mem::take(&mut state.misuse);
                drop(state);
                misuse.into_iter().for_each(|(clause, detail)| self.notes().record(clause, detail));
            }
        }
    }

    fn requester(&self) -> Option<&Requester> {
        Some(&self.requester)
    }

    fn config_written(&self, offset: usize) {
        let control = self.express.map(|at| at + DEVICE_CONTROL).filter(|&control| offset & !3 == control);
        if control.is_some_and(|control| self.config.read16(control) & INITIATE_RESET != 0) {
            self.reset();
        }
        self.messages.config_written();
    }

    fn reset(&self) {
        self.config.reset();
        self.messages.reset();
        self.state().power_up();
    }
}

impl Clocked for Nvme {
    fn step(&self, _: u64) -> bool {
        match self.turn.try_lock() {
            Ok(mut turn) => self.work(&mut turn),
            Err(_) => false,
        }
    }
}
