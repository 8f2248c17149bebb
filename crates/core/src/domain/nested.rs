//! Domains that are nested in others: who is whose parent, and what a guest's invalidations become.
//!
//! Not here: what holds of them (`nested`), attaching devices (`group`).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use portcullis_hal::Platform;

use super::user::UserSpace;
use super::{Domain, DomainSyncError, Kind};
use crate::iommu::{DomainError, Iommu};
use crate::nested::{GuestInvalidation, GuestTable, NestedDomain, NestedError};

/// A guest's table before a user's domain.
///
/// The table is let go first, while its parent is there: dropping it makes hardware forget what came from both.
pub(crate) struct NestedSpace<P: Platform> {
    hw: Arc<dyn NestedDomain>,
    parent: Parent<P>,
}

/// A domain that has one more nested in it for as long as this lives.
struct Parent<P: Platform>(Arc<Domain<P>>);

impl<P: Platform> Parent<P> {
    fn new(domain: &Arc<Domain<P>>) -> Result<Self, NestedError> {
        let count = domain.user().and_then(UserSpace::nested).ok_or(NestedError::NotParent)?;
        count.fetch_add(1, Relaxed);
        Ok(Self(domain.clone()))
    }

    fn space(&self) -> &UserSpace<P> {
        self.0.user().expect("only a user's domain is a parent")
    }
}

impl<P: Platform> Drop for Parent<P> {
    fn drop(&mut self) {
        self.space().nested().into_iter().for_each(|count: &AtomicUsize| {
            count.fetch_sub(1, Relaxed);
        });
    }
}

impl<P: Platform> NestedSpace<P> {
    pub(super) fn hw(&self) -> &Arc<dyn NestedDomain> {
        &self.hw
    }

    /// The addresses of the parent.
    pub(crate) fn space(&self) -> &UserSpace<P> {
        self.parent.space()
    }
}

impl<P: Platform> Domain<P> {
    /// An unmanaged domain for devices behind `iommu`, in which guests' tables can be nested. Everything else is as of any unmanaged domain: devices can be attached
    /// to it as well, which then send guest-physical addresses.
    ///
    /// # Errors
    ///
    /// As [`DomainError`] says: [`DomainError::Unsupported`] if the IOMMU walks no guests' tables ([`Iommu::guest_tables`]).
    pub fn new_parent(iommu: Arc<dyn Iommu<P>>) -> Result<Arc<Self>, DomainError> {
        let kind = Kind::Unmanaged(UserSpace::parent(iommu.new_parent()?)?);
        Ok(Self::of_kind(iommu, kind))
    }

    /// A guest's table before `parent`, which it keeps alive.
    ///
    /// # Errors
    ///
    /// As [`NestedError`] says.
    pub fn new_nested(parent: &Arc<Self>, table: &GuestTable) -> Result<Arc<Self>, NestedError> {
        let holds = Parent::new(parent)?;
        let hw = parent.iommu.new_nested(holds.space().hw(), table)?;
        Ok(Self::of_kind(parent.iommu.clone(), Kind::Nested(NestedSpace { hw, parent: holds })))
    }

    /// How many domains are nested in this one; none if it was not made for that.
    pub fn nested_count(&self) -> Option<usize> {
        self.user()?.nested().map(|count| count.load(Relaxed))
    }

    /// The domain in which this one is nested.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        match &self.kind {
            Kind::Nested(nested) => Some(&nested.parent.0),
            _ => None,
        }
    }

    /// For whom a guest tells that it changed its table: makes hardware forget what it read there.
    ///
    /// # Errors
    ///
    /// As [`DomainSyncError`] says: [`DomainSyncError::NotUsers`] if there is no guest's table here.
    pub fn invalidate(&self, what: GuestInvalidation) -> Result<(), DomainSyncError> {
        match &self.kind {
            Kind::Nested(nested) => nested.hw.invalidate(what).map_err(DomainSyncError::Sync),
            _ => Err(DomainSyncError::NotUsers),
        }
    }
}
