//! Message-signalled interrupts by the MSI-X capability and its table.
//!
//! The capability is in configuration space, the table behind one of the function's base address registers. To begin:
//! [`MsixCapability::enable_masked`], fill the table, unmask its vectors, [`MsixCapability::set_function_mask`] off. No message is sent before.
//!
//! Spec: PCIe 6.0, 6.1.4 "Message Signaled Interrupt (MSI/MSI-X) Support", 7.7.2 "MSI-X Capability and Table Structure".

use core::fmt;

use portcullis_hal::Registers;
use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::capability::Id;
use portcullis_spec::pcie::msi::{
    CONTROL, MSIX_ENTRY_ADDRESS, MSIX_ENTRY_ADDRESS_UPPER, MSIX_ENTRY_BYTES, MSIX_ENTRY_CONTROL,
    MSIX_ENTRY_DATA, MSIX_PENDING, MSIX_TABLE, MsixControl, MsixLocation, MsixVectorControl,
};
use portcullis_types::{Pa, PaRange, mutant};

use crate::ConfigAccess;
use crate::msi::Message;
use crate::topology::Function;

/// The MSI-X capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    at: Bdf,
    offset: u16,
    vectors: u16,
    bar: u8,
    table_offset: u64,
    table: Option<PaRange>,
}

/// Why MSI-X cannot be used as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MsixFault {
    /// Table or pending bits are behind a register that there is not, or that is not memory. The device's doing.
    NoSuchBar(u8),
    /// Table or pending bits reach beyond what their register asks for. The device's doing.
    OutsideBar {
        /// Which register.
        bar: u8,
        /// Where they begin, in bytes.
        offset: u64,
    },
    /// There is no such vector. The caller's doing.
    NoSuchVector(u16),
    /// The message's address is not a multiple of 4. The caller's doing.
    Address(u64),
}

impl MsixCapability {
    /// The MSI-X capability of a function, if it has one.
    ///
    /// # Errors
    ///
    /// It says that its table is where it cannot be.
    pub fn find(
        config: &(impl ConfigAccess + ?Sized),
        function: &Function,
    ) -> Result<Option<Self>, MsixFault> {
        let at = function.at;
        let Some(offset) = function.capabilities.find(Id::MSI_X) else { return Ok(None) };
        let control = MsixControl::from(config.read16(at, offset + CONTROL));
        let vectors = control.table_size_minus_1() + 1;
        let location = |register| MsixLocation::from(config.read32(at, offset + register));
        let table_bytes = u64::from(vectors) * MSIX_ENTRY_BYTES;
        // One bit for each vector, in units of 64 bits.
        let pending_bytes = u64::from(vectors.div_ceil(64)) * 8;
        find_in_bar(function, location(MSIX_PENDING), pending_bytes)?;
        let (bar, table_offset, table) = find_in_bar(function, location(MSIX_TABLE), table_bytes)?;
        Ok(Some(Self { at, offset, vectors, bar, table_offset, table }))
    }

    /// How many vectors there are, 1 to 2048.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Behind which base address register the table is.
    pub fn bar(&self) -> u8 {
        self.bar
    }

    /// Where in that register's memory the table begins, in bytes.
    pub fn table_offset(&self) -> u64 {
        self.table_offset
    }

    /// Where the CPU finds the table; none if the register was not placed.
    pub fn table(&self) -> Option<PaRange> {
        self.table
    }

    /// Whether MSI-X is on.
    pub fn is_on(&self, config: &(impl ConfigAccess + ?Sized)) -> bool {
        MsixControl::from(config.read16(self.at, self.offset + CONTROL)).enable()
    }

    /// Turns MSI-X on with all vectors masked by the function mask.
    pub fn enable_masked(&self, config: &(impl ConfigAccess + ?Sized)) {
        self.change(config, |control| control.with_enable(true).with_function_mask(true));
    }

    /// Masks all vectors, or leaves that to their own mask bits.
    pub fn set_function_mask(&self, config: &(impl ConfigAccess + ?Sized), masked: bool) {
        self.change(config, |control| control.with_function_mask(masked));
    }

