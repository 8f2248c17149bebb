//! The register map: where each register lies, how wide it is, what it reads as.
//!
//! Spec: SMMUv3 H.a, 6.2 "Register overview", 6.3 "Register formats".
//! Not here: what a write does (`program`), how Updates complete (`cr`).

use model_bus::Width;

use crate::config::Config;
use crate::cr::Update;
use crate::queue::Queue;

/// A register that this model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// IDR0 to IDR5, IIDR, AIDR, and the identification registers at the end of the page.
    Fixed(u32),
    Cr0,
    Cr0Ack,
    Cr1,
    Cr2,
    Gbpa,
    IrqCtrl,
    IrqCtrlAck,
    Gerror,
    Gerrorn,
    /// An interrupt's CFG0, CFG1 or CFG2.
    Interrupt(Interrupt, u8),
    StreamTableBase,
    StreamTableConfig,
    CommandBase,
    CommandProd,
    CommandCons,
    EventBase,
    EventProd,
    EventCons,
    PageBase,
    PageProd,
    PageCons,
    /// Indexes of the event or PRI queue at their place in page 0, where only older parts have them.
    PageZeroAlias,
}

/// A source of messages with registers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Gerror,
    Event,
    Page,
}

impl Register {
    /// The register at a 4-byte aligned offset, and whether that is its upper half; none if nothing is there.
    pub(crate) fn at(offset: u64, config: &Config) -> Option<(Self, bool)> {
        let whole = |register| Some((register, false));
        match offset {
            0x00 => whole(Self::Fixed(config.idr0())),
            0x04 => whole(Self::Fixed(config.idr1())),
            0x08 | 0x10 => whole(Self::Fixed(0)),
            0x0c => whole(Self::Fixed(config.idr3())),
            0x14 => whole(Self::Fixed(config.idr5())),
            // IIDR: ProductID 0x504, "P" by its letter; Implementer is Arm's code, as no code for models exists.
            0x18 => whole(Self::Fixed(0x5040_043b)),
            0x1c => whole(Self::Fixed(u32::from(config.minor_revision))),
            0x20 => whole(Self::Cr0),
            0x24 => whole(Self::Cr0Ack),
            0x28 => whole(Self::Cr1),
            0x2c => whole(Self::Cr2),
            0x44 => whole(Self::Gbpa),
            0x50 => whole(Self::IrqCtrl),
            0x54 => whole(Self::IrqCtrlAck),
            0x60 => whole(Self::Gerror),
            0x64 => whole(Self::Gerrorn),
            0x68 | 0x6c => Some((Self::Interrupt(Interrupt::Gerror, 0), offset == 0x6c)),
            0x70 => whole(Self::Interrupt(Interrupt::Gerror, 1)),
            0x74 => whole(Self::Interrupt(Interrupt::Gerror, 2)),
            0x80 | 0x84 => Some((Self::StreamTableBase, offset == 0x84)),
            0x88 => whole(Self::StreamTableConfig),
            0x90 | 0x94 => Some((Self::CommandBase, offset == 0x94)),
            0x98 => whole(Self::CommandProd),
            0x9c => whole(Self::CommandCons),
            0xa0 | 0xa4 => Some((Self::EventBase, offset == 0xa4)),
            0xa8 | 0xac => whole(Self::PageZeroAlias),
            0xb0 | 0xb4 => Some((Self::Interrupt(Interrupt::Event, 0), offset == 0xb4)),
            0xb8 => whole(Self::Interrupt(Interrupt::Event, 1)),
            0xbc => whole(Self::Interrupt(Interrupt::Event, 2)),
            0xc0..=0xdf | 0x1_00c8..=0x1_00cf if !config.has_pri() => None,
            0xc0 | 0xc4 => Some((Self::PageBase, offset == 0xc4)),
            0xc8 | 0xcc => whole(Self::PageZeroAlias),
            0xd0 | 0xd4 => Some((Self::Interrupt(Interrupt::Page, 0), offset == 0xd4)),
            0xd8 => whole(Self::Interrupt(Interrupt::Page, 1)),
            0xdc => whole(Self::Interrupt(Interrupt::Page, 2)),
            0x1_00c8 => whole(Self::PageProd),
            0x1_00cc => whole(Self::PageCons),
            0x1_00a8 => whole(Self::EventProd),
            0x1_00ac => whole(Self::EventCons),
            // CIDR0 to CIDR3: a component with a generic layout.
            0xff0 => whole(Self::Fixed(0x0d)),
            0xff4 => whole(Self::Fixed(0xf0)),
            0xff8 => whole(Self::Fixed(0x05)),
            0xffc => whole(Self::Fixed(0xb1)),
            _ => None,
        }
    }

