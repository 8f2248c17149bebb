//! Regions and interrupts of a PCI function, by index.

/// The first base address register; the others follow.
pub const BAR0_REGION: u32 = 0;
/// The last base address register.
pub const BAR5_REGION: u32 = 5;
/// The expansion ROM.
pub const ROM_REGION: u32 = 6;
/// Configuration space.
pub const CONFIG_REGION: u32 = 7;
/// The old addresses of a VGA adapter.
pub const VGA_REGION: u32 = 8;
/// How many regions.
pub const REGION_COUNT: u32 = 9;

/// The interrupt line.
pub const INTX_IRQ: u32 = 0;
/// Message-signalled interrupts.
pub const MSI_IRQ: u32 = 1;
/// Message-signalled interrupts, extended.
pub const MSIX_IRQ: u32 = 2;
/// The device has seen an error that cannot be corrected.
pub const ERR_IRQ: u32 = 3;
/// The device is wanted back.
pub const REQ_IRQ: u32 = 4;
/// How many kinds of interrupts.
pub const IRQ_COUNT: u32 = 5;
