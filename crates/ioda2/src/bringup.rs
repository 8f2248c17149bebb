//! From reset to a bridge that blocks everybody; and back.
//!
//! What firmware does before is not done here: the power bus and its BARs by XSCOM, the link's training, error masks, credits and timeouts. Nor is
//! what belongs to an interrupt controller: the IVT and the sources' numbers.
//!
//! The order is that of skiboot hw/phb3.c, `phb3_init_ioda2` and `phb3_ioda_reset`, except that no window is open before the bridge learns who is in which PE.

use core::fmt;

use portcullis_core::iommu::SyncError;
use portcullis_core::table_group::{TableError, TableSpec};
use portcullis_hal::{Platform, Registers, wait_for};
use portcullis_spec::ioda2::registers::{
    BAR_ENABLE, CONFIG_64B_TCE, ERR_INJ_ADDR, ERR_INJ_CTL, ERR_INJ_MASK, M32_BASE_ADDR, M32_BASE_MASK,
    M32_START_ADDR, PELTV_BAR, PEST_BAR, PHB3_CONFIG, RTT_BAR, VERSION, major_revision,
};
use portcullis_spec::ioda2::tables::{
    LAST_ADDRESS, M32Domain, PE_COUNT, PEEV_WORDS, TABLE_M32DT, TABLE_PEEV, TABLE_PESTA, TABLE_PESTB,
    TABLE_TVT, TVT_ENTRIES,
};
use portcullis_types::{Pa, SizeLg2, mutant};

use crate::bridge::Bridge;
use crate::config::M32;
use crate::routes::{NOBODYS_MMIO, Routes};
use crate::{table, tve};

/// Why a bridge was not brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// It is no PHB3: what its version register says.
    NotPhb3(u64),
    /// There can be no such table as the configuration asks for as the platform's.
    DefaultTable(TableError),
    /// The platform's window is larger than 4 GiB.
    WindowTooLarge(u64),
    /// No TVE can say this page.
    PageSize(SizeLg2),
    /// M32 is not a power of two of bytes on a multiple of that, or too small for segments, or not below 4 GiB on the bus, or lies where the platform's window does.
    M32(M32),
    /// Memory does not end there: no TVE can say so.
    MemoryEnd(Pa),
    /// No memory for the tables that every bridge has.
    NoMemory,
    /// The bridge does not answer as it was told.
    Sync(SyncError),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPhb3(version) => write!(f, "not a PHB3: version {version:#x}"),
            Self::DefaultTable(error) => write!(f, "the platform's own table cannot be: {error:?}"),
            Self::WindowTooLarge(bytes) => write!(f, "a 32-bit window of {bytes:#x} bytes"),
            Self::PageSize(page) => write!(f, "pages of {:#x} bytes", page.bytes()),
            Self::M32(m32) => write!(
                f,
                "M32 of {:#x} bytes at {} for the CPU and at {:#x} on the bus",
                m32.bytes, m32.cpu_first, m32.pci_first
            ),
            Self::MemoryEnd(end) => write!(f, "memory that ends at {end}"),
            Self::NoMemory => f.write_str("no memory for the bridge's tables"),
            Self::Sync(error) => write!(f, "the bridge does not answer: {error:?}"),
        }
    }
}

/// Checks that it is a PHB3 and that the configuration makes sense.
pub(crate) fn check<P: Platform, R: Registers>(bridge: &Bridge<P, R>) -> Result<(), ProbeError> {
    let version = bridge.registers.read64(VERSION);
    if !matches!(major_revision(version), 0xa3 | 0xb3) {
        return Err(ProbeError::NotPhb3(version));
    }
    let config = &bridge.config;
    if config.window32_bytes > 1 << 32 {
        return Err(ProbeError::WindowTooLarge(config.window32_bytes));
    }
    if let Some(page) = config.page_sizes.iter().find(|page| !tve::PAGES.contains(&page.get()))
        && !mutant!("page-cut-to-the-field-of-a-tve")
    {
        return Err(ProbeError::PageSize(page));
    }
    if let Some(m32) = config.m32.filter(|m32| !can_be(m32, config.window32_bytes)) {
        return Err(ProbeError::M32(m32));
    }
    let ends = [config.bypass_end, config.identity_end].into_iter().flatten();
    if let Some(end) = ends.into_iter().find(|end| end.get() > LAST_ADDRESS + 1) {
        return Err(ProbeError::MemoryEnd(end));
    }
    let spec = TableSpec {
        window: 0,
        page: config.default_page,
        window_bytes: config.window32_bytes,
        levels: config.default_levels,
    };
    table::shape(bridge, spec).map(|_| ()).map_err(ProbeError::DefaultTable)
}

