//! PASIDs: a function says which of its address spaces a request means.
//!
//! Spec: PCIe 6.0, 7.8.9 "PASID Extended Capability"; 6.20 "PASID TLP Prefix".

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::capability::ExtendedId;
use portcullis_spec::pcie::extended::{
    ATS_CONTROL, AtsControl, PASID_CONTROL, PasidCapability, PasidControl,
};
use portcullis_types::Pasid;

use super::error::{Missing, ServiceError};
use super::{first_word, place};
use crate::ConfigAccess;
use crate::topology::Function;

/// Bytes of the capability.
const LEN_BYTES: u16 = 8;

/// The PASID capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pasids {
    at: Bdf,
    offset: u16,
    /// Where its ATS capability is, whether or not ATS can be used here: PASIDs must not change while that is on.
    ats_offset: Option<u16>,
    capability: PasidCapability,
}

/// What requests with a PASID may ask for besides reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PasidPermissions {
    /// To execute.
    pub execute: bool,
    /// To act in privileged mode.
    pub privileged: bool,
}

impl Pasids {
    pub(super) fn find(
        config: &(impl ConfigAccess + ?Sized),
        function: &Function,
        ats_offset: Option<u16>,
    ) -> Result<Self, Missing> {
        let offset = place(&function.capabilities, ExtendedId::PASID, LEN_BYTES)?;
        let [capability, _] = first_word(config, function.at, offset)?;
        let capability = PasidCapability::from(capability);
        // A width of 0 is PASID 0 and no other, and 0 is never given to a process.
        let most = Pasid::MAX.get().count_ones();
        match capability.max_width() {
            width if width == 0 || u32::from(width) > most => Err(Missing::PasidWidth(width)),
            _ => Ok(Self { at: function.at, offset, ats_offset, capability }),
        }
    }

    /// How many bits a PASID has: 1 to 20.
    pub fn bits(&self) -> u8 {
        self.capability.max_width()
    }

    /// What its requests can ask for.
    pub fn permissions(&self) -> PasidPermissions {
        PasidPermissions { execute: self.capability.execute(), privileged: self.capability.privileged() }
    }

    /// What its requests may ask for, if PASIDs are on.
    pub fn enabled(&self, config: &(impl ConfigAccess + ?Sized)) -> Option<PasidPermissions> {
        let control = self.control(config);
        let permissions = PasidPermissions { execute: control.execute(), privileged: control.privileged() };
        control.enable().then_some(permissions)
    }

    /// Lets the function's requests carry PASIDs, and ask for what `permissions` say.
    ///
    /// # Errors
    ///
    /// [`ServiceError::AtsEnabled`], [`ServiceError::Enabled`], [`ServiceError::Permissions`] if the function cannot ask for that;
    /// [`ServiceError::NotKept`] if it stays off.
    pub fn enable(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        permissions: PasidPermissions,
    ) -> Result<(), ServiceError> {
        self.check_ats(config)?;
        if self.control(config).enable() {
            return Err(ServiceError::Enabled);
        }
        let can = self.permissions();
        if permissions.execute && !can.execute || permissions.privileged && !can.privileged {
            return Err(ServiceError::Permissions { wanted: permissions, can });
        }
        let wanted = PasidControl::new()
            .with_enable(true)
            .with_execute(permissions.execute)
            .with_privileged(permissions.privileged);
        config.write16(self.at, self.offset + PASID_CONTROL, wanted.into());
        let read = self.control(config);
        if read == wanted {
            return Ok(());
        }
        config.write16(self.at, self.offset + PASID_CONTROL, PasidControl::new().into());
        Err(ServiceError::NotKept { wrote: u16::from(wanted).into(), read: u16::from(read).into() })
    }

    /// Keeps the function's requests from carrying PASIDs.
    ///
    /// # Errors
    ///
    /// [`ServiceError::AtsEnabled`].
    pub fn disable(&self, config: &(impl ConfigAccess + ?Sized)) -> Result<(), ServiceError> {
        self.check_ats(config)?;
        config.write16(self.at, self.offset + PASID_CONTROL, PasidControl::new().into());
        Ok(())
    }

    /// Spec: PCIe 6.0, 7.8.9 "PASID Extended Capability", PASID Control Register: what changes while ATS is on has undefined effects.
    fn check_ats(&self, config: &(impl ConfigAccess + ?Sized)) -> Result<(), ServiceError> {
        let Some(ats) = self.ats_offset else { return Ok(()) };
        let control = AtsControl::from(config.read16(self.at, ats + ATS_CONTROL));
        if control.enable() { Err(ServiceError::AtsEnabled) } else { Ok(()) }
    }

    fn control(&self, config: &(impl ConfigAccess + ?Sized)) -> PasidControl {
        PasidControl::from(config.read16(self.at, self.offset + PASID_CONTROL))
    }
}
