//! What the embedder says about a bridge.

use alloc::string::String;

use portcullis_types::{Pa, PageSizes, SizeLg2};

/// What the embedder says about a bridge. What is not set is as on POWER8.
#[derive(Clone, Debug)]
pub struct Config {
    /// A name for people: where firmware says the bridge is.
    pub name: String,
    /// How much of window 0 the platform's own table translates, a power of two up to 4 GiB: what lies above is MMIO.
    ///
    /// Observed: skiboot include/phb3.h, `M32_PCI_START`: M32 begins at 2 GiB.
    pub window32_bytes: u64,
    /// The page of the platform's table.
    pub default_page: SizeLg2,
    /// The levels of the platform's table.
    ///
    /// Observed: Linux 4.20, `POWERNV_IOMMU_DEFAULT_LEVELS`: 2 now, 1 before.
    pub default_levels: u8,
    /// The CPU's page: no level of a table is smaller.
    pub cpu_page: SizeLg2,
    /// In which page sizes tables can be.
    ///
    /// Observed: skiboot hw/phb3.c, `phb3_map_pe_dma_window`: 4K, 64K, 16M, 256M.
    pub page_sizes: PageSizes,
    /// The end of memory, if devices of the kernel's may go around translation by window 1; none if nobody may.
    pub bypass_end: Option<Pa>,
    /// The end of memory, if window 0 can pass addresses as they are, which identity domains need; none where hardware cannot.
    ///
    /// Observed: skiboot hw/phb3.c, `ibm,32-bit-bypass-supported`: Naples can.
    pub identity_end: Option<Pa>,
    /// Where the M32 window lies for the CPU; none if it is not used.
    pub m32: Option<M32>,
    /// Whether users make their own tables. Without, as with the hardware before IODA2, they take over the platform's one.
    pub tables_on_demand: bool,
    /// How long bring-up waits after the bridge was configured, in nanoseconds.
    ///
    /// Observed: skiboot hw/phb3.c, `phb3_init_ioda2`: at least 512 ns.
    pub settle_ns: u64,
}

/// The M32 window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct M32 {
    /// Where it lies for the CPU.
    pub cpu_first: Pa,
    /// Where it lies on the PCI bus.
    pub pci_first: u64,
    /// Its size, a power of two.
    pub bytes: u64,
}

impl Config {
    /// A POWER8 bridge with nothing around translation.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            window32_bytes: 1 << 31,
            default_page: SizeLg2::KIB_4,
            default_levels: 2,
            cpu_page: SizeLg2::KIB_4,
            page_sizes: PageSizes::from_bits(0x1101_1000),
            bypass_end: None,
            identity_end: None,
            m32: None,
            tables_on_demand: true,
            settle_ns: 2000,
        }
    }
}
