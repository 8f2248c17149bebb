//! Message-signalled interrupts by the MSI capability.
//!
//! Spec: PCIe 6.0, 6.1.4 "Message Signaled Interrupt (MSI/MSI-X) Support", 7.7.1 "MSI Capability Structures".

use core::fmt;

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::capability::Id;
use portcullis_spec::pcie::msi::{
    CONTROL, MSI_ADDRESS, MSI_ADDRESS_UPPER, MSI_DATA_32, MSI_DATA_64, MSI_MASK_32, MSI_MASK_64, MsiControl,
};

use crate::ConfigAccess;
use crate::topology::Function;

/// A message that a function writes to raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Where the function writes: a multiple of 4. Behind an IOMMU this is an IOVA.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// The MSI capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiCapability {
    at: Bdf,
    offset: u16,
    control: MsiControl,
}

/// Why MSI cannot be used as asked. All but the first are the caller's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MsiFault {
    /// The function asks for more messages than there can be: `1 << this`.
    MessageCount(u8),
    /// The message's address has bits that the capability has no room for.
    Address(u64),
    /// The message's data has bits that the capability has no room for, or that the function sets by itself.
    Data(u32),
    /// More messages than the function asks for: `1 << this`.
    TooMany(u8),
}

/// 32 messages at most.
const MAX_COUNT_LG2: u8 = 5;

impl MsiCapability {
    /// The MSI capability of a function, if it has one.
    ///
    /// # Errors
    ///
    /// It asks for a number of messages that cannot be.
    pub fn find(
        config: &(impl ConfigAccess + ?Sized),
        function: &Function,
    ) -> Result<Option<Self>, MsiFault> {
        let Some(offset) = function.capabilities.find(Id::MSI) else { return Ok(None) };
        let control = MsiControl::from(config.read16(function.at, offset + CONTROL));
        if control.multiple_message_capable() > MAX_COUNT_LG2 {
            return Err(MsiFault::MessageCount(control.multiple_message_capable()));
        }
        Ok(Some(Self { at: function.at, offset, control }))
    }

    /// Turns MSI of a function off, if it has it, whatever else its capability says.
    pub fn turn_off(config: &(impl ConfigAccess + ?Sized), function: &Function) {
        let Some(offset) = function.capabilities.find(Id::MSI) else { return };
        let control = MsiControl::from(config.read16(function.at, offset + CONTROL));
        if control.enable() {
            config.write16(function.at, offset + CONTROL, control.with_enable(false).into());
        }
    }

    /// How many messages the function asks for, as a power of two: 0 to 5.
    pub fn count_lg2(&self) -> u8 {
        self.control.multiple_message_capable()
    }

    /// Whether each message can be masked.
    pub fn can_mask(&self) -> bool {
        self.control.per_vector_masking()
    }

    /// Gives the function `1 << count_lg2` messages: `message`, and those whose data has the message's number in its low bits. MSI is off
    /// afterwards.
    ///
    /// # Errors
    ///
    /// The capability has no room for the message, or the function does not want as many. Nothing was written.
    pub fn program(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        message: Message,
        count_lg2: u8,
    ) -> Result<(), MsiFault> {
        if count_lg2 > self.count_lg2() {
            return Err(MsiFault::TooMany(count_lg2));
        }
        let upper = u32::try_from(message.address >> 32).unwrap_or(u32::MAX);
        if !message.address.is_multiple_of(4) || upper != 0 && !self.control.address_64() {
            return Err(MsiFault::Address(message.address));
        }
        let data = u16::try_from(message.data).ok().filter(|data| data.is_multiple_of(1 << count_lg2));
        let data = data.ok_or(MsiFault::Data(message.data))?;
        let off = self.control.with_enable(false).with_multiple_message_enable(count_lg2);
        config.write16(self.at, self.offset + CONTROL, off.into());
        let lower = u32::try_from(message.address & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        config.write32(self.at, self.offset + MSI_ADDRESS, lower);
        if self.control.address_64() {
            config.write32(self.at, self.offset + MSI_ADDRESS_UPPER, upper);
            config.write16(self.at, self.offset + MSI_DATA_64, data);
        } else {
            config.write16(self.at, self.offset + MSI_DATA_32, data);
        }
        Ok(())
    }

    /// Masks the messages whose bits are set in `masked`, and no others. Does nothing if they cannot be masked.
    pub fn set_mask(&self, config: &(impl ConfigAccess + ?Sized), masked: u32) {
        if self.can_mask() {
            let mask = if self.control.address_64() { MSI_MASK_64 } else { MSI_MASK_32 };
            config.write32(self.at, self.offset + mask, masked);
        }
    }

    /// Turns MSI on or off.
    pub fn set_enable(&self, config: &(impl ConfigAccess + ?Sized), on: bool) {
        let control = MsiControl::from(config.read16(self.at, self.offset + CONTROL));
        config.write16(self.at, self.offset + CONTROL, control.with_enable(on).into());
    }
}

impl fmt::Display for MsiFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MessageCount(lg2) => write!(f, "the function asks for 2^{lg2} messages"),
            Self::Address(address) => write!(f, "no room for message address {address:#x}"),
            Self::Data(data) => write!(f, "no room for message data {data:#x}"),
            Self::TooMany(lg2) => write!(f, "the function does not want 2^{lg2} messages"),
        }
    }
}

impl core::error::Error for MsiFault {}