/// Whether M32 can be there, and its addresses on the bus are not those that the platform's window translates: a device that meant memory would reach another's
/// registers.
fn can_be(m32: &M32, window32_bytes: u64) -> bool {
    let M32 { cpu_first, pci_first, bytes } = *m32;
    if mutant!("m32-where-the-window-is") {
        return true;
    }
    let whole = bytes.is_power_of_two() && cpu_first.is_aligned(bytes) && pci_first.is_multiple_of(bytes);
    // Each PE's registers are to lie in segments of their own.
    let has_segments = bytes >= u64::from(PE_COUNT);
    let last = pci_first.checked_add(bytes.wrapping_sub(1));
    whole && has_segments && pci_first >= window32_bytes && last.is_some_and(|last| last < 1 << 32)
}

/// Brings it up. Every PE is without windows, every request id nobody's.
pub(crate) fn bring_up<P: Platform, R: Registers>(
    bridge: &Bridge<P, R>,
    routes: &Routes,
) -> Result<(), ProbeError> {
    let registers = &bridge.registers;
    clear_tables(bridge);
    bridge.platform.write_barrier();
    let bars = [(RTT_BAR, routes.rtt), (PELTV_BAR, routes.peltv), (PEST_BAR, routes.pest)];
    bars.iter().for_each(|&(bar, table)| registers.write64(bar, table.get() | BAR_ENABLE));
    if let Some(m32) = bridge.config.m32 {
        registers.write64(M32_BASE_ADDR, m32.cpu_first.get());
        registers.write64(M32_BASE_MASK, !(m32.bytes - 1));
        registers.write64(M32_START_ADDR, m32.pci_first);
    }
    registers.write64(PHB3_CONFIG, CONFIG_64B_TCE);
    registers.write64(PHB3_CONFIG, bridge.configured());
    let configured_ns = bridge.platform.now_ns();
    let settle_ns = bridge.config.settle_ns;
    let settled = || (bridge.platform.now_ns() - configured_ns >= settle_ns).then_some(());
    // It ends with the time it waits for: a clock that stands still ends it as well.
    let _ = wait_for(&*bridge.platform, settle_ns, settled);
    clear_tables(bridge);
    clear_states(bridge);
    bridge.forget_routes();
    bridge.kill_all();
    for &(bar, table) in &bars {
        let last = registers.read64(bar);
        if last != table.get() | BAR_ENABLE {
            return Err(ProbeError::Sync(SyncError::Timeout {
                waiting_for: "RTT_BAR, PELTV_BAR, PEST_BAR",
                last,
            }));
        }
    }
    bridge.confirm().map_err(ProbeError::Sync)
}

/// Takes every window away, and the tables in memory.
pub(crate) fn shut_down<P: Platform, R: Registers>(bridge: &Bridge<P, R>) -> Result<(), SyncError> {
    clear_tables(bridge);
    [RTT_BAR, PELTV_BAR, PEST_BAR].iter().for_each(|&bar| bridge.registers.write64(bar, 0));
    bridge.forget_routes();
    bridge.kill_all();
    bridge.confirm()
}

/// No windows, and all of M32 is nobody's.
fn clear_tables<P: Platform, R: Registers>(bridge: &Bridge<P, R>) {
    bridge.ioda_fill(TABLE_TVT, TVT_ENTRIES, 0);
    bridge.ioda_fill(TABLE_M32DT, PE_COUNT, M32Domain::new().with_pe(NOBODYS_MMIO).into_bits());
}

/// Nobody is frozen, and no error is waiting to be made.
fn clear_states<P: Platform, R: Registers>(bridge: &Bridge<P, R>) {
    bridge.ioda_fill(TABLE_PESTA, PE_COUNT, 0);
    bridge.ioda_fill(TABLE_PESTB, PE_COUNT, 0);
    bridge.ioda_fill(TABLE_PEEV, PEEV_WORDS, 0);
    [ERR_INJ_CTL, ERR_INJ_ADDR, ERR_INJ_MASK]
        .iter()
        .for_each(|&register| bridge.registers.write64(register, 0));
}
