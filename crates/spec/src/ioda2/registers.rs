//! PHB3's registers, by their offset from the bridge's base. All are 64 bits wide and accessed whole, but for the configuration data.
//!
//! Observed: skiboot include/phb3-regs.h; QEMU hw/pci-host/pnv_phb3.c, `pnv_phb3_reg_write`, refuses any other width. Big-endian on
//! the bus; values here are as the register's bits are numbered.

use bitfield_struct::bitfield;

/// What a read answers where the bridge is fenced or gone.
///
/// Observed: skiboot hw/phb3.c, `phb3_eeh_freeze_clear`.
pub const GONE: u64 = u64::MAX;

/// Whether PHB3 takes 32-bit messages, 64-bit messages, and decodes M32; and the bit that clears its TCE cache at bring-up.
///
/// Observed: skiboot include/phb3-regs.h, `PHB_PHB3_CONFIG`.
pub const PHB3_CONFIG: usize = 0x160;
/// PPC bit 2 of [`PHB3_CONFIG`]. Observed: skiboot, `PHB_PHB3C_64B_TCE_EN`; its hw/phb3.c writes it alone first, to clear the TCE cache.
pub const CONFIG_64B_TCE: u64 = 1 << 61;
/// PPC bit 8. Observed: skiboot, `PHB_PHB3C_32BIT_MSI_EN`.
pub const CONFIG_MSI32: u64 = 1 << 55;
/// PPC bit 14. Observed: skiboot, `PHB_PHB3C_64BIT_MSI_EN`.
pub const CONFIG_MSI64: u64 = 1 << 49;
/// PPC bit 16. Observed: skiboot, `PHB_PHB3C_M32_EN`.
pub const CONFIG_M32: u64 = 1 << 47;

/// Where the table of PEs by request id lies. Observed: skiboot, `PHB_RTT_BAR`.
pub const RTT_BAR: usize = 0x168;
/// Where the table of PEs that freeze together lies. Observed: skiboot, `PHB_PELTV_BAR`.
pub const PELTV_BAR: usize = 0x188;
/// Where the bridge backs up the states of PEs. Observed: skiboot, `PHB_PEST_BAR`.
pub const PEST_BAR: usize = 0x1a8;
/// PPC bit 0 of each of these: the table is there. Observed: skiboot, `PHB_RTT_BAR_ENABLE` and its kin.
pub const BAR_ENABLE: u64 = 1 << 63;

/// Where the M32 window lies for the CPU. Observed: skiboot, `PHB_M32_BASE_ADDR`.
pub const M32_BASE_ADDR: usize = 0x190;
/// Its size, as a mask. Observed: skiboot, `PHB_M32_BASE_MASK`.
pub const M32_BASE_MASK: usize = 0x198;
/// Where it lies on the PCI bus. Observed: skiboot, `PHB_M32_START_ADDR`.
pub const M32_START_ADDR: usize = 0x1a0;

/// Makes the bridge forget cached entries of the RTT. Observed: skiboot, `PHB_RTC_INVALIDATE`.
pub const RTC_INVALIDATE: usize = 0x208;
/// PPC bit 0 of it: all. Observed: skiboot, `PHB_RTC_INVALIDATE_ALL`.
pub const RTC_INVALIDATE_ALL: u64 = 1 << 63;

/// Makes the bridge forget cached TCEs: a [`TceKill`]. Observed: skiboot, `PHB_TCE_KILL`.
pub const TCE_KILL: usize = 0x210;
/// Which entry of which table [`IODA_DATA0`] is: an [`IodaAddress`]. Observed: skiboot, `PHB_IODA_ADDR`.
pub const IODA_ADDR: usize = 0x220;
/// That entry. Observed: skiboot, `PHB_IODA_DATA0`.
pub const IODA_DATA0: usize = 0x228;

