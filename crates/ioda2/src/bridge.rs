//! A bridge's registers: tables behind them, invalidation, and whether the bridge still answers.
//!
//! Every register is 64 bits wide and accessed whole.
//!
//! # Order
//!
//! An invalidation is a store. Stores to one bridge arrive in order, and a load comes back after the stores before it arrived: so one load at
//! the end of several invalidations proves them all, and shows whether the bridge is there at all ([`Bridge::confirm`]). TCEs, RTT and PELT-V are memory: a write barrier
//! goes before the store that makes the bridge read them anew.
//!
//! Choice: PHB3 has a register that waits for DMA reads under way (`PHB_DMARD_SYNC`); neither skiboot nor Linux uses it here, and no source says what it
//! covers, so that a load is what we take for proof, as they do.

use alloc::sync::Arc;
use core::fmt;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::ioda2::registers::{
    CONFIG_M32, CONFIG_MSI32, CONFIG_MSI64, GONE, IODA_ADDR, IODA_DATA0, IodaAddress, PHB3_CONFIG,
    RTC_INVALIDATE, RTC_INVALIDATE_ALL, TCE_KILL, TceKill,
};
use portcullis_types::{Iova, mutant};

use crate::config::Config;

/// A bridge.
pub(crate) struct Bridge<P: Platform, R> {
    pub(crate) platform: Arc<P>,
    pub(crate) registers: R,
    pub(crate) config: Config,
    /// Held between writing the address register and the last access by it.
    ioda: Lock<P, ()>,
    /// Held while the registers of errors that are to be made change: half of one error and half of another may hit anybody.
    pub(crate) injection: Lock<P, ()>,
}

impl<P: Platform, R> fmt::Debug for Bridge<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Bridge<P, R> {
    /// What the bridge's configuration register holds once it is up.
    pub(crate) fn configured(&self) -> u64 {
        let m32 = if self.config.m32.is_some() { CONFIG_M32 } else { 0 };
        CONFIG_MSI32 | CONFIG_MSI64 | m32
    }

    pub(crate) fn new(platform: Arc<P>, registers: R, config: Config) -> Self {
        let (ioda, injection) = (Lock::<P, _>::new(()), Lock::<P, _>::new(()));
        Self { platform, registers, config, ioda, injection }
    }

    /// Reads entry `index` of an on-chip table.
    pub(crate) fn ioda_read(&self, table: u8, index: u16) -> u64 {
        let _held = self.ioda.lock();
        self.select(table, index, false);
        self.registers.read64(IODA_DATA0)
    }

    /// Writes entry `index` of an on-chip table.
    pub(crate) fn ioda_write(&self, table: u8, index: u16, entry: u64) {
        let _held = self.ioda.lock();
        self.select(table, index, false);
        self.registers.write64(IODA_DATA0, entry);
    }

    /// Reads the first entries of an on-chip table, one after the other.
    pub(crate) fn ioda_read_all<const N: usize>(&self, table: u8) -> [u64; N] {
        let _held = self.ioda.lock();
        self.select(table, 0, true);
        core::array::from_fn(|_| self.registers.read64(IODA_DATA0))
    }

    /// Writes `entry` to the first `count` entries of an on-chip table.
    pub(crate) fn ioda_fill(&self, table: u8, count: u16, entry: u64) {
        let _held = self.ioda.lock();
        self.select(table, 0, true);
        (0..count).for_each(|_| self.registers.write64(IODA_DATA0, entry));
    }

    fn select(&self, table: u8, index: u16, auto_increment: bool) {
        let address =
            IodaAddress::new().with_table(table).with_index(index).with_auto_increment(auto_increment);
        self.registers.write64(IODA_ADDR, address.into_bits());
    }

    /// Makes the bridge forget the TCEs of a PE.
    pub(crate) fn kill_pe(&self, pe: u8) {
        self.platform.write_barrier();
        self.registers.write64(TCE_KILL, TceKill::new().with_pe(true).with_pe_number(pe).into_bits());
    }

    /// Makes the bridge forget the TCE of a PE for one DMA address. A write barrier has passed since the entry was stored.
    pub(crate) fn kill_one(&self, pe: u8, page: Iova) {
        let kill = TceKill::new().with_one(true).with_pe_number(pe).with_dma_address(page.get());
        self.registers.write64(TCE_KILL, kill.into_bits());
    }

    /// Makes the bridge forget all TCEs.
    pub(crate) fn kill_all(&self) {
        self.platform.write_barrier();
        self.registers.write64(TCE_KILL, TceKill::new().with_all(true).into_bits());
    }

    /// Makes the bridge forget which request id is in which PE.
    pub(crate) fn forget_routes(&self) {
        self.platform.write_barrier();
        self.registers.write64(RTC_INVALIDATE, RTC_INVALIDATE_ALL);
    }

    /// Waits until what was written has arrived.
    pub(crate) fn confirm(&self) -> Result<(), SyncError> {
        let last = self.registers.read64(PHB3_CONFIG);
        if last == self.configured() || mutant!("silent-bridge-taken-for-done") {
            return Ok(());
        }
        Err(SyncError::Timeout { waiting_for: "PHB3_CONFIG", last })
    }

    /// Whether the bridge answers nothing any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.registers.read64(PHB3_CONFIG) == GONE
    }
}
