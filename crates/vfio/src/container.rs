//! Containers: groups that share an IOMMU's mappings.
//!
//! A container without groups has no IOMMU; with the last one to leave it loses it, and all that was mapped.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::group::Group;
use portcullis_core::owner::{Owner, Released};
use portcullis_hal::Platform;
use portcullis_spec::vfio::{API_VERSION, CHECK_EXTENSION, GET_API_VERSION, SET_IOMMU, extension};
use portcullis_types::trace::Value;

use crate::Errno;
use crate::registry::Shared;
use crate::trace::say;
use crate::turns::Turns;
use crate::type1::{Type1, Version};
use crate::user::Caller;

/// A container, from when its file is opened until nobody has it open and no group is in it.
pub(crate) struct Container<P: Platform> {
    shared: Arc<Shared<P>>,
    inside: Turns<P, Inside<P>>,
}

struct Inside<P: Platform> {
    groups: Vec<Member<P>>,
    iommu: Option<Type1<P>>,
}

/// A group that is in the container, and as whom it was claimed.
pub(crate) struct Member<P: Platform> {
    pub(crate) group: Arc<Group<P>>,
    pub(crate) owner: Owner,
}

impl<P: Platform> Clone for Member<P> {
    fn clone(&self) -> Self {
        Self { group: self.group.clone(), owner: self.owner }
    }
}

impl<P: Platform> Member<P> {
    fn release(&self) {
        // What hardware refuses is said by core, and leaves the group blocked; there is nobody here to tell.
        match self.group.release_group(self.owner) {
            Ok(Released::Free | Released::Held(_) | Released::Blocked(_)) | Err(_) => {}
        }
    }
}

impl<P: Platform> Container<P> {
    pub(crate) fn new(shared: Arc<Shared<P>>) -> Self {
        let inside = Turns::new(shared.platform.clone(), Inside { groups: Vec::new(), iommu: None });
        Self { shared, inside }
    }

    pub(crate) fn ioctl(&self, caller: &dyn Caller<P>, request: u32, arg: u64) -> Result<u64, Errno> {
        match request {
            GET_API_VERSION => Ok(API_VERSION),
            CHECK_EXTENSION => Ok(u64::from(self.has_extension(arg))),
            SET_IOMMU => self.set_iommu(arg),
            _ => match &mut self.inside.take().iommu {
                Some(iommu) => iommu.ioctl(caller, request, arg),
                None => Err(Errno::Einval),
            },
        }
    }

    /// Before an IOMMU is set: whether any would do. After: whether this one does.
    fn has_extension(&self, number: u64) -> bool {
        match number {
            extension::TYPE1 | extension::TYPE1_V2 | extension::UNMAP_ALL => true,
            // Before, there is no hardware of which to say it.
            extension::DMA_CC => self.inside.take().iommu.as_ref().is_some_and(Type1::is_coherent),
            _ => false,
        }
    }

    fn set_iommu(&self, kind: u64) -> Result<u64, Errno> {
        let mut inside = self.inside.take();
        if inside.groups.is_empty() || inside.iommu.is_some() {
            return Err(Errno::Einval);
        }
        let version = match kind {
            extension::TYPE1 => Version::V1,
            extension::TYPE1_V2 => Version::V2,
            // An extension of an IOMMU that is there, and no IOMMU itself.
            extension::UNMAP_ALL => return Err(Errno::Einval),
            _ => return Err(Errno::Enodev),
        };
        let mut iommu = Type1::new(self.shared.clone(), version);
        for (at, member) in inside.groups.iter().enumerate() {
            if let Err(errno) = iommu.attach(member) {
                inside.groups[..at].iter().rev().for_each(|member| iommu.detach(member));
                return Err(errno);
            }
        }
        inside.iommu = Some(iommu);
        let kind = Value::Str(version.name());
        say(&*self.shared.platform, "vfio_set_iommu", &[("iommu", kind), ("result", Value::Str("ok"))]);
        Ok(0)
    }

    /// Claims a group for its user and takes it in.
    pub(crate) fn join(&self, member: Member<P>) -> Result<(), Errno> {
        let mut inside = self.inside.take();
        member.group.claim_group(member.owner).map_err(|error| error.errno())?;
        if let Some(iommu) = &mut inside.iommu
            && let Err(errno) = iommu.attach(&member)
        {
            member.release();
            return Err(errno);
        }
        inside.groups.push(member);
        Ok(())
    }

    /// Lets a group go, back to the kernel.
    pub(crate) fn leave(&self, owner: Owner) {
        let mut inside = self.inside.take();
        let Some(at) = inside.groups.iter().position(|member| member.owner == owner) else { return };
        let member = inside.groups.remove(at);
        if let Some(iommu) = &mut inside.iommu {
            iommu.detach(&member);
        }
        member.release();
        if inside.groups.is_empty() {
            inside.iommu = None;
        }
    }

    pub(crate) fn has_iommu(&self) -> bool {
        self.inside.take().iommu.is_some()
    }
}
