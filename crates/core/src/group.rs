//! Groups: devices that cannot be told apart, or kept apart, by the IOMMU, and so are always in the same domain.
//!
//! A [`Group`] has a default domain, in which its devices are while their ordinary drivers run, and a current one. Attaching takes all
//! members or none: when one member fails, those before it go back. Only if hardware refuses even that are members left blocked, and
//! the error says which.
//!
//! # Locking
//!
//! One lock for the members and the current domain, held while hardware is told, so that an attach and a device that joins see each
//! other.
//!
//! Not here: which devices belong together (`portcullis-pci`), who owns a group.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use portcullis_hal::{Lock, Platform};
use portcullis_types::trace::Value;

use crate::device::Device;
use crate::dma::DmaHandle;
use crate::domain::{Domain, DomainType, FlushMode, Prepared};
use crate::iommu::{AttachError, DomainError, Iommu, ReservedRegion, Target};
use crate::{reserved, trace};

/// In which domain a group is while ordinary drivers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultDomain {
    /// Addresses are physical.
    Identity,
    /// Translated.
    Dma(FlushMode),
}

/// Devices that are always in the same domain.
pub struct Group<P: Platform> {
    platform: Arc<P>,
    iommu: Arc<dyn Iommu<P>>,
    id: u32,
    default: Arc<Domain<P>>,
    blocked: Arc<Domain<P>>,
    state: Lock<P, State<P>>,
}

struct State<P: Platform> {
    members: Vec<Arc<Device<P>>>,
    current: Arc<Domain<P>>,
}

impl<P: Platform> fmt::Debug for Group<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("default", &self.default).finish_non_exhaustive()
    }
}

/// Why the group, or a device of it, is not attached as was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupError {
    /// The device is in a group already. EBUSY.
    InGroup,
    /// The device is not in this group. ENODEV.
    NotMember,
    /// A device was not attached. Everything is as it was.
    Attach {
        /// The device.
        device: String,
        /// Why.
        error: AttachError,
    },
    /// A device was not attached, and hardware refused to take devices back to where they were.
    Stranded {
        /// The device that was not attached.
        device: String,
        /// Why.
        error: AttachError,
        /// The devices that are not where they were, and where they are. The others are where they were.
        left: Vec<(String, Left)>,
    },
}

/// Where a device is that could not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nowhere: its accesses are aborted.
    Blocked,
    /// In the domain that the attach was for: hardware refused to block it too.
    Attached,
}

impl<P: Platform> Group<P> {
    /// A group with no devices, behind `iommu`, with this default domain.
    ///
    /// # Errors
    ///
    /// As [`DomainError`] says.
    pub fn new(
        platform: Arc<P>,
        iommu: Arc<dyn Iommu<P>>,
        id: u32,
        default: DefaultDomain,
    ) -> Result<Self, DomainError> {
        let domain_type = match default {
            DefaultDomain::Identity => DomainType::Identity,
            DefaultDomain::Dma(mode) => DomainType::Dma(mode),
        };
        let default = Domain::new(platform.clone(), iommu.clone(), domain_type)?;
        let blocked = Domain::new(platform.clone(), iommu.clone(), DomainType::Blocked)?;
        let state = State { members: Vec::new(), current: default.clone() };
        Ok(Self { platform, iommu, id, default, blocked, state: Lock::<P, _>::new(state) })
    }

    /// The number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The IOMMU in front of its devices.
    pub fn iommu(&self) -> &Arc<dyn Iommu<P>> {
        &self.iommu
    }

    /// The domain for ordinary drivers.
    pub fn default_domain(&self) -> &Arc<Domain<P>> {
        &self.default
    }

    /// A domain in which nothing gets through.
    pub fn blocked_domain(&self) -> &Arc<Domain<P>> {
        &self.blocked
    }

    /// The domain that the group is in. A member that was left behind says so itself: [`Device::domain`].
    pub fn current_domain(&self) -> Arc<Domain<P>> {
        self.state.lock().current.clone()
    }

    /// The devices.
    pub fn devices(&self) -> Vec<Arc<Device<P>>> {
        self.state.lock().members.clone()
    }

    /// The reserved regions of all devices, merged and sorted.
    pub fn reserved_regions(&self) -> Vec<ReservedRegion> {
        reserved::merge(self.devices().iter().flat_map(|device| device.reserved_regions()))
    }

    /// The DMA API for a member's driver. None if the device is not a member.
    pub fn dma(&self, device: &Arc<Device<P>>) -> Option<DmaHandle<P>> {
        let member = self.state.lock().members.iter().any(|member| Arc::ptr_eq(member, device));
        member.then(|| DmaHandle::new(device.clone(), self.default.clone()))
    }

    /// Adds a device, and attaches it to the group's current domain.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says; then it is no member.
    pub fn add_device(&self, device: &Arc<Device<P>>) -> Result<(), GroupError> {
        let mut state = self.state.lock();
        if device.domain().is_some() {
            return Err(GroupError::InGroup);
        }
        let domain = state.current.clone();
        let refused = |error| GroupError::Attach { device: device.name().into(), error };
        let prepared = domain.prepare(device).map_err(refused)?;
        if let Err(error) = self.iommu.attach(device.sources(), &domain.target()) {
            // A device that is in no group is blocked, so being left blocked is being as before.
            domain.unprepare(device, prepared);
            self.say(device, &domain, "refused");
            return Err(refused(error));
        }
        device.set_domain(Some(domain.clone()));
        state.members.push(device.clone());
        self.say(device, &domain, "ok");
        Ok(())
    }