/// What error is to be injected; 0 for none. Observed: skiboot, `PHB_PAPR_ERR_INJ_CTL`.
pub const ERR_INJ_CTL: usize = 0x2b0;
/// At which address. Observed: skiboot, `PHB_PAPR_ERR_INJ_ADDR`.
pub const ERR_INJ_ADDR: usize = 0x2b8;
/// Which bits of the address count. Observed: skiboot, `PHB_PAPR_ERR_INJ_MASK`.
pub const ERR_INJ_MASK: usize = 0x2c0;
/// PPC bit 0 of [`ERR_INJ_CTL`]: into what devices do. Observed: skiboot, `PHB_PAPR_ERR_INJ_CTL_INB`.
pub const ERR_INJ_INBOUND: u64 = 1 << 63;
/// PPC bit 1: into what CPUs do with memory. Observed: skiboot, `PHB_PAPR_ERR_INJ_CTL_OUTB`.
pub const ERR_INJ_OUTBOUND: u64 = 1 << 62;
/// PPC bit 3: into what CPUs do with configuration space. Observed: skiboot, `PHB_PAPR_ERR_INJ_CTL_CFG`.
pub const ERR_INJ_CONFIG: u64 = 1 << 60;
/// PPC bits 16:63 of [`ERR_INJ_ADDR`] and [`ERR_INJ_MASK`]: the CPU's address of a device's memory. Observed: skiboot, `PHB_PAPR_ERR_INJ_ADDR_MMIO`, and hw/phb3.c,
/// `phb3_err_inject_mem32`.
pub const ERR_INJ_MMIO_BITS: u64 = 0x0000_ffff_ffff_ffff;
/// PPC bits 4:19 of both: bus, device and function. Observed: skiboot, `PHB_PAPR_ERR_INJ_MASK_CFG_ALL`.
pub const ERR_INJ_FUNCTION_BITS: u64 = 0x0fff_f000_0000_0000;
/// Where those begin.
pub const ERR_INJ_FUNCTION_SHIFT: u32 = 44;
/// PPC bit 4: into reads. Observed: skiboot, `PHB_PAPR_ERR_INJ_CTL_RD`.
pub const ERR_INJ_READ: u64 = 1 << 59;
/// PPC bit 5: into writes. Observed: skiboot, `PHB_PAPR_ERR_INJ_CTL_WR`.
pub const ERR_INJ_WRITE: u64 = 1 << 58;

/// How the link below the root port is. Observed: skiboot, `PHB_PCIE_DLP_TRAIN_CTL`.
pub const TRAIN_CTL: usize = 0x640;
/// PPC bit 23 of it: the link is up. Observed: skiboot, `PHB_PCIE_DLP_TC_DL_LINKACT`.
pub const TRAIN_LINK_ACTIVE: u64 = 1 << 40;
/// Resets of what is below. Observed: skiboot, `PHB_RESET`.
pub const RESET: usize = 0x808;
/// PPC bit 2 of it: the slot is not held in reset; clear while it is (PERST). Observed: skiboot hw/phb3.c, `phb3_freset`.
pub const RESET_RELEASED: u64 = 1 << 61;

/// What the bridge is. Observed: skiboot, `PHB_VERSION`; QEMU answers 0x0000_00a3_0000_0005 for Venice DD2.0.
pub const VERSION: usize = 0x800;

/// The major revision in [`VERSION`]: 0xa3 Murano and Venice, 0xb3 Naples.
///
/// Observed: skiboot hw/phb3.c, `PHB3_REV_…`: the revision's upper half is bits 39:32 of the register.
pub const fn major_revision(version: u64) -> u8 {
    version.to_be_bytes()[3]
}

/// A word for [`IODA_ADDR`].
///
/// Observed: skiboot include/phb3-regs.h, `PHB_IODA_AD_…`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IodaAddress {
    /// Which entry; PPC bits 55:63.
    #[bits(9)]
    pub index: u16,
    #[bits(39)]
    __: u64,
    /// Which table; PPC bits 11:15.
    #[bits(5)]
    pub table: u8,
    #[bits(10)]
    __: u16,
    /// The index counts up with each access; PPC bit 0.
    pub auto_increment: bool,
}

/// A word for [`TCE_KILL`]. With none of `all`, `pe`, `one` it says nothing.
///
/// Observed: Linux 4.20, `PHB3_TCE_KILL_INVAL_…` and `pnv_pci_phb3_tce_invalidate`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TceKill {
    /// Whose TCEs; PPC bits 56:63.
    pub pe_number: u8,
    #[bits(4)]
    __: u8,
    /// For `one`: bits 59:12 of the DMA address; PPC bits 4:51.
    #[bits(48)]
    pub address: u64,
    __: bool,
    /// The one TCE for this address; PPC bit 2.
    pub one: bool,
    /// All TCEs of the PE; PPC bit 1.
    pub pe: bool,
    /// All TCEs; PPC bit 0.
    pub all: bool,
}

impl TceKill {
    /// For the address of a page in DMA space: bit 59, which picks the window, is part of it.
    pub const fn with_dma_address(self, address: u64) -> Self {
        self.with_address((address >> 12) & ((1 << 48) - 1))
    }
}
