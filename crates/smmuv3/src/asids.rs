//! Address space ids, by id: one space for private and for shared ones, mixed.
//!
//! A *private* ASID is the SMMU's own: it tags the TLB entries of a domain, which can do as well with another. A *shared* one is that of a
//! process, as the CPUs use it, and cannot be chosen. If a process comes with an ASID that is private, the domain that holds it
//! gives way ([`Holder::give_way`]): it moves to another, live, and the hardware forgets the old one before it is shared.
//!
//! A number is given back only when the hardware has forgotten it (`no-reuse`).
//!
//! Spec: SMMUv3 H.a, 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance".
//! Not here: how a domain moves (`domain`), where a process's ASID comes from (`core::mm`).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers, wait_for};
use portcullis_paging::Ids;

use crate::hardware::Hardware;

/// Somebody whose ASID can be another.
pub(crate) trait Holder: Send + Sync {
    /// Moves from `asid` to another number. On success the hardware has forgotten `asid`, and it has been given back.
    fn give_way(&self, asid: u16) -> Result<(), ShareError>;
}

/// Why an ASID cannot be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShareError {
    /// The hardware has no such ASID, or no other for whoever holds it now, or will never forget what it meant.
    NoIds,
    /// The hardware did not confirm a move.
    Sync(SyncError),
}

enum Owner {
    /// A domain; none while it is being made.
    Private(Option<Weak<dyn Holder>>),
    /// So many domains of a process.
    Shared(u32),
}

/// Who has which ASID.
pub(crate) struct Asids {
    ids: Ids,
    owners: BTreeMap<u16, Owner>,
}

/// What became of a try to share.
enum Shared {
    Yes,
    Held(Option<Arc<dyn Holder>>),
    Never,
}

impl Asids {
    /// All ASIDs of `bits` bits but 0.
    pub(crate) fn new(bits: u8) -> Self {
        Self { ids: Ids::new(bits), owners: BTreeMap::new() }
    }

    /// A number for a new private address space; none if all are taken. Say who holds it ([`hold`](Self::hold)), or it cannot give way.
    pub(crate) fn take(&mut self) -> Option<u16> {
        let id = self.ids.take()?;
        self.owners.insert(id, Owner::Private(None));
        Some(id)
    }

    /// Says who holds a private number.
    pub(crate) fn hold(&mut self, id: u16, holder: Weak<dyn Holder>) {
        if let Some(Owner::Private(held)) = self.owners.get_mut(&id) {
            *held = Some(holder);
        }
    }

    /// Another private number for who holds this one.
    pub(crate) fn take_beside(&mut self, id: u16) -> Option<u16> {
        let Some(Owner::Private(holder)) = self.owners.get(&id) else { return None };
        let holder = holder.clone();
        let other = self.take()?;
        self.owners.insert(other, Owner::Private(holder));
        Some(other)
    }

    /// Gives a private number back, also one that was lost. The hardware has forgotten it.
    pub(crate) fn give_back(&mut self, id: u16) {
        debug_assert!(!matches!(self.owners.get(&id), Some(Owner::Shared(_))), "not a private ASID");
        self.owners.remove(&id);
        self.ids.give_back(id);
    }

    /// Nobody holds this private number any more, and the hardware did not confirm that it has forgotten it: nobody gets it until it is given back.
    pub(crate) fn lose(&mut self, id: u16) {
        self.owners.remove(&id);
    }

    fn share(&mut self, id: u16) -> Shared {
        if !self.ids.covers(id) {
            return Shared::Never;
        }
        match self.owners.get_mut(&id) {
            Some(Owner::Shared(count)) => {
                *count += 1;
                Shared::Yes
            }
            Some(Owner::Private(Some(holder))) => Shared::Held(holder.upgrade()),
            Some(Owner::Private(None)) => Shared::Held(None),
            None => {
                if self.ids.claim(id) {
                    self.owners.insert(id, Owner::Shared(1));
                    Shared::Yes
                } else {
                    Shared::Never
                }
            }
        }
    }

    /// Whether a process has this number.
    pub(crate) fn is_shared(&self, id: u16) -> bool {
        matches!(self.owners.get(&id), Some(Owner::Shared(_)))
    }

    /// Takes one [`share`](Hardware::share_asid) back. The hardware has forgotten what it was for.
    pub(crate) fn unshare(&mut self, id: u16) {
        let Some(Owner::Shared(count)) = self.owners.get_mut(&id) else { return };
        *count -= 1;
        if *count == 0 {
            self.owners.remove(&id);
            self.ids.give_back(id);
        }
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Makes `asid` a process's, for one more domain. Who holds it gives way. Answers whether it was the process's already: then hardware may remember it, of another domain.
    pub(crate) fn share_asid(&self, asid: u16) -> Result<bool, ShareError> {
        let shared = wait_for(&*self.platform, self.config.wait_limit_ns, || {
            let (known, shared) = {
                let mut asids = self.asids.lock();
                (asids.is_shared(asid), asids.share(asid))
            };
            match shared {
                Shared::Yes => Some(Ok(known)),
                Shared::Never => Some(Err(ShareError::NoIds)),
                // Then once more: others may take the number that was just given up.
                Shared::Held(Some(holder)) => holder.give_way(asid).err().map(Err),
                // Its domain is being made, or dropped, on another CPU.
                Shared::Held(None) => None,
            }
        });
        shared.unwrap_or(Err(ShareError::NoIds))
    }
}

#[cfg(test)]
mod tests {
    //! Part 9: ASIDs by id, private and shared ones in one map.
    use super::*;

    struct Nobody;

    impl Holder for Nobody {
        fn give_way(&self, _: u16) -> Result<(), ShareError> {
            Ok(())
        }
    }

    #[test]
    fn part_9_private_numbers_go_round_the_shared_ones() {
        let mut asids = Asids::new(2);
        assert!(matches!(asids.share(2), Shared::Yes));
        assert_eq!((asids.take(), asids.take(), asids.take()), (Some(1), Some(3), None));
        asids.unshare(2);
        assert_eq!(asids.take(), Some(2));
    }

    #[test]
    fn part_9_a_shared_number_comes_back_when_its_last_domain_is_gone() {
        let mut asids = Asids::new(8);
        assert!(matches!(asids.share(7), Shared::Yes) && matches!(asids.share(7), Shared::Yes));
        asids.unshare(7);
        assert!(!asids.ids.claim(7), "one domain is left");
        asids.unshare(7);
        assert!(asids.ids.claim(7));
    }

    #[test]
    fn part_9_a_private_number_leads_to_its_holder_and_so_does_the_one_beside_it() {
        let mut asids = Asids::new(8);
        let holder: Arc<dyn Holder> = Arc::new(Nobody);
        let id = asids.take().unwrap();
        assert!(matches!(asids.share(id), Shared::Held(None)));
        asids.hold(id, Arc::downgrade(&holder));
        let beside = asids.take_beside(id).unwrap();
        for held in [id, beside] {
            let Shared::Held(Some(found)) = asids.share(held) else { panic!("{held} is held") };
            assert!(Arc::ptr_eq(&found, &holder));
        }
        asids.give_back(id);
        assert!(matches!(asids.share(id), Shared::Yes));
    }

    #[test]
    fn part_9_numbers_that_the_hardware_does_not_have_are_not_shared() {
        let mut asids = Asids::new(8);
        assert!(matches!(asids.share(0), Shared::Never) && matches!(asids.share(256), Shared::Never));
    }
}
