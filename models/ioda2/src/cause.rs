//! What can be wrong with an access, and how the hardware tells of it.
//!
//! A [`Cause`] is kept in three places: the PEST in memory, the status register of the part that saw it, and the LEM's FIR.
//!
//! Observed: skiboot include/phb3-regs.h, IODA2_PEST0_* and IODA2_PEST1_*.
//! Choice: which bit of INA and INB each cause sets is not in any header. The bits used are among those that skiboot lets freeze a PE
//! (hw/phb3.c, phb3_init_errors), by the names that external/pci-scripts/phberr.py gives to the like bits of PHB4. An error that software asked of a CPU's access
//! is the outbound group's bit 28, "PAPR TXE Injection Error Triggered".
//! Choice: MMIO_CAUSE is set for every access of a CPU, and the transaction of one to configuration space is that of a load or a store.

use crate::bits::{Field, bit};

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The RTT BAR is off, or no memory is there.
    RttUnreadable,
    /// The RTT holds no PE number for the requester.
    RttInvalid,
    /// The window's TVE is zero.
    TveDisabled,
    /// The window's TVE is a combination that PHB3 does not have.
    TveInvalid,
    /// The address lies beyond what the window translates, or outside of its bounds.
    OutOfWindow,
    /// A TCE, of whatever level, has no permission at all.
    TcePageFault,
    /// The TCE does not allow what was tried.
    TceAccessFault,
    /// No memory where a TCE should be.
    TceUnreadable,
    /// The top bits of the address name nothing: neither a window nor messages.
    AddressForm,
    /// A message that is none: a read, a wrong size, or bits that no message has.
    MessageForm,
    /// A message for a source that there is not, or whose entry cannot be read.
    MessageSource,
    /// A message for an interrupt of another PE.
    MessagePe,
    /// Software asked for an error.
    Injected,
    /// The request carries a process id, which PHB3 does not know, or crosses a page.
    RequestForm,
    /// The bridge is fenced, or in reset.
    Fenced,
    /// The PE is frozen already.
    Frozen,
}

/// The part of the bridge that tells of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Outbound,
    InboundA,
    InboundB,
}

impl Cause {
    /// In a word, for the trace.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RttUnreadable => "rtt_unreadable",
            Self::RttInvalid => "rtt_invalid",
            Self::TveDisabled => "tve_disabled",
            Self::TveInvalid => "tve_invalid",
            Self::OutOfWindow => "out_of_window",
            Self::TcePageFault => "tce_page_fault",
            Self::TceAccessFault => "tce_access_fault",
            Self::TceUnreadable => "tce_unreadable",
            Self::AddressForm => "address_form",
            Self::MessageForm => "message_form",
            Self::MessageSource => "message_source",
            Self::MessagePe => "message_pe",
            Self::Injected => "injected",
            Self::RequestForm => "request_form",
            Self::Fenced => "fenced",
            Self::Frozen => "frozen",
        }
    }

    /// Where it is told of a device's access, and by which bit. None if it is not told at all.
    const fn status(self) -> Option<(Part, u64)> {
        match self {
            Self::TveDisabled | Self::TveInvalid => Some((Part::InboundA, bit(26))),
            Self::OutOfWindow | Self::AddressForm => Some((Part::InboundA, bit(28))),
            Self::MessagePe | Self::MessageSource | Self::MessageForm => Some((Part::InboundA, bit(27))),
            Self::Injected => Some((Part::InboundA, bit(39))),
            Self::RttInvalid => Some((Part::InboundA, bit(40))),
            Self::RttUnreadable => Some((Part::InboundA, bit(41))),
            Self::TceUnreadable => Some((Part::InboundB, bit(17))),
            Self::TcePageFault | Self::TceAccessFault => Some((Part::InboundB, bit(18))),
            Self::RequestForm | Self::Fenced | Self::Frozen => None,
        }
    }

    /// Its bit in PESTA.
    const fn pest(self) -> u64 {
        match self {
            Self::OutOfWindow | Self::TcePageFault => bit(18),
            Self::TceAccessFault => bit(19),
            Self::TceUnreadable => bit(20),
            // IODA2 error.
            _ => bit(16),
        }
    }
}

impl Part {
    /// The bit of the LEM's FIR that it sets, by the book's number.
    ///
    /// Choice: of the bits that skiboot takes for errors of a PE (hw/phb3.c, phb3_err_check_lem).
    pub(crate) const fn lem_bit(self) -> u32 {
        match self {
            Self::Outbound => 39,
            Self::InboundA => 43,
            Self::InboundB => 41,
        }
    }
}

/// What was tried, as the PEST has it. Observed: skiboot include/phb3-regs.h, PEST_TTYPE_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// A device wrote memory.
    DmaWrite,
    /// A device sent a message.
    Message,
    /// A device read memory.
    DmaRead,
    /// A CPU read a device.
    MmioLoad,
    /// A CPU wrote a device.
    MmioStore,
    /// A CPU read configuration space.
    ConfigRead,
    /// A CPU wrote configuration space.
    ConfigWrite,
}

impl Transaction {
    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::DmaWrite => 0,
            Self::Message => 1,
            Self::DmaRead => 2,
            Self::MmioLoad | Self::ConfigRead => 4,
            Self::MmioStore | Self::ConfigWrite => 5,
        }
    }

    /// What else PESTA says of it: MMIO_CAUSE, CFG_READ, CFG_WRITE.
    const fn pest(self) -> u64 {
        match self {
            Self::DmaWrite | Self::Message | Self::DmaRead => 0,
            Self::MmioLoad | Self::MmioStore => bit(2),
            Self::ConfigRead => bit(2) | bit(3),
            Self::ConfigWrite => bit(2) | bit(4),
        }
    }
}

/// The first error of a PE since it was last whole: it stands until both its freezes are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstError {
    /// What was wrong.
    pub cause: Cause,
    /// What was tried.
    pub transaction: Transaction,
    /// Who tried, or whose configuration space a CPU tried; 0 for a CPU's other accesses.
    pub rid: u16,
    /// At which address; the register, in configuration space.
    pub address: u64,
    /// The data of a message; 0 otherwise.
    pub data: u16,
}

const TTYPE: Field = Field::new(5, 7);
const LEM_BIT: Field = Field::new(26, 31);
const RID: Field = Field::new(32, 47);
const MSI_DATA: Field = Field::new(48, 63);
const FAIL_ADDRESS: Field = Field::new(3, 63);

impl FirstError {
    /// Where it is told, and by which bit. None if it is not told at all.
    pub(crate) const fn status(&self) -> Option<(Part, u64)> {
        match (self.cause, self.transaction) {
            (
                Cause::Injected,
                Transaction::MmioLoad
                | Transaction::MmioStore
                | Transaction::ConfigRead
                | Transaction::ConfigWrite,
            ) => Some((Part::Outbound, bit(28))),
            (cause, _) => cause.status(),
        }
    }

    /// The words of the PEST in memory, but for their bit 0, which is kept on the chip.
    pub(crate) fn pest(&self) -> [u64; 2] {
        let lem = self.status().map_or(0, |(part, _)| part.lem_bit());
        let a = TTYPE.set(self.cause.pest() | self.transaction.pest(), self.transaction.code());
        let a = MSI_DATA.set(RID.set(LEM_BIT.set(a, lem.into()), self.rid.into()), self.data.into());
        [a, FAIL_ADDRESS.set(0, self.address)]
    }
}
