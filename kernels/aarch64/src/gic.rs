//! The GICv3: distributor, this CPU's redistributor, and the CPU interface in system registers.
//!
//! One CPU, one security state, group 1. Messages (LPIs) have their configuration in a table in memory, which is here; who sends which of them is `its`.
//!
//! Spec: GICv3 IHI 0069 H, 12.9 "The GIC Distributor register map", 12.11 "The GIC Redistributor register map", 12.2 "AArch64 System register
//! descriptions".
#![expect(unsafe_code, reason = "the CPU interface is in system registers")]

use core::fmt;

use portcullis_hal::{BlockLayout, Registers, TableMemory, wait_for};
use portcullis_types::{Pa, PaRange};

use crate::cpu::{self, read_register, write_register};
use crate::memory;
use crate::mmio::Window;
use crate::platform::Metal;

/// The first number of a message.
pub(crate) const FIRST_LPI: u32 = 8192;
/// Bits of an interrupt's number, so that there are 8192 messages.
const ID_BITS: u64 = 14;

const GICD_CTLR: usize = 0x0;
const GICD_IGROUPR: usize = 0x80;
const GICD_ISENABLER: usize = 0x100;
const GICD_IPRIORITYR: usize = 0x400;
const GICD_ICFGR: usize = 0xc00;
const GICD_IROUTER: usize = 0x6000;
/// CTLR: affinity routing, group 1; register writes are still under way.
const ARE: u32 = 1 << 4;
const ENABLE_GROUP_1: u32 = 1 << 1;
const RWP: u32 = 1 << 31;

const GICR_CTLR: usize = 0x0;
const GICR_TYPER: usize = 0x8;
const GICR_WAKER: usize = 0x14;
const GICR_PROPBASER: usize = 0x70;
const GICR_PENDBASER: usize = 0x78;
/// Registers of this CPU's own interrupts, in the second frame of 64 KiB.
const GICR_IGROUPR0: usize = 0x1_0080;
const GICR_ISENABLER0: usize = 0x1_0100;
const GICR_IPRIORITYR: usize = 0x1_0400;
const ENABLE_LPIS: u32 = 1;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
/// Inner write-back, inner shareable, for both tables.
const TABLE_ATTRIBUTES: u64 = 7 << 7 | 1 << 10;
const PENDING_ZERO: u64 = 1 << 62;

/// A byte of the table of messages: a priority, and enabled.
const LPI_ENABLED: u64 = 0xa0 | 1;
const PRIORITY: u32 = 0xa0;

/// How long the controller may take to do what it is told.
const LIMIT_NS: u64 = 100_000_000;

/// The interrupt controller, up.
pub(crate) struct Gic {
    distributor: Window,
    redistributor: Window,
    redistributor_first: Pa,
    /// A byte for each message.
    configuration: Pa,
}