    /// Takes a device out of the group and blocks it.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says; then it is a member as before.
    pub fn remove_device(&self, device: &Arc<Device<P>>) -> Result<(), GroupError> {
        let mut state = self.state.lock();
        let place = state.members.iter().position(|member| Arc::ptr_eq(member, device));
        let place = place.ok_or(GroupError::NotMember)?;
        match self.iommu.attach(device.sources(), &Target::Blocked) {
            Ok(()) | Err(AttachError::LeftBlocked(_)) => {}
            Err(error) => return Err(GroupError::Attach { device: device.name().into(), error }),
        }
        if let Some(domain) = device.domain() {
            domain.released(device);
            trace::say(&*self.platform, "detach", device.name(), &[("group", Value::Dec(self.id.into()))]);
        }
        device.set_domain(None);
        state.members.remove(place);
        Ok(())
    }

    /// Attaches all devices to `domain`, which is the current one from then on.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn attach(&self, domain: &Arc<Domain<P>>) -> Result<(), GroupError> {
        let mut state = self.state.lock();
        // Who is there already need not go. After a failure this differs from member to member.
        let moving: Vec<Arc<Device<P>>> =
            state.members.iter().filter(|device| !is_in(device, domain)).cloned().collect();
        let prepared = self.prepare_all(&moving, domain)?;
        let target = domain.target();
        for (at, device) in moving.iter().enumerate() {
            if let Err(error) = self.iommu.attach(device.sources(), &target) {
                self.say(device, domain, "refused");
                return Err(self.go_back(&moving, at, error, domain, prepared));
            }
        }
        moving.iter().for_each(|device| self.moved(device, domain));
        state.current = domain.clone();
        Ok(())
    }

    /// Attaches all devices to the default domain.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn detach(&self) -> Result<(), GroupError> {
        self.attach(&self.default)
    }

    fn prepare_all(
        &self,
        devices: &[Arc<Device<P>>],
        domain: &Domain<P>,
    ) -> Result<Vec<Prepared>, GroupError> {
        let mut done = Vec::with_capacity(devices.len());
        for device in devices {
            match domain.prepare(device) {
                Ok(prepared) => done.push(prepared),
                Err(error) => {
                    // Last first, so that each finds what it left.
                    let undo: Vec<_> = devices.iter().zip(done).collect();
                    undo.into_iter().rev().for_each(|(device, prepared)| domain.unprepare(device, prepared));
                    return Err(GroupError::Attach { device: device.name().into(), error });
                }
            }
        }
        Ok(done)
    }

    /// Member `failed` of `moving` was refused with `error`: those before it go back to where they are said to be.
    fn go_back(
        &self,
        moving: &[Arc<Device<P>>],
        failed: usize,
        error: AttachError,
        domain: &Arc<Domain<P>>,
        prepared: Vec<Prepared>,
    ) -> GroupError {
        let mut left = Vec::new();
        let mut undo = Vec::with_capacity(prepared.len());
        for (at, (device, prepared)) in moving.iter().zip(prepared).enumerate() {
            let went = match error {
                _ if at < failed => self.take_back(device),
                AttachError::LeftBlocked(_) if at == failed => Err(Left::Blocked),
                _ => Ok(()),
            };
            match went {
                Ok(()) => undo.push((device, prepared)),
                Err(Left::Blocked) => {
                    self.moved(device, &self.blocked);
                    undo.push((device, prepared));
                }
                Err(Left::Attached) => self.moved(device, domain),
            }
            left.extend(went.err().map(|left| (device.name().into(), left)));
        }
        undo.into_iter().rev().for_each(|(device, prepared)| domain.unprepare(device, prepared));
        let device = moving[failed].name().into();
        if left.is_empty() {
            GroupError::Attach { device, error }
        } else {
            GroupError::Stranded { device, error, left }
        }
    }

    /// Attaches a device to where it is said to be, and blocks it if that is refused.
    fn take_back(&self, device: &Device<P>) -> Result<(), Left> {
        let domain = device.domain();
        let before = domain.as_ref().map_or(Target::Blocked, |domain| domain.target());
        match self.iommu.attach(device.sources(), &before) {
            Ok(()) => Ok(()),
            Err(AttachError::LeftBlocked(_)) => Err(Left::Blocked),
            Err(_) => match self.iommu.attach(device.sources(), &Target::Blocked) {
                Ok(()) | Err(AttachError::LeftBlocked(_)) => Err(Left::Blocked),
                Err(_) => Err(Left::Attached),
            },
        }
    }

    /// Notes where hardware has a device now.
    fn moved(&self, device: &Arc<Device<P>>, domain: &Arc<Domain<P>>) {
        if let Some(before) = device.domain() {
            before.released(device);
        }
        device.set_domain(Some(domain.clone()));
        self.say(device, domain, "ok");
    }

    fn say(&self, device: &Device<P>, domain: &Domain<P>, result: &'static str) {
        let kind = match domain.domain_type() {
            DomainType::Blocked => "blocked",
            DomainType::Identity => "identity",
            DomainType::Dma(FlushMode::Strict) => "dma",
            DomainType::Dma(FlushMode::Lazy) => "dma_fq",
            DomainType::Unmanaged => "unmanaged",
        };
        let fields = [
            ("group", Value::Dec(self.id.into())),
            ("domain", Value::Str(kind)),
            ("result", Value::Str(result)),
        ];
        trace::say(&*self.platform, "attach", device.name(), &fields);
    }
}

fn is_in<P: Platform>(device: &Device<P>, domain: &Arc<Domain<P>>) -> bool {
    device.domain().is_some_and(|now| Arc::ptr_eq(&now, domain))
}
