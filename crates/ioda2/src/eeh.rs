//! Frozen PEs: their state, freezing and unfreezing them, and errors made on purpose.
//!
//! Not here: resets. They go by the slot and the root port, which belong to whoever has the PCI bus.

use portcullis_core::table_group::{Eeh, EehError, ErrorInjection, Freeze, PeState, Reset};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::ioda2::registers::{
    ERR_INJ_ADDR, ERR_INJ_CTL, ERR_INJ_INBOUND, ERR_INJ_MASK, ERR_INJ_READ, ERR_INJ_WRITE,
};
use portcullis_spec::ioda2::tables::{PestA, PestB, TABLE_PESTA, TABLE_PESTB, WINDOW_BIT};

use crate::group::Group;

/// Which functions are reads by a device, from and to. Observed: Linux 7.3, `EEH_ERR_FUNC_DMA_RD_ADDR` and on.
const DMA_READ: core::ops::RangeInclusive<u32> = 12..=15;
/// Which are writes. Observed: Linux 7.3, `EEH_ERR_FUNC_DMA_WR_ADDR` and on.
const DMA_WRITE: core::ops::RangeInclusive<u32> = 16..=19;

impl<P: Platform, R: Registers> Group<P, R> {
    fn pest(&self, what: Freeze) -> u64 {
        self.phb.bridge.ioda_read(table(what), self.pe.into())
    }

    fn confirm(&self) -> Result<(), EehError> {
        self.phb.bridge.confirm().map_err(EehError::Sync)
    }
}

fn table(what: Freeze) -> u8 {
    match what {
        Freeze::Io => TABLE_PESTA,
        Freeze::Dma => TABLE_PESTB,
    }
}

impl<P: Platform, R: Registers> Eeh for Group<P, R> {
    fn state(&self) -> PeState {
        if self.phb.bridge.is_gone() {
            return PeState::Unavailable;
        }
        let io = PestA::from_bits(self.pest(Freeze::Io)).frozen();
        let dma = PestB::from_bits(self.pest(Freeze::Dma)).stopped();
        match (io, dma) {
            (false, false) => PeState::Normal,
            (false, true) => PeState::StoppedDma,
            // Choice: MMIO alone frozen has no name; who recovers from "stopped" does all that it needs.
            (true, _) => PeState::Stopped,
        }
    }

    fn freeze(&self, what: Freeze) -> Result<(), EehError> {
        let stopped = match what {
            Freeze::Io => PestA::from_bits(self.pest(what)).with_frozen(true).into_bits(),
            Freeze::Dma => PestB::from_bits(self.pest(what)).with_stopped(true).into_bits(),
        };
        self.phb.bridge.ioda_write(table(what), self.pe.into(), stopped);
        self.confirm()
    }

    fn unfreeze(&self, what: Freeze) -> Result<(), EehError> {
        self.phb.bridge.ioda_write(table(what), self.pe.into(), 0);
        self.confirm()?;
        self.phb.reported.lock().forget(self.pe);
        Ok(())
    }

    fn reset(&self, _: Reset) -> Result<(), EehError> {
        Err(EehError::Unsupported)
    }

    fn configure(&self) -> Result<(), EehError> {
        // Nothing was reset.
        Ok(())
    }

    /// Only into DMA. Observed: skiboot hw/phb3.c, `phb3_err_inject_dma`.
    fn inject(&self, error: ErrorInjection) -> Result<(), EehError> {
        let access = match error.function {
            function if DMA_READ.contains(&function) => ERR_INJ_READ,
            function if DMA_WRITE.contains(&function) => ERR_INJ_WRITE,
            _ => return Err(EehError::Unsupported),
        };
        let wide = error.address >> WINDOW_BIT == 1;
        if error.address >> WINDOW_BIT > 1 || wide != error.wide {
            return Err(EehError::BadAddress(error.address));
        }
        let registers = &self.phb.bridge.registers;
        registers.write64(ERR_INJ_CTL, 0);
        registers.write64(ERR_INJ_ADDR, error.address);
        registers.write64(ERR_INJ_MASK, error.mask);
        registers.write64(ERR_INJ_CTL, ERR_INJ_INBOUND | access);
        self.confirm()
    }
}
