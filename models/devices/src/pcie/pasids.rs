//! Whether a function may name address spaces, as its PASID capability says.
//!
//! Spec: PCIe 6.0, 7.8.9 "PASID Extended Capability Structure".

use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use model_bus::Unpredictable;
use portcullis_types::Pasid;
use portcullis_types::trace::Sink;

use super::capability::{PASID_CAPABILITY, PASID_CONTROL, PASID_ENABLE};
use super::config::ConfigSpace;
use super::strict::{Strict, clause};

/// A function's PASID capability.
pub struct PasidControl {
    config: Arc<ConfigSpace>,
    place: usize,
    /// The control register, as it was when last looked at.
    control: Mutex<u16>,
    strict: Strict,
}

impl fmt::Debug for PasidControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasidControl").field("control", &self.control).finish_non_exhaustive()
    }
}

impl PasidControl {
    /// The capability at `place` of this configuration space.
    pub fn new(config: Arc<ConfigSpace>, place: usize, sink: Arc<dyn Sink>) -> Self {
        Self { config, place, control: Mutex::new(0), strict: Strict::new(sink) }
    }

    /// Everything software did against the book since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.strict.take()
    }

    /// Whether the function may send requests with `pasid`, or without one.
    pub fn allows(&self, pasid: Option<Pasid>) -> bool {
        let Some(pasid) = pasid else { return true };
        let width = self.config.read16(self.place + PASID_CAPABILITY) >> 8 & 0x1f;
        let enabled = self.config.read16(self.place + PASID_CONTROL) & PASID_ENABLE != 0;
        enabled && u64::from(pasid.get()) < 1 << width
    }

    /// Looks at what software has just written. The book leaves open what a change does while ATS is on.
    pub fn config_written(&self, ats_enabled: bool) {
        let control = self.config.read16(self.place + PASID_CONTROL);
        let before =
            core::mem::replace(&mut *self.control.lock().unwrap_or_else(PoisonError::into_inner), control);
        if before != control && ats_enabled {
            self.strict.record(clause::PASIDS_CHANGED, format!("{before:#x} became {control:#x}"));
        }
    }

    /// As after power-up.
    pub fn reset(&self) {
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }
}
