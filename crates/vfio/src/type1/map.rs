//! Mapping user memory.

use alloc::sync::Arc;

use portcullis_core::domain::DomainMapError;
use portcullis_hal::Platform;
use portcullis_spec::vfio::{MapDma, MapDmaFlags};
use portcullis_types::trace::Value;
use portcullis_types::{Iova, IovaRange, Perms, Prot, mutant};

use super::forget::forget;
use super::pages::Pinned;
use super::{Mapping, Translation, Type1};
use crate::Errno;
use crate::trace::say;
use crate::user::{UserMemory, read};

/// What is to be mapped: in order, but for what is there already.
struct Wanted {
    range: IovaRange,
    vaddr: u64,
    size: u64,
    perms: Perms,
}

impl<P: Platform> Type1<P> {
    pub(super) fn map(&mut self, memory: &Arc<dyn UserMemory>, arg: u64) -> Result<u64, Errno> {
        let request = MapDma::from_bytes(&read(&**memory, arg)?);
        let wanted = self.wanted(&request, &**memory)?;
        self.has_place(wanted.range)?;
        let write = wanted.perms.contains(Perms::WRITE);
        let pages = Pinned::pin(memory, wanted.vaddr, wanted.size, write)?;
        self.map_pages(&wanted, pages)?;
        Ok(0)
    }

    fn wanted(&self, request: &MapDma, memory: &dyn UserMemory) -> Result<Wanted, Errno> {
        let &MapDma { argsz, flags, vaddr, iova, size } = request;
        if flags & !MapDmaFlags::ALL_KNOWN != 0 || (argsz as usize) < MapDma::BYTES || size == 0 {
            return Err(Errno::Einval);
        }
        let range = IovaRange::new(Iova::new(iova), size).ok_or(Errno::Eoverflow)?;
        vaddr.checked_add(size - 1).ok_or(Errno::Eoverflow)?;
        let mut perms = Perms::empty();
        perms.set(Perms::READ, flags & MapDmaFlags::READ != 0);
        perms.set(Perms::WRITE, flags & MapDmaFlags::WRITE != 0);
        if perms.is_empty()
            || !(iova | vaddr | size).is_multiple_of(self.granule(memory.page_size())?.bytes())
        {
            return Err(Errno::Einval);
        }
        Ok(Wanted { range, vaddr, size, perms })
    }

    /// That nothing is there, that there may be one more, and that it may be there.
    fn has_place(&self, range: IovaRange) -> Result<(), Errno> {
        if self.mappings.overlapping(range).next().is_some() {
            return Err(Errno::Eexist);
        }
        if self.available() == 0 {
            return Err(Errno::Enospc);
        }
        if self.forbidden.overlaps(range) { Err(Errno::Einval) } else { Ok(()) }
    }

    /// Maps in every domain, or in none.
    fn map_pages(&mut self, wanted: &Wanted, pages: Pinned) -> Result<(), Errno> {
        let &Wanted { range, vaddr, perms, .. } = wanted;
        let mut each = self.translations.iter();
        let platform = &*self.shared.platform;
        let mapped = each.try_for_each(|translation| translation.map(platform, range, &pages, perms));
        let Err(error) = mapped else {
            let fields = [
                ("iova", Value::Addr(range.first().get())),
                ("len", Value::Dec(wanted.size)),
                ("vaddr", Value::Addr(vaddr)),
                ("runs", Value::Dec(pages.run_count() as u64)),
            ];
            say(&*self.shared.platform, "vfio_map", &fields);
            self.mappings.0.insert(range.first(), Mapping { range, perms, pages, stale: false });
            return Ok(());
        };
        match forget(&self.domains(), &[range]) {
            Ok(_) if mutant!("refused-map-keeps-its-pins") => drop(pages),
            Ok(proof) => pages.reclaim(&proof),
            // Some of it may have been mapped for a moment, and hardware may know it: the user has to unmap it.
            Err(_) => {
                self.mappings.0.insert(range.first(), Mapping { range, perms, pages, stale: true });
            }
        }
        Err(error.errno())
    }
}

impl<P: Platform> Translation<P> {
    /// Maps pages over `range`, one table operation for each run. For devices that do not look into the CPU's caches, memory is first what its process sees there: what
    /// lay there before may have been another's, and be overwritten in a cache alone.
    pub(super) fn map(
        &self,
        platform: &P,
        range: IovaRange,
        pages: &Pinned,
        perms: Perms,
    ) -> Result<(), DomainMapError> {
        if !self.coherent {
            pages.runs().for_each(|(pa, len_bytes)| platform.clean(pa, len_bytes));
        }
        let prot = if self.coherent { Prot::cached(perms) } else { Prot::uncached(perms) };
        self.domain.map_runs(range, &mut pages.runs(), prot)
    }
}
