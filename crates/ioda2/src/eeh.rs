//! Frozen PEs: their state, freezing and unfreezing them, resets, and errors made on purpose.
//!
//! A reset begins with the PE frozen, so that nobody reaches devices that come and go, and nothing that they do on the way counts. It is over when the slot's reset
//! is; the PE stays frozen until it is ended. Ended, devices are set up before anything reaches them, errors that were to be made are forgotten, and the PE goes on.
//! Windows and TCEs are the bridge's and not touched.
//!
//! Observed: Linux 6.x, `eeh_pe_reset`, `pnv_eeh_reset` (frozen until it ends; ending does nothing in hardware); `eeh_pe_configure`.
//! Choice: between beginning and end the state is "reset", as PAPR has it. Linux on this hardware tells of a PE that is stopped.
//! Choice: devices are set up when a reset ends, too, so that a user who forgets to configure them finds them whole.
//! Not here: how devices are reset ([`Slot`], the embedder's), what errors are made of (`inject`).
//!
//! # Locking
//!
//! The lock of the PEs is not held while a slot is reset, which takes its time. Resets of one PE exclude each other by what the slot does.

use alloc::sync::Arc;

use portcullis_core::iommu::SyncError;
use portcullis_core::table_group::{Eeh, EehError, ErrorInjection, Freeze, PeState, Reset, Slot};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::ioda2::tables::{PestA, PestB, TABLE_PESTA, TABLE_PESTB};
use portcullis_types::SourceId;

use crate::group::{GONE, Group};
use crate::inject;
use crate::pe::Pe;
use crate::phb3::{AssignError, Phb3};
use crate::routes::Routes;

impl<P: Platform, R: Registers> Phb3<P, R> {
    /// Says how the devices of this source's PE are reset. It stays so until the PE's last device is removed.
    ///
    /// # Errors
    ///
    /// [`AssignError::Unknown`]; then nothing has changed.
    pub fn set_slot(&self, source: SourceId, slot: Arc<dyn Slot>) -> Result<(), AssignError> {
        let unknown = AssignError::Unknown(source);
        let number = self.pe_of(source).ok_or(unknown)?;
        self.with_pe(number, |pe, _| pe.slot = Some(slot)).ok_or(unknown)
    }
}

impl<P: Platform, R: Registers> Group<P, R> {
    fn pest(&self, what: Freeze) -> u64 {
        self.phb.bridge.ioda_read(table(what), self.pe.into())
    }

    fn is_frozen(&self, what: Freeze) -> bool {
        match what {
            Freeze::Io => PestA::from_bits(self.pest(what)).frozen(),
            Freeze::Dma => PestB::from_bits(self.pest(what)).stopped(),
        }
    }

    /// Lets one half go on; with the second the PE goes on, and what stopped it is forgotten. Nobody else's half goes on in between: one of two has to be the second.
    fn go_on(&self, what: Freeze, routes: &Routes) -> Result<(), SyncError> {
        let Phb3 { bridge, reported, .. } = &*self.phb;
        let other = match what {
            Freeze::Io => Freeze::Dma,
            Freeze::Dma => Freeze::Io,
        };
        let is_second = !self.is_frozen(other);
        if is_second {
            [0, 1].iter().for_each(|&half| routes.forget_state(&*bridge.platform, self.pe, half));
        }
        bridge.ioda_write(table(what), self.pe.into(), 0);
        bridge.confirm()?;
        if is_second {
            reported.lock().forget(self.pe);
        }
        Ok(())
    }

    fn confirm(&self) -> Result<(), EehError> {
        self.phb.bridge.confirm().map_err(EehError::Sync)
    }

    fn on_pe<T>(&self, act: impl FnOnce(&mut Pe<P, R>) -> T) -> Result<T, EehError> {
        self.phb.with_pe(self.pe, |pe, _| act(pe)).ok_or(EehError::Sync(GONE))
    }

    fn slot(&self) -> Result<Option<Arc<dyn Slot>>, EehError> {
        self.on_pe(|pe| pe.slot.clone())
    }

    fn begin(&self, reset: impl FnOnce(&dyn Slot) -> Result<(), SyncError>) -> Result<(), EehError> {
        let slot = self.slot()?.ok_or(EehError::Unsupported)?;
        self.freeze(Freeze::Io)?;
        self.freeze(Freeze::Dma)?;
        inject::clear(&self.phb.bridge);
        self.on_pe(|pe| pe.in_reset = true)?;
        reset(&*slot).map_err(EehError::Sync)
    }

    fn end(&self) -> Result<(), EehError> {
        if !self.on_pe(|pe| pe.in_reset)? {
            return Ok(());
        }
        self.configure()?;
        self.unfreeze(Freeze::Io)?;
        self.unfreeze(Freeze::Dma)?;
        self.on_pe(|pe| pe.in_reset = false)
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
        if self.on_pe(|pe| pe.in_reset).unwrap_or(false) {
            return PeState::Reset;
        }
        match (self.is_frozen(Freeze::Io), self.is_frozen(Freeze::Dma)) {
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

    /// Forgets errors that were to be made, too: they would freeze it again.
    fn unfreeze(&self, what: Freeze) -> Result<(), EehError> {
        inject::clear(&self.phb.bridge);
        self.phb.with_routes(|routes| self.go_on(what, routes)).unwrap_or(Err(GONE)).map_err(EehError::Sync)
    }

    fn reset(&self, reset: Reset) -> Result<(), EehError> {
        match reset {
            Reset::Hot => self.begin(|slot| slot.hot_reset()),
            Reset::Fundamental => self.begin(|slot| slot.fundamental_reset()),
            Reset::Deactivate => self.end(),
        }
    }

    /// Does nothing where nobody can reset the devices. Forgets errors that were to be made, too: setting up goes past the PE, and they would hit others.
    fn configure(&self) -> Result<(), EehError> {
        inject::clear(&self.phb.bridge);
        match self.slot()? {
            Some(slot) => slot.set_up().map_err(EehError::Sync),
            None => Ok(()),
        }
    }

    fn inject(&self, error: ErrorInjection) -> Result<(), EehError> {
        self.on_pe(|pe| inject::inject(&self.phb.bridge, pe, error))?
    }
}
