//! ATS: a function asks for translations and keeps them.
//!
//! Spec: PCIe 6.0, 10.5.1 "ATS Extended Capability".

use alloc::sync::Arc;
use core::fmt;

use portcullis_core::sva::DeviceSwitches;
use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::capability::ExtendedId;
use portcullis_spec::pcie::extended::{ATS_CONTROL, AtsCapability, AtsControl};
use portcullis_types::SizeLg2;

use super::error::{Missing, ServiceError};
use super::{first_word, place};
use crate::ConfigAccess;
use crate::topology::Function;

/// Bytes of the capability.
const LEN_BYTES: u16 = 8;
/// The smallest translation unit there can be, and what the control register counts from.
const UNIT_BASE_LG2: u8 = 12;
/// What the control register can count to.
const UNIT_STEPS: u8 = 0x1f;
/// What an invalidate queue depth of 0 stands for.
const DEEPEST_QUEUE: u8 = 32;

/// The ATS capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ats {
    at: Bdf,
    offset: u16,
    capability: AtsCapability,
}

/// Turns the ATS of one function on and off: for whoever must do that at the right moment between other steps, above all an IOMMU's driver.
///
/// Turning it on twice, or off twice, changes nothing.
pub struct AtsSwitch<C: ?Sized> {
    config: Arc<C>,
    ats: Ats,
    unit: SizeLg2,
}

impl Ats {
    pub(super) fn find(config: &(impl ConfigAccess + ?Sized), function: &Function) -> Result<Self, Missing> {
        let offset = place(&function.capabilities, ExtendedId::ATS, LEN_BYTES)?;
        let [capability, _] = first_word(config, function.at, offset)?;
        Ok(Self { at: function.at, offset, capability: AtsCapability::from(capability) })
    }

    /// How many invalidations the function takes before it holds up what comes after: 1 to 32.
    pub fn queue_depth(&self) -> u8 {
        match self.capability.invalidate_queue_depth() {
            0 => DEEPEST_QUEUE,
            depth => depth,
        }
    }

    /// Whether its translation requests are for whole pages always.
    pub fn page_aligned_request(&self) -> bool {
        self.capability.page_aligned_request()
    }

    /// Whether it knows invalidations for all PASIDs at once. Without, one that is meant for all must be sent for each.
    pub fn global_invalidate(&self) -> bool {
        self.capability.global_invalidate()
    }

    /// The smallest translation unit, if ATS is on.
    pub fn enabled(&self, config: &(impl ConfigAccess + ?Sized)) -> Option<SizeLg2> {
        let control = self.control(config);
        let unit = SizeLg2::new(UNIT_BASE_LG2 + control.smallest_translation_unit());
        unit.filter(|_| control.enable())
    }

    /// Turns ATS on. No translation that the function keeps, and no invalidation that it is sent, is for less than `unit`.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Enabled`], [`ServiceError::TranslationUnit`]; [`ServiceError::NotKept`] if the function stays off.
    pub fn enable(&self, config: &(impl ConfigAccess + ?Sized), unit: SizeLg2) -> Result<(), ServiceError> {
        if self.control(config).enable() {
            return Err(ServiceError::Enabled);
        }
        let wanted = self.control_word(unit)?;
        config.write16(self.at, self.offset + ATS_CONTROL, wanted.into());
        let read = self.control(config);
        if read == wanted {
            return Ok(());
        }
        config.write16(self.at, self.offset + ATS_CONTROL, AtsControl::new().into());
        Err(ServiceError::NotKept { wrote: u16::from(wanted).into(), read: u16::from(read).into() })
    }

    /// Turns ATS off: the function forgets every translation and sends no request for one. That it is off has been read back on return, so requests that it
    /// sent before have gone ahead.
    pub fn disable(&self, config: &(impl ConfigAccess + ?Sized)) {
        let control = self.control(config);
        config.write16(self.at, self.offset + ATS_CONTROL, control.with_enable(false).into());
        let _ = self.control(config);
    }

    /// A handle by which ATS can be turned on, with this smallest translation unit, and off.
    ///
    /// # Errors
    ///
    /// [`ServiceError::TranslationUnit`].
    pub fn switch<C: ConfigAccess + ?Sized>(
        &self,
        config: Arc<C>,
        unit: SizeLg2,
    ) -> Result<AtsSwitch<C>, ServiceError> {
        self.control_word(unit)?;
        Ok(AtsSwitch { config, ats: *self, unit })
    }

    fn control(&self, config: &(impl ConfigAccess + ?Sized)) -> AtsControl {
        AtsControl::from(config.read16(self.at, self.offset + ATS_CONTROL))
    }

    fn control_word(&self, unit: SizeLg2) -> Result<AtsControl, ServiceError> {
        let steps = unit.get().checked_sub(UNIT_BASE_LG2).filter(|&steps| steps <= UNIT_STEPS);
        let steps = steps.ok_or(ServiceError::TranslationUnit(unit))?;
        Ok(AtsControl::new().with_smallest_translation_unit(steps).with_enable(true))
    }
}

impl<C: ConfigAccess + ?Sized> AtsSwitch<C> {
    /// Turns ATS on or off.
    ///
    /// # Errors
    ///
    /// [`ServiceError::NotKept`]: the function stays off.
    pub fn set(&self, on: bool) -> Result<(), ServiceError> {
        if !on {
            self.ats.disable(&*self.config);
            return Ok(());
        }
        match self.ats.enable(&*self.config, self.unit) {
            Err(ServiceError::Enabled) => Ok(()),
            other => other,
        }
    }

    /// Whether ATS is on.
    pub fn is_on(&self) -> bool {
        self.ats.enabled(&*self.config).is_some()
    }
}

impl<C: ConfigAccess + Send + Sync + ?Sized> DeviceSwitches for AtsSwitch<C> {
    /// A function that does not keep what is written stays off: it then sends untranslated requests, which is slower and no less safe.
    fn set_ats(&self, on: bool) {
        let _ = self.set(on);
    }
}

impl<C: ?Sized> Clone for AtsSwitch<C> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone(), ats: self.ats, unit: self.unit }
    }
}

impl<C: ?Sized> fmt::Debug for AtsSwitch<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtsSwitch").field("ats", &self.ats).field("unit", &self.unit).finish_non_exhaustive()
    }
}
