//! Layouts of Arm's SMMUv2: registers only, since this IOMMU has no tables of its own in memory but page tables.
//!
//! [`global`] is the global address space: what the hardware can do, its top-level control, stream mapping, global faults, and the attributes of
//! context banks. [`bank`] is one translation context bank. [`Frame`] says where each of them lies.
//!
//! Values are as the book numbers their bits. Where a register has several formats, there is a type for each that is used.
//!
//! Spec: SMMUv2, ARM IHI 0062D.c.
//! Not here: formats with 32-bit descriptors, address translation operations, performance monitors, what belongs to Secure software; the extensions for
//! extended stream matching and compressed indexing; page-table formats (`pgtable::arm`).

pub mod bank;
pub mod global;
pub mod mmu500;

/// Where pages of registers lie: both halves of the register frame are of as many pages as SMMU_IDR1 says.
///
/// Spec: SMMUv2 D.c, 8.1.2 "Address space calculation", 8.2.1 "Global address space base addresses".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Log2 of a page of registers: 12 or 16.
    pub page_lg2: u8,
    /// How many pages each half has: NUMPAGE.
    pub pages: usize,
}

impl Frame {
    /// The frame of hardware with this SMMU_IDR1.
    pub const fn new(idr1: global::Idr1) -> Self {
        Self { page_lg2: if idr1.pagesize() { 16 } else { 12 }, pages: 2 << idr1.numpagendxb() }
    }

    /// Offset of a register of Global Register Space 1, given its offset there.
    pub const fn global1(self, register: usize) -> usize {
        (1 << self.page_lg2) + register
    }

    /// Offset of a register of context bank `bank`, given its offset there.
    pub const fn bank(self, bank: usize, register: usize) -> usize {
        ((self.pages + bank) << self.page_lg2) + register
    }

    /// Bytes of the whole frame.
    pub const fn bytes(self) -> usize {
        (2 * self.pages) << self.page_lg2
    }
}

/// The number of bits that an address size field says: IAS, OAS, UBS, PASize. None for a reserved value.
///
/// Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers", IAS, OAS.
pub const fn address_bits(code: u8) -> Option<u8> {
    Some(match code {
        0b0000 => 32,
        0b0001 => 36,
        0b0010 => 40,
        0b0011 => 42,
        0b0100 => 44,
        0b0101 => 48,
        _ => return None,
    })
}

/// The number of bits that UBS says. None for a reserved value.
///
/// Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers", UBS: as other sizes, but 0b0101 is 49 and 0b1111 is 64.
pub const fn upstream_bits(code: u8) -> Option<u8> {
    match code {
        0b0101 => Some(49),
        0b1111 => Some(64),
        code => address_bits(code),
    }
}
