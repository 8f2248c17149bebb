//! Containers: groups that share an IOMMU's mappings.
//!
//! A container without groups has no IOMMU; with the last one to leave it loses it, and all that was mapped.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::device::Device;
use portcullis_core::group::Group;
use portcullis_core::owner::{Owner, Released};
use portcullis_hal::Platform;
use portcullis_spec::vfio::{API_VERSION, CHECK_EXTENSION, GET_API_VERSION, SET_IOMMU, extension};
use portcullis_types::mutant;
use portcullis_types::trace::Value;

use crate::Errno;
use crate::registry::Shared;
use crate::spapr::{self, Spapr, table_group};
use crate::trace::say;
use crate::turns::Turns;
use crate::type1::{self, Type1};
use crate::user::Caller;

/// A container, from when its file is opened until nobody has it open and no group is in it.
pub(crate) struct Container<P: Platform> {
    shared: Arc<Shared<P>>,
    inside: Turns<P, Inside<P>>,
}

struct Inside<P: Platform> {
    groups: Vec<Member<P>>,
    iommu: Option<Iommu<P>>,
}

/// What a container's groups are behind.
enum Iommu<P: Platform> {
    Type1(Box<Type1<P>>),
    Spapr(Box<Spapr<P>>),
}

/// A group that is in the container, and as whom it was claimed.
pub(crate) struct Member<P: Platform> {
    pub(crate) group: Arc<Group<P>>,
    pub(crate) owner: Owner,
    /// Whether its user may have devices that can forge others' interrupts: as somebody had said when it was attached.
    pub(crate) unsafe_interrupts: bool,
}

impl<P: Platform> Clone for Member<P> {
    fn clone(&self) -> Self {
        let &Self { ref group, owner, unsafe_interrupts } = self;
        Self { group: group.clone(), owner, unsafe_interrupts }
    }
}

impl<P: Platform> Member<P> {
    pub(crate) fn new(group: Arc<Group<P>>, owner: Owner) -> Self {
        Self { group, owner, unsafe_interrupts: false }
    }

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
        let inside = self.inside.take();
        if let Some(iommu) = &inside.iommu {
            return iommu.has_extension(number);
        }
        let (windows, others) = self.shared.hardware();
        match number {
            extension::TYPE1 | extension::TYPE1_V2 | extension::UNMAP_ALL => others,
            extension::SPAPR_TCE | extension::SPAPR_TCE_V2 | extension::EEH => windows,
            // There is no hardware of which to say that it is coherent.
            _ => false,
        }
    }

    fn set_iommu(&self, kind: u64) -> Result<u64, Errno> {
        let mut inside = self.inside.take();
        if inside.groups.is_empty() || inside.iommu.is_some() {
            return Err(Errno::Einval);
        }
        let mut iommu = self.new_iommu(kind)?;
        for (at, member) in inside.groups.iter().enumerate() {
            if let Err(errno) = iommu.attach(member) {
                if !mutant!("refused-iommu-keeps-the-first-groups") {
                    inside.groups[..at].iter().rev().for_each(|member| iommu.detach(member));
                }
                return Err(errno);
            }
        }
        let kind = Value::Str(iommu.name());
        inside.iommu = Some(iommu);
        say(&*self.shared.platform, "vfio_set_iommu", &[("iommu", kind), ("result", Value::Str("ok"))]);
        Ok(0)
    }

    /// An IOMMU of this kind, for no group yet.
    fn new_iommu(&self, kind: u64) -> Result<Iommu<P>, Errno> {
        let (windows, others) = self.shared.hardware();
        let type1 = |version| Iommu::Type1(Box::new(Type1::new(self.shared.clone(), version)));
        let spapr = |version| Iommu::Spapr(Box::new(Spapr::new(self.shared.clone(), version)));
        match kind {
            extension::TYPE1 if others => Ok(type1(type1::Version::V1)),
            extension::TYPE1_V2 if others => Ok(type1(type1::Version::V2)),
            extension::SPAPR_TCE if windows => Ok(spapr(spapr::Version::V1)),
            extension::SPAPR_TCE_V2 if windows => Ok(spapr(spapr::Version::V2)),
            // Extensions of an IOMMU that is there, and no IOMMUs themselves.
            extension::UNMAP_ALL if others => Err(Errno::Einval),
            extension::EEH if windows => Err(Errno::Einval),
            _ => Err(Errno::Enodev),
        }
    }

    /// Claims a group for its user and takes it in.
    pub(crate) fn join(&self, member: Member<P>) -> Result<(), Errno> {
        let mut inside = self.inside.take();
        member.group.claim_group(member.owner).map_err(|error| error.errno())?;
        if let Some(iommu) = &mut inside.iommu
            && let Err(errno) = iommu.attach(&member)
        {
            if !mutant!("refused-join-keeps-the-group") {
                member.release();
            }
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
        if !mutant!("group-that-left-is-not-released") {
            member.release();
        }
        if inside.groups.is_empty() {
            inside.iommu = None;
        }
    }

    /// Whether a user may have this device of a group.
    ///
    /// Choice: looked at anew, because it may have joined the group after that was attached. Linux looks at interrupts at the attach alone, and takes no device that does not snoop.
    pub(crate) fn may_open(&self, group: &Arc<Group<P>>, device: &Device<P>) -> Result<(), Errno> {
        match &mut self.inside.take().iommu {
            None => Err(Errno::Einval),
            Some(Iommu::Type1(type1)) => type1.may_open(group, device),
            Some(Iommu::Spapr(spapr)) => spapr.may_open(group, device),
        }
    }
}

impl<P: Platform> Iommu<P> {
    fn name(&self) -> &'static str {
        match self {
            Self::Type1(type1) => type1.version().name(),
            Self::Spapr(spapr) => spapr.version().name(),
        }
    }

    fn has_extension(&self, number: u64) -> bool {
        match self {
            Self::Type1(type1) => type1.has_extension(number),
            Self::Spapr(spapr) => spapr.has_extension(number),
        }
    }

    fn ioctl(&mut self, caller: &dyn Caller<P>, request: u32, arg: u64) -> Result<u64, Errno> {
        match self {
            Self::Type1(type1) => type1.ioctl(caller, request, arg),
            Self::Spapr(spapr) => spapr.ioctl(caller, request, arg),
        }
    }

    fn attach(&mut self, member: &Member<P>) -> Result<(), Errno> {
        match self {
            // Its windows are what spapr_tce is for.
            Self::Type1(_) if table_group(&member.group).is_some() => Err(Errno::Enodev),
            Self::Type1(type1) => type1.attach(member),
            Self::Spapr(spapr) => spapr.attach(member),
        }
    }

    fn detach(&mut self, member: &Member<P>) {
        match self {
            Self::Type1(type1) => type1.detach(member),
            Self::Spapr(spapr) => spapr.detach(member),
        }
    }
}
