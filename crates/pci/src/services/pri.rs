//! PRI: a function asks for pages that are not there.
//!
//! Control and status share a word, and bits of the status are cleared by writing ones: the control is written with zeroes beside it.
//!
//! Spec: PCIe 6.0, 10.5.2 "Page Request Extended Capability Structure".

use core::num::NonZeroU32;

use portcullis_hal::{Clock, wait_for};
use portcullis_spec::pcie::capability::ExtendedId;
use portcullis_spec::pcie::extended::{
    PRI_ALLOCATION, PRI_CAPACITY, PRI_CONTROL, PRI_STATUS, PriControl, PriStatus,
};
use portcullis_spec::pcie::{ABSENT, Bdf};

use super::error::{Missing, ServiceError};
use super::{first_word, place};
use crate::ConfigAccess;
use crate::topology::Function;

/// Bytes of the capability.
const LEN_BYTES: u16 = 16;

/// The page-request capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pri {
    at: Bdf,
    offset: u16,
    capacity: NonZeroU32,
    response_pasid_required: bool,
}

impl Pri {
    pub(super) fn find(config: &(impl ConfigAccess + ?Sized), function: &Function) -> Result<Self, Missing> {
        let offset = place(&function.capabilities, ExtendedId::PRI, LEN_BYTES)?;
        let [_, status] = first_word(config, function.at, offset)?;
        let capacity = config.read32(function.at, offset + PRI_CAPACITY);
        if capacity == ABSENT {
            return Err(Missing::Gone);
        }
        let capacity = NonZeroU32::new(capacity).ok_or(Missing::NoCapacity)?;
        let response_pasid_required = PriStatus::from(status).response_pasid_required();
        Ok(Self { at: function.at, offset, capacity, response_pasid_required })
    }

    /// How many requests the function can have under way.
    pub fn capacity(&self) -> NonZeroU32 {
        self.capacity
    }

    /// Whether responses must carry the PASID of the request.
    pub fn response_pasid_required(&self) -> bool {
        self.response_pasid_required
    }

    /// How page requests are going: `response_failure` and `unexpected_group` stay until [`clear_errors`](Self::clear_errors).
    pub fn status(&self, config: &(impl ConfigAccess + ?Sized)) -> PriStatus {
        PriStatus::from(config.read16(self.at, self.offset + PRI_STATUS))
    }

    /// Clears what went wrong from the status.
    pub fn clear_errors(&self, config: &(impl ConfigAccess + ?Sized)) {
        let status = PriStatus::new().with_response_failure(true).with_unexpected_group(true);
        let word = u32::from(u16::from(self.control(config))) | u32::from(u16::from(status)) << 16;
        config.write32(self.at, self.offset + PRI_CONTROL, word);
    }

    /// How many requests may be under way, if page requests are on.
    pub fn allocation(&self, config: &(impl ConfigAccess + ?Sized)) -> Option<NonZeroU32> {
        let allocation = config.read32(self.at, self.offset + PRI_ALLOCATION);
        NonZeroU32::new(allocation).filter(|_| self.control(config).enable())
    }

    /// Lets the function ask for pages, with `wanted` requests under way at most, or as many as it can. Answers how many those are.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Enabled`], and [`ServiceError::NotStopped`] if requests from before are still under way: the book leaves open what happens then.
    /// [`ServiceError::NotKept`]: the function does not keep the number, or stays off. It is off after each of them but the first.
    pub fn enable(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        wanted: NonZeroU32,
    ) -> Result<NonZeroU32, ServiceError> {
        if self.control(config).enable() {
            return Err(ServiceError::Enabled);
        }
        let status = self.status(config);
        if !status.stopped() {
            return Err(ServiceError::NotStopped { waited_ns: 0, status: status.into() });
        }
        // The number may change only while off.
        let allocation = wanted.min(self.capacity);
        config.write32(self.at, self.offset + PRI_ALLOCATION, allocation.get());
        let read = config.read32(self.at, self.offset + PRI_ALLOCATION);
        if read != allocation.get() {
            return Err(ServiceError::NotKept { wrote: allocation.get(), read });
        }
        self.write_control(config, PriControl::new().with_enable(true));
        let read = self.control(config);
        if !read.enable() {
            return Err(ServiceError::NotKept { wrote: 1, read: u16::from(read).into() });
        }
        Ok(allocation)
    }

    /// Keeps the function from asking for more. What it asked for before is still under way until [`wait_stopped`](Self::wait_stopped) says that it is not.
    pub fn disable(&self, config: &(impl ConfigAccess + ?Sized)) {
        self.write_control(config, PriControl::new());
    }

    /// Waits until every request from before [`disable`](Self::disable) has had its response.
    ///
    /// # Errors
    ///
    /// [`ServiceError::NotStopped`] after `limit_ns`; [`ServiceError::Enabled`] if it was not turned off, for then it never stops.
    pub fn wait_stopped(
        &self,
        config: &(impl ConfigAccess + ?Sized),
        clock: &impl Clock,
        limit_ns: u64,
    ) -> Result<(), ServiceError> {
        if self.control(config).enable() {
            return Err(ServiceError::Enabled);
        }
        let stopped = wait_for(clock, limit_ns, || self.status(config).stopped().then_some(()));
        stopped.map_err(|elapsed| ServiceError::NotStopped {
            waited_ns: elapsed.waited_ns,
            status: self.status(config).into(),
        })
    }

    /// Makes the function forget what it asked for and count from 0. Only while off.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Enabled`]: the function would ignore it.
    pub fn reset(&self, config: &(impl ConfigAccess + ?Sized)) -> Result<(), ServiceError> {
        if self.control(config).enable() {
            return Err(ServiceError::Enabled);
        }
        self.write_control(config, PriControl::new().with_reset(true));
        Ok(())
    }

    fn control(&self, config: &(impl ConfigAccess + ?Sized)) -> PriControl {
        PriControl::from(config.read16(self.at, self.offset + PRI_CONTROL))
    }

    fn write_control(&self, config: &(impl ConfigAccess + ?Sized), control: PriControl) {
        config.write32(self.at, self.offset + PRI_CONTROL, u16::from(control).into());
    }
}
