//! Hardware forgets what was mapped; or does not, and then nothing is given back.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::domain::Domain;
use portcullis_core::iommu::{Flushed, Gather};
use portcullis_hal::Platform;
use portcullis_types::{IovaRange, mutant};

use super::{Mapping, Type1};
use crate::{Errno, registry};

/// The proof that no domain's hardware knows some ranges any more: each one's own.
#[must_use = "pages can be given back now"]
pub(super) struct Forgotten {
    _proofs: Vec<Flushed>,
}

/// Takes `ranges` out of every one of `domains`, and waits until hardware has forgotten them. May be done again after a failure.
pub(super) fn forget<P: Platform>(
    domains: &[Arc<Domain<P>>],
    ranges: &[IovaRange],
) -> Result<Forgotten, Errno> {
    let proofs = domains.iter().map(|domain| forget_in(domain, ranges)).collect::<Vec<_>>();
    // Each was tried, also after one had failed: what can be taken away is.
    let proofs = proofs.into_iter().filter(|proof| proof.is_ok() || !mutant!("pages-go-on-one-domains-word"));
    let proofs = proofs.collect::<Result<Vec<_>, _>>()?;
    Ok(Forgotten { _proofs: proofs })
}

fn forget_in<P: Platform>(domain: &Domain<P>, ranges: &[IovaRange]) -> Result<Flushed, Errno> {
    let mut gather = Gather::new();
    let unmapped = ranges.iter().try_for_each(|&range| domain.unmap(range, &mut gather).map(drop));
    let synced = domain.sync(&mut gather).map_err(|error| error.errno());
    unmapped.map_err(|error| error.errno())?;
    synced
}

/// What a container left behind: mappings that hardware may still know, and the domains that they were in.
pub(crate) struct Kept<P: Platform> {
    domains: Vec<Arc<Domain<P>>>,
    mappings: Vec<Mapping>,
}

impl<P: Platform> Kept<P> {
    /// Tries again. Answers what is left.
    pub(crate) fn reclaim(self) -> Option<Self> {
        let ranges: Vec<IovaRange> = self.mappings.iter().map(|mapping| mapping.range).collect();
        match forget(&self.domains, &ranges) {
            Ok(proof) => {
                self.mappings.into_iter().for_each(|mapping| mapping.pages.reclaim(&proof));
                None
            }
            Err(_) => Some(self),
        }
    }

    pub(crate) fn page_count(&self) -> u64 {
        self.mappings.iter().map(|mapping| mapping.pages.page_count()).sum()
    }
}

impl<P: Platform> Type1<P> {
    /// Every domain in which a mapping may be.
    pub(super) fn domains(&self) -> Vec<Arc<Domain<P>>> {
        let attached = self.translations.iter().map(|translation| &translation.domain);
        let lost = if mutant!("lost-domains-not-asked") { &[][..] } else { &self.lost[..] };
        attached.chain(lost).cloned().collect()
    }

    /// Takes mappings out, and gives their pages back. Answers how many bytes there were.
    ///
    /// If hardware does not confirm, they wait as they are for a next try.
    pub(super) fn drop_mappings(&mut self, ranges: &[IovaRange]) -> Result<u64, Errno> {
        let forgotten = forget(&self.domains(), ranges);
        for range in ranges {
            if let Some(mapping) = self.mappings.0.get_mut(&range.first()) {
                mapping.stale = true;
            }
        }
        let proof = forgotten?;
        let mut bytes = 0u64;
        for range in ranges {
            if let Some(mapping) = self.mappings.0.remove(&range.first()) {
                mapping.pages.reclaim(&proof);
                bytes = bytes.wrapping_add(range.len_bytes().unwrap_or(0));
            }
        }
        if self.mappings.0.is_empty() {
            self.lost.clear();
        }
        Ok(bytes)
    }

    /// The last group has left: nothing is mapped any more, or what may be is kept for a later try.
    pub(super) fn drop_everything(&mut self, mut domains: Vec<Arc<Domain<P>>>) {
        domains.append(&mut self.lost);
        let mappings: Vec<Mapping> = core::mem::take(&mut self.mappings.0).into_values().collect();
        if mappings.is_empty() {
            return;
        }
        if let Some(kept) = (Kept { domains, mappings }).reclaim() {
            self.shared.keep(Some(registry::Kept::Type1(kept)));
        }
    }
}