    /// Turns MSI-X off.
    pub fn disable(&self, config: &(impl ConfigAccess + ?Sized)) {
        self.change(config, |control| control.with_enable(false));
    }

    fn change(&self, config: &(impl ConfigAccess + ?Sized), change: impl FnOnce(MsixControl) -> MsixControl) {
        let control = MsixControl::from(config.read16(self.at, self.offset + CONTROL));
        config.write16(self.at, self.offset + CONTROL, change(control).into());
    }
}

/// Register, offset and CPU addresses of `len_bytes` bytes at a location.
fn find_in_bar(
    function: &Function,
    location: MsixLocation,
    len_bytes: u64,
) -> Result<(u8, u64, Option<PaRange>), MsixFault> {
    let index = location.bar();
    let offset = u64::from(location.offset_qwords()) * 8;
    let bar = function.bar(index).filter(|bar| bar.space != portcullis_spec::pcie::Space::Io);
    let bar = bar.ok_or(MsixFault::NoSuchBar(index))?;
    if offset + len_bytes > bar.size_bytes {
        return Err(MsixFault::OutsideBar { bar: index, offset });
    }
    let first = bar.cpu_range().map(|range| range.first().get() + offset);
    Ok((index, offset, first.and_then(|first| PaRange::new(Pa::new(first), len_bytes))))
}

/// The MSI-X table of a function.
///
/// # Implementation safety
///
/// The table is the device's: what is read back from it is not relied upon.
#[derive(Debug)]
pub struct MsixTable<R> {
    registers: R,
    first: u64,
    vectors: u16,
}

impl<R: Registers> MsixTable<R> {
    /// The table of `capability`, whose register's memory is `registers`, from its beginning.
    pub fn new(capability: &MsixCapability, registers: R) -> Self {
        Self { registers, first: capability.table_offset, vectors: capability.vectors }
    }

    /// Sets the message of a vector, which is masked afterwards.
    ///
    /// # Errors
    ///
    /// There is no such vector, or the address is not a multiple of 4. Nothing was written.
    pub fn set(&self, vector: u16, message: Message) -> Result<(), MsixFault> {
        if !message.address.is_multiple_of(4) {
            return Err(MsixFault::Address(message.address));
        }
        // A vector must not change while it is not masked: a function may have read half of it.
        self.set_masked(vector, !mutant!("message-changed-while-not-masked"))?;
        let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        self.write(vector, MSIX_ENTRY_ADDRESS, half(message.address))?;
        self.write(vector, MSIX_ENTRY_ADDRESS_UPPER, half(message.address >> 32))?;
        self.write(vector, MSIX_ENTRY_DATA, message.data)
    }

    /// Masks a vector, or not.
    ///
    /// # Errors
    ///
    /// There is no such vector.
    pub fn set_masked(&self, vector: u16, masked: bool) -> Result<(), MsixFault> {
        let control = MsixVectorControl::new().with_masked(masked);
        self.write(vector, MSIX_ENTRY_CONTROL, control.into())
    }

    fn write(&self, vector: u16, field: u64, value: u32) -> Result<(), MsixFault> {
        if vector >= self.vectors {
            return Err(MsixFault::NoSuchVector(vector));
        }
        let offset = self.first + u64::from(vector) * MSIX_ENTRY_BYTES + field;
        let offset = usize::try_from(offset).map_err(|_| MsixFault::NoSuchVector(vector))?;
        self.registers.write32(offset, value);
        Ok(())
    }
}

impl fmt::Display for MsixFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchBar(bar) => {
                write!(f, "MSI-X is behind base address register {bar}, which is not memory")
            }
            Self::OutsideBar { bar, offset } => {
                write!(f, "MSI-X at {offset:#x} reaches beyond base address register {bar}")
            }
            Self::NoSuchVector(vector) => write!(f, "there is no MSI-X vector {vector}"),
            Self::Address(address) => write!(f, "message address {address:#x} is not a multiple of 4"),
        }
    }
}

impl core::error::Error for MsixFault {}