    /// Whether all 64 bits can be accessed at once.
    pub(crate) fn is_wide(self) -> bool {
        matches!(
            self,
            Self::Interrupt(_, 0)
                | Self::StreamTableBase
                | Self::CommandBase
                | Self::EventBase
                | Self::PageBase
        )
    }
}

/// How an access falls on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Lower,
    Upper,
}

/// Which register an access means; `Err` if there is one, but not of that width or at that alignment.
///
/// Spec: SMMUv3 H.a, 6.2 "Register overview": 64-bit registers in one or in two halves, 32-bit ones whole, nothing smaller.
pub(crate) fn locate(offset: u64, width: Width, config: &Config) -> Result<Option<(Register, Part)>, ()> {
    let Some((register, upper)) = Register::at(offset & !3, config) else { return Ok(None) };
    let part = match (width, register.is_wide(), upper) {
        (Width::Bits64, true, false) | (Width::Bits32, false, _) => Part::Whole,
        (Width::Bits32, true, false) => Part::Lower,
        (Width::Bits32, true, true) => Part::Upper,
        _ => return Err(()),
    };
    if !offset.is_multiple_of(width.bytes()) { Err(()) } else { Ok(Some((register, part))) }
}

/// Where a message goes, and what it says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageConfig {
    pub(crate) address: u64,
    pub(crate) data: u32,
    pub(crate) attributes: u32,
}

/// The state of all registers that can change.
#[derive(Debug)]
pub(crate) struct Registers {
    pub(crate) cr0: Update,
    pub(crate) cr1: u32,
    pub(crate) cr2: u32,
    /// GBPA with its Update bit; ABORT is bit 20 of `effective`.
    pub(crate) gbpa: Update,
    pub(crate) irq_ctrl: Update,
    pub(crate) gerror: u32,
    pub(crate) gerrorn: u32,
    pub(crate) gerror_message: MessageConfig,
    pub(crate) event_message: MessageConfig,
    pub(crate) page_message: MessageConfig,
    pub(crate) table_base: u64,
    pub(crate) table_config: u32,
    pub(crate) commands: Queue,
    pub(crate) events: Queue,
    pub(crate) pages: Queue,
}

impl Registers {
    pub(crate) fn new() -> Self {
        Self {
            cr0: Update::new(0),
            cr1: 0,
            cr2: 0,
            // 6.3.14: ABORT resets to an implementation's choice: we let everything through, as a bypass at boot would.
            gbpa: Update::new(0x1000),
            irq_ctrl: Update::new(0),
            gerror: 0,
            gerrorn: 0,
            gerror_message: MessageConfig::default(),
            event_message: MessageConfig::default(),
            page_message: MessageConfig::default(),
            table_base: 0,
            table_config: 0,
            commands: Queue::default(),
            events: Queue::default(),
            pages: Queue::default(),
        }
    }

    pub(crate) fn message(&self, interrupt: Interrupt) -> &MessageConfig {
        match interrupt {
            Interrupt::Gerror => &self.gerror_message,
            Interrupt::Event => &self.event_message,
            Interrupt::Page => &self.page_message,
        }
    }

    pub(crate) fn message_mut(&mut self, interrupt: Interrupt) -> &mut MessageConfig {
        match interrupt {
            Interrupt::Gerror => &mut self.gerror_message,
            Interrupt::Event => &mut self.event_message,
            Interrupt::Page => &mut self.page_message,
        }
    }

    /// What a register reads as.
    pub(crate) fn read(&self, register: Register) -> u64 {
        match register {
            Register::Fixed(value) => value.into(),
            Register::Cr0 => self.cr0.written.into(),
            Register::Cr0Ack => self.cr0.effective.into(),
            Register::Cr1 => self.cr1.into(),
            Register::Cr2 => self.cr2.into(),
            Register::Gbpa => self.gbpa.written.into(),
            Register::IrqCtrl => self.irq_ctrl.written.into(),
            Register::IrqCtrlAck => self.irq_ctrl.effective.into(),
            Register::Gerror => self.gerror.into(),
            Register::Gerrorn => self.gerrorn.into(),
            Register::Interrupt(which, 0) => self.message(which).address,
            Register::Interrupt(which, 1) => self.message(which).data.into(),
            Register::Interrupt(which, _) => self.message(which).attributes.into(),
            Register::StreamTableBase => self.table_base,
            Register::StreamTableConfig => self.table_config.into(),
            Register::CommandBase => self.commands.base,
            Register::CommandProd => self.commands.prod.into(),
            Register::CommandCons => self.commands.cons.into(),
            Register::EventBase => self.events.base,
            Register::EventProd => self.events.prod.into(),
            Register::EventCons => self.events.cons.into(),
            Register::PageBase => self.pages.base,
            Register::PageProd => self.pages.prod.into(),
            Register::PageCons => self.pages.cons.into(),
            Register::PageZeroAlias => 0,
        }
    }
}
