//! Groups: devices that cannot be told apart, or kept apart, by the IOMMU, and so are always in the same domain.
//!
//! A [`Group`] has a default domain, in which its devices are while their ordinary drivers run, and a current one. Attaching takes all
//! members or none: when one member fails, those before it go back. Only if hardware refuses even that are members left blocked, and
//! the error says which.
//!
//! A group is nobody's, the kernel's, or one user's ([`owner`](crate::owner)):
//!
//! ```text
//!                    use_default_domain                claim_group, claim_device
//!   the kernel's ◄───────────────────────── nobody's ───────────────────────────► a user's
//!   default domain ────────────────────────► default ◄────────────────────────── blocked, or the user's own domain
//!                  unuse_default_domain (last)        release_group, release_device (last)
//! ```
//!
//! # Locking
//!
//! One lock for the members, the domains and the ledger of who holds the group, held while hardware is told, so that an attach, a claim, a
//! driver that is bound and a device that joins see each other. Nothing else of core's is called that takes a group's lock. Domains that are left are let go without it.
//!
//! Not here: which devices belong together (`portcullis-pci`), when drivers ask (`bus`).

mod attach;
mod default_type;
mod error;
mod locked;
mod moving;
mod own;
mod pasids;
mod sharing;

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use portcullis_hal::{Lock, Platform};
use portcullis_types::trace::Value;
use portcullis_types::{Pasid, SourceId, mutant};

pub use default_type::{DefaultDomain, DefaultType, DefaultTypeError, UnknownWord};
pub use error::{GroupError, Left};
pub use pasids::PasidError;
pub(crate) use sharing::end_sharing;

use crate::device::{Device, Standing};
use crate::dma::DmaHandle;
use crate::domain::{Domain, DomainType};
use crate::iommu::{AttachError, DomainError, Iommu, ReservedKind, ReservedRegion, Target};
use crate::owner::{DeviceKey, Ledger};
use crate::sva::LetGo;
use crate::{reserved, trace};

/// Devices that are always in the same domain.
pub struct Group<P: Platform> {
    platform: Arc<P>,
    iommu: Arc<dyn Iommu<P>>,
    id: u32,
    /// What [`DefaultType::Auto`] is.
    boot: DefaultDomain,
    blocked: Arc<Domain<P>>,
    state: Lock<P, State<P>>,
}

struct State<P: Platform> {
    members: Vec<Arc<Device<P>>>,
    /// How often one has come or gone.
    changes: u64,
    /// What the default domain is; none while there is none.
    kind: Option<DefaultDomain>,
    /// The default domain; the blocked one while there is none.
    default: Arc<Domain<P>>,
    current: Arc<Domain<P>>,
    /// Whether the group is blocked only because hardware refused its default domain.
    stuck: bool,
    ledger: Ledger,
    pasids: BTreeSet<Pasid>,
    /// Domains that the group or a member was in, to be let go with the lock ([`locked`]).
    left: Vec<Arc<Domain<P>>>,
    /// Where the driver leaves what it lets go of; none before there was a member.
    let_go: Option<Arc<LetGo<P>>>,
    /// Whether the driver was told of a member, and may have left something there.
    told: bool,
}

impl<P: Platform> fmt::Debug for Group<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("boot", &self.boot).finish_non_exhaustive()
    }
}

impl<P: Platform> State<P> {
    /// Whether it is where it is while it is nobody's.
    fn at_rest(&self) -> bool {
        self.stuck || Arc::ptr_eq(&self.current, &self.default)
    }

    /// Notes where the group is now.
    fn is_now_in(&mut self, domain: &Arc<Domain<P>>) {
        self.left.push(core::mem::replace(&mut self.current, domain.clone()));
    }

