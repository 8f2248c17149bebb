//! The tables of IODA2: those on the chip, behind the IODA address and data registers, and those in memory.
//!
//! Observed: skiboot include/phb3-regs.h and include/phb3.h.

use bitfield_struct::bitfield;

/// How many PEs there are. Observed: skiboot, `PHB3_MAX_PE_NUM`.
pub const PE_COUNT: u16 = 256;

/// The states of PEs, first word: a [`PestA`]. Observed: skiboot, `IODA2_TBL_PESTA`.
pub const TABLE_PESTA: u8 = 7;
/// The states of PEs, second word: a [`PestB`]. Observed: skiboot, `IODA2_TBL_PESTB`.
pub const TABLE_PESTB: u8 = 8;
/// Two [`Tve`]s for each PE, at twice its number and the one after. Observed: skiboot, `IODA2_TBL_TVT`.
pub const TABLE_TVT: u8 = 9;
/// The PE of each 256th of the M32 window. Observed: skiboot, `IODA2_TBL_M32DT`.
pub const TABLE_M32DT: u8 = 17;
/// A bit for each frozen PE, PPC bit n of word m for PE 64 m + n. Observed: skiboot, `IODA2_TBL_PEEV`.
pub const TABLE_PEEV: u8 = 20;
/// Entries of the TVT.
pub const TVT_ENTRIES: u16 = 2 * PE_COUNT;
/// Words of the PEEV.
pub const PEEV_WORDS: u16 = PE_COUNT / 64;

/// log2 of the RTT's bytes: a big-endian 16-bit PE number for each request id. Observed: skiboot include/phb3.h, `RTT_TABLE_SIZE`.
pub const RTT_LG2: u8 = 17;
/// log2 of the PELT-V's bytes: 256 bits for each PE, most significant first, which PEs freeze with it. Observed: skiboot,
/// `PELTV_TABLE_SIZE`, and hw/phb3.c, `phb3_set_peltv`.
pub const PELTV_LG2: u8 = 13;
/// log2 of the PEST's bytes. Observed: skiboot, `PEST_TABLE_SIZE`.
pub const PEST_LG2: u8 = 12;

/// The bit of a DMA address that picks the window of a PE.
///
/// Observed: skiboot hw/phb3.c, `phb3_map_pe_dma_window`; QEMU, `pnv_phb3_translate_iommu`.
pub const WINDOW_BIT: u32 = 59;
/// Where the messages of 64 bits begin, in DMA space: no TVE is asked. Observed: QEMU, `pnv_phb3_translate_iommu`.
pub const MSI64_FIRST: u64 = 1 << 60;
/// The last of them. Observed: QEMU, `pnv_phb3_translate_iommu`: the top nibble is 1.
pub const MSI64_LAST: u64 = (1 << 61) - 1;
/// Where the messages of 32 bits begin. Observed: QEMU, `pnv_phb3_translate_iommu`.
pub const MSI32_FIRST: u64 = 0xffff_0000;
/// The last of them.
pub const MSI32_LAST: u64 = 0xffff_ffff;
/// The last address that a bypass reaches. Observed: skiboot hw/phb3.c, `phb3_map_pe_dma_window_real`.
pub const LAST_ADDRESS: u64 = 0x0003_ffff_ffff_ffff;
/// The granule of a bypass, as log2. Observed: skiboot, `phb3_map_pe_dma_window_real`.
pub const BYPASS_LG2: u8 = 24;

/// A translation validation entry that has a table. All zero is disabled.
///
/// Observed: skiboot, `IODA2_TVT_…`, and hw/phb3.c, `phb3_map_pe_dma_window`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Tve {
    /// log2 of the page's bytes, less 11; 0 if there is no table. PPC bits 59:63.
    #[bits(5)]
    pub page: u8,
    #[bits(3)]
    __: u8,
    /// log2 of the bytes of the top level, less 11. PPC bits 51:55.
    #[bits(5)]
    pub size: u8,
    /// Levels, less 1. PPC bits 48:50.
    #[bits(3)]
    pub levels: u8,
    /// Where the top level lies, in units of 4 KiB. PPC bits 0:47.
    #[bits(48)]
    pub address: u64,
}

/// A translation validation entry that lets addresses through as they are.
///
/// Observed: skiboot hw/phb3.c, `phb3_map_pe_dma_window_real`, the comment: bits 49:24 of the first address and of the end, each cut in two.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct BypassTve {
    /// 0. PPC bits 59:63.
    #[bits(5)]
    pub page: u8,
    #[bits(3)]
    __: u8,
    /// Bits 49:48 of the end. PPC bits 54:55.
    #[bits(2)]
    pub end_high: u8,
    /// Bits 49:48 of the first address. PPC bits 52:53.
    #[bits(2)]
    pub first_high: u8,
    /// Addresses are not translated. PPC bit 51.
    pub untranslated: bool,
    #[bits(3)]
    __: u8,
    /// Bits 47:24 of the end. PPC bits 24:47.
    #[bits(24)]
    pub end_low: u32,
    /// Bits 47:24 of the first address. PPC bits 0:23.
    #[bits(24)]
    pub first_low: u32,
}

/// The first word of a PE's state: whether its MMIO is frozen, and what happened first.
///
/// Observed: skiboot, `IODA2_PESTA_MMIO_FROZEN`, and `IODA2_PEST0_…` for the rest.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PestA {
    /// PPC bits 48:63.
    pub msi_data: u16,
    /// Who did it; PPC bits 32:47.
    pub rid: u16,
    /// PPC bits 26:31.
    #[bits(6)]
    pub lem_bit: u8,
    #[bits(6)]
    __: u8,
    /// The TCE did not allow it; PPC bit 19.
    pub access_fault: bool,
    /// No TCE; PPC bit 18.
    pub page_fault: bool,
    __: bool,
    /// No TVE, or a wrong one; PPC bit 16.
    pub ioda_error: bool,
    #[bits(8)]
    __: u8,
    /// What it was; PPC bits 5:7.
    #[bits(3)]
    pub transaction: u8,
    #[bits(4)]
    __: u8,
    /// MMIO is frozen; PPC bit 0.
    pub frozen: bool,
}

/// [`PestA::transaction`]: a device wrote. Observed: skiboot, `PEST_TTYPE_DMA_WRITE`.
pub const TRANSACTION_DMA_WRITE: u8 = 0;
/// A device sent a message. Observed: skiboot, `PEST_TTYPE_MSI`.
pub const TRANSACTION_MSI: u8 = 1;
/// A device read. Observed: skiboot, `PEST_TTYPE_DMA_READ`.
pub const TRANSACTION_DMA_READ: u8 = 2;

/// The second word of a PE's state: whether its DMA is stopped, and where the first error was.
///
/// Observed: skiboot, `IODA2_PESTB_DMA_STOPPED`, `IODA2_PEST1_FAIL_ADDR`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PestB {
    /// PPC bits 3:63.
    #[bits(61)]
    pub address: u64,
    #[bits(2)]
    __: u8,
    /// DMA is stopped; PPC bit 0.
    pub stopped: bool,
}

/// An entry of the M32DT.
///
/// Observed: skiboot, `IODA2_M32DT_PE`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct M32Domain {
    #[bits(48)]
    __: u64,
    /// PPC bits 8:15.
    pub pe: u8,
    __: u8,
}