/// The controller did not do what it was told, or lacks something.
#[derive(Clone, Copy)]
pub(crate) struct GicError(pub(crate) &'static str);

impl fmt::Debug for GicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Waits until `done`, but not for ever.
pub(crate) fn wait(what: &'static str, done: impl Fn() -> bool) -> Result<(), GicError> {
    wait_for(&Metal, LIMIT_NS, || done().then_some(())).map_err(|_| GicError(what))
}

impl Gic {
    /// Brings up the controller with these registers, for this CPU.
    pub(crate) fn start(distributor: PaRange, redistributors: PaRange) -> Result<Self, GicError> {
        let table = |size_lg2: u8| {
            memory::buffers().alloc(BlockLayout::naturally_aligned(size_lg2)).ok_or(GicError("no memory"))
        };
        // 64 KiB is the alignment that the pending table asks for.
        let (configuration, pending) = (table(14)?, table(16)?);
        let gic = Self {
            distributor: Window::new(distributor),
            redistributor: Window::new(redistributors),
            redistributor_first: redistributors.first(),
            configuration,
        };
        gic.distributor.write32(GICD_CTLR, 0);
        gic.settled()?;
        gic.distributor.write32(GICD_CTLR, ARE | ENABLE_GROUP_1);
        gic.settled()?;
        gic.wake()?;
        gic.take_messages(pending)?;
        gic.open_interface();
        Ok(gic)
    }

    fn settled(&self) -> Result<(), GicError> {
        wait("GICD_CTLR.RWP", || self.distributor.read32(GICD_CTLR) & RWP == 0)
    }

    fn wake(&self) -> Result<(), GicError> {
        let waker = self.redistributor.read32(GICR_WAKER);
        self.redistributor.write32(GICR_WAKER, waker & !PROCESSOR_SLEEP);
        wait("GICR_WAKER", || self.redistributor.read32(GICR_WAKER) & CHILDREN_ASLEEP == 0)
    }

    /// Tells the redistributor where messages are configured and kept pending.
    fn take_messages(&self, pending: Pa) -> Result<(), GicError> {
        if self.redistributor.read64(GICR_TYPER) & 1 == 0 {
            return Err(GicError("it takes no messages"));
        }
        let properties = self.configuration.get() | TABLE_ATTRIBUTES | (ID_BITS - 1);
        self.redistributor.write64(GICR_PROPBASER, properties);
        self.redistributor.write64(GICR_PENDBASER, pending.get() | TABLE_ATTRIBUTES | PENDING_ZERO);
        cpu::full_barrier();
        self.redistributor.write32(GICR_CTLR, self.redistributor.read32(GICR_CTLR) | ENABLE_LPIS);
        cpu::full_barrier();
        Ok(())
    }

    /// From now on interrupts of every priority come to this CPU, once it lets them in.
    fn open_interface(&self) {
        let registers = read_register!("S3_0_C12_C12_5"); // ICC_SRE_EL1
        // SAFETY: registers of the interrupt controller. The vectors are in place.
        unsafe { write_register!("S3_0_C12_C12_5", registers | 1) };
        cpu::instruction_barrier();
        // SAFETY: as above.
        unsafe {
            write_register!("S3_0_C4_C6_0", 0xff); // ICC_PMR_EL1
            write_register!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
        }
        cpu::instruction_barrier();
    }

    /// Lets a wired interrupt in.
    pub(crate) fn enable_wire(&self, intid: u32, edge: bool) {
        let bit = |register: usize| {
            let at = register + 4 * (intid as usize / 32);
            self.distributor.write32(at, self.distributor.read32(at) | 1 << (intid % 32));
        };
        bit(GICD_IGROUPR);
        let (place, shift) = (GICD_IPRIORITYR + (intid as usize & !3), 8 * (intid % 4));
        let priorities = self.distributor.read32(place) & !(0xff << shift);
        self.distributor.write32(place, priorities | PRIORITY << shift);
        let (place, shift) = (GICD_ICFGR + 4 * (intid as usize / 16), 2 * (intid % 16));
        let kinds = self.distributor.read32(place) & !(0b11 << shift);
        self.distributor.write32(place, kinds | u32::from(edge) << (shift + 1));
        // To the CPU of affinity 0.0.0.0, which is this.
        self.distributor.write64(GICD_IROUTER + 8 * intid as usize, 0);
        bit(GICD_ISENABLER);
    }

    /// Lets an interrupt of this CPU's own in, below 32, which signals by its level.
    pub(crate) fn enable_own(&self, intid: u32) {
        let (bit, registers) = (1 << intid, &self.redistributor);
        registers.write32(GICR_IGROUPR0, registers.read32(GICR_IGROUPR0) | bit);
        let (place, shift) = (GICR_IPRIORITYR + (intid as usize & !3), 8 * (intid % 4));
        let priorities = registers.read32(place) & !(0xff << shift);
        registers.write32(place, priorities | PRIORITY << shift);
        registers.write32(GICR_ISENABLER0, bit);
    }

    /// Writes into the table that a message is let in, or not. The ITS must be told (`INV`).
    pub(crate) fn configure_message(&self, lpi: u32, enabled: bool) {
        let offset = u64::from(lpi - FIRST_LPI);
        let (at, shift) = (Pa::new(self.configuration.get() + (offset & !7)), 8 * (offset % 8));
        let word = memory::buffers().load(at) & !(0xff << shift);
        memory::buffers().store(at, word | if enabled { LPI_ENABLED << shift } else { 0 });
        cpu::store_barrier();
    }

    /// Who this CPU's redistributor is for an ITS: by address, or by number.
    pub(crate) fn target(&self, by_address: bool) -> u64 {
        if by_address {
            self.redistributor_first.get() >> 16
        } else {
            self.redistributor.read64(GICR_TYPER) >> 8 & 0xffff
        }
    }
}

/// Takes the interrupt that is pending with the highest priority: from now on it is being handled. None if there is none.
pub(crate) fn acknowledge() -> Option<u32> {
    let intid = u32::try_from(read_register!("S3_0_C12_C12_0") & 0xff_ffff).unwrap_or(u32::MAX); // ICC_IAR1_EL1
    cpu::full_barrier();
    // 1020 to 1023 are no interrupts.
    (!(1020..FIRST_LPI).contains(&intid)).then_some(intid)
}

/// An interrupt was handled.
pub(crate) fn end(intid: u32) {
    cpu::full_barrier();
    // SAFETY: the number came from `acknowledge`.
    unsafe { write_register!("S3_0_C12_C12_1", u64::from(intid)) }; // ICC_EOIR1_EL1
    cpu::instruction_barrier();
}