    fn is_member(&self, device: &Arc<Device<P>>) -> bool {
        self.members.iter().any(|member| Arc::ptr_eq(member, device))
    }
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
        let group = Self::without_default(platform, iommu, id, default)?;
        let domain = group.new_default(default)?;
        let mut state = group.lock();
        (state.kind, state.default, state.current) = (Some(default), domain.clone(), domain);
        drop(state);
        Ok(group)
    }

    /// A group with no devices and no default domain yet: devices that join stay blocked, their drivers are told to ask again. It gets its
    /// default domain, `boot`, by [`set_default_type`](Self::set_default_type) with [`DefaultType::Auto`].
    ///
    /// # Errors
    ///
    /// As [`DomainError`] says.
    pub fn without_default(
        platform: Arc<P>,
        iommu: Arc<dyn Iommu<P>>,
        id: u32,
        boot: DefaultDomain,
    ) -> Result<Self, DomainError> {
        let blocked = Domain::new(platform.clone(), iommu.clone(), DomainType::Blocked)?;
        let state = State {
            members: Vec::new(),
            changes: 0,
            kind: None,
            default: blocked.clone(),
            current: blocked.clone(),
            stuck: false,
            ledger: Ledger::default(),
            pasids: BTreeSet::new(),
            left: Vec::new(),
            let_go: None,
            told: false,
        };
        Ok(Self { platform, iommu, id, boot, blocked, state: Lock::<P, _>::new(state) })
    }

    /// The number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The IOMMU in front of its devices.
    pub fn iommu(&self) -> &Arc<dyn Iommu<P>> {
        &self.iommu
    }

    /// The domain for ordinary drivers; the blocked one while there is none yet.
    pub fn default_domain(&self) -> Arc<Domain<P>> {
        self.lock().default.clone()
    }

    /// A domain in which nothing gets through.
    pub fn blocked_domain(&self) -> &Arc<Domain<P>> {
        &self.blocked
    }

    /// The domain that the group is in. A member that was left behind says so itself: [`Device::domain`].
    pub fn current_domain(&self) -> Arc<Domain<P>> {
        self.lock().current.clone()
    }

    /// The devices.
    pub fn devices(&self) -> Vec<Arc<Device<P>>> {
        self.lock().members.clone()
    }

    /// How often a device has come or gone: what somebody has noted of the devices holds for as long as this stays.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// The reserved regions of all devices, merged and sorted.
    pub fn reserved_regions(&self) -> Vec<ReservedRegion> {
        reserved::merge(self.devices().iter().flat_map(|device| device.reserved_regions()))
    }

    /// The DMA API for a member's driver. None if the device is not a member.
    pub fn dma(&self, device: &Arc<Device<P>>) -> Option<DmaHandle<P>> {
        let state = self.lock();
        state.is_member(device).then(|| DmaHandle::new(device.clone(), state.default.clone()))
    }

    /// Adds a device, and attaches it to the group's current domain, whosever that is.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says; then it is no member.
    pub fn add_device(&self, device: &Arc<Device<P>>) -> Result<(), GroupError> {
        let mut state = self.lock();
        match device.take() {
            Standing::Free => {}
            Standing::Taken => return Err(GroupError::InGroup),
            Standing::Gone => {
                // Whoever has its sources now is another.
                let source = device.sources().first().copied().unwrap_or(SourceId(0));
                let error = AttachError::UnknownSource(source);
                return Err(GroupError::Attach { device: device.name().into(), error });
            }
        }
        self.join(&mut state, device).inspect_err(|_| device.stands(Standing::Free))
    }

    fn join(&self, state: &mut State<P>, device: &Arc<Device<P>>) -> Result<(), GroupError> {
        let refused = |error| GroupError::Attach { device: device.name().into(), error };
        if !Arc::ptr_eq(device.iommu(), &self.iommu) {
            return Err(refused(AttachError::ForeignDomain));
        }
        self.is_where_it_shares(device)?;
        sharing::leaves_room(state, device)?;
        if let Some(region) = direct_region(device).filter(|_| state.ledger.owner().is_some()) {
            let ReservedRegion { range, source, .. } = region;
            return Err(GroupError::Direct { device: device.name().into(), range, source });
        }
        let joined =
            if mutant!("newcomer-gets-the-default-domain") { &state.default } else { &state.current };
        let domain = joined.clone();
        // Where there is no default domain yet, a device is left as it is, which is blocked, whatever firmware does with it.
        let ready = (state.kind.is_some() || !state.at_rest()).then(|| domain.prepare(device));
        let prepared = ready.transpose().map_err(refused)?;
        state.let_go = Some(device.let_go.clone());
        if let Err(error) = self.tell(state, device, &domain.target()) {
            // A device that is in no group is blocked, so being left blocked is being as before.
            prepared.into_iter().for_each(|prepared| domain.unprepare(device, prepared));
            self.say(device, &domain, "refused");
            return Err(refused(error));
        }
        let none = device.set_domain(Some(domain.clone()));
        state.left.extend(none);
        state.members.push(device.clone());
        state.changes += 1;
        self.say(device, &domain, "ok");
        Ok(())
    }

    /// Takes a device out of the group and blocks it. A claim of the whole group does not keep it.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says; then it is a member as before.
    pub fn remove_device(&self, device: &Arc<Device<P>>) -> Result<(), GroupError> {
        let mut state = self.lock();
        let place = state.members.iter().position(|member| Arc::ptr_eq(member, device));
        let place = place.ok_or(GroupError::NotMember)?;
        if state.ledger.holds(key(device)) {
            return Err(GroupError::Held);
        }
        state.told = true;
        match self.iommu.leave_group(device.sources()) {
            Ok(()) | Err(AttachError::LeftBlocked(_)) => {}
            Err(error) => return Err(GroupError::Attach { device: device.name().into(), error }),
        }
        if let Some(domain) = device.domain() {
            domain.released(device);
            trace::say(&*self.platform, "detach", device.name(), &[("group", Value::Dec(self.id.into()))]);
        }
        state.left.extend(device.set_domain(None));
        state.members.remove(place);
        state.changes += 1;
        device.stands(Standing::Free);
        Ok(())
    }

    /// Has the driver lead a device to `target`.
    fn tell(&self, state: &mut State<P>, device: &Device<P>, target: &Target<P>) -> Result<(), AttachError> {
        state.told = true;
        self.iommu.attach(device.sources(), target)
    }
}

/// Who the device is in the ledger.
fn key<P: Platform>(device: &Arc<Device<P>>) -> DeviceKey {
    DeviceKey(Arc::as_ptr(device).addr())
}

/// A region that firmware uses whoever has the device.
fn direct_region<P: Platform>(device: &Device<P>) -> Option<ReservedRegion> {
    let direct = |region: &ReservedRegion| region.kind == ReservedKind::Direct;
    device.reserved_regions().into_iter().find(direct)
}
