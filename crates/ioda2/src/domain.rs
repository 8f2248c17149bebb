//! Domains that core fills: the platform's 32-bit window as a [`HwDomain`].
//!
//! The table is made when the first PE is attached, or the first page mapped, and goes when the last PE has left, the bridge has confirmed to have forgotten it, and
//! nothing is mapped: that is how a take frees the platform's table, and a release makes it again.
//!
//! Its lock (`slot`) is held while pages are mapped; under it come the table's own locks.

use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{Flushed, Gather, HwDomain, MapError, SyncError, UnmapError};
use portcullis_core::table_group::{DmaTable, TableSpec};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_pgtable::tce::TceMapError;
use portcullis_spec::ioda2::tables::LAST_ADDRESS;
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, mutant};

use crate::bridge::Bridge;
use crate::table::{Table, plain};

/// A domain.
pub(crate) struct Domain<P: Platform, R: Registers + 'static> {
    this: Weak<Self>,
    bridge: Arc<Bridge<P, R>>,
    /// Whether it is the kernel's own, whose devices may go around translation where the embedder allows it.
    pub(crate) kernel: bool,
    spec: TableSpec,
    slot: Lock<P, Slot<P, R>>,
}

struct Slot<P: Platform, R: Registers + 'static> {
    table: Option<Arc<Table<P, R>>>,
    /// How many PEs are attached.
    attached: usize,
    /// A user has the table, and the kernel maps nothing more there.
    taken: bool,
}

impl<P: Platform, R: Registers> fmt::Debug for Domain<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("spec", &self.spec)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

/// No memory for a table.
#[derive(Debug)]
pub(crate) struct NoMemory;

impl<P: Platform, R: Registers> Domain<P, R> {
    pub(crate) fn new(bridge: Arc<Bridge<P, R>>, kernel: bool) -> Arc<Self> {
        let config = &bridge.config;
        let spec = TableSpec {
            window: 0,
            page: config.default_page,
            window_bytes: config.window32_bytes,
            levels: config.default_levels,
        };
        let slot = Slot { table: None, attached: 0, taken: false };
        let slot = Lock::<P, _>::new(slot);
        Arc::new_cyclic(|this| Self { this: this.clone(), bridge, kernel, spec, slot })
    }

    /// Itself, as whoever keeps it.
    pub(crate) fn shared(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(crate) fn belongs_to(&self, bridge: &Arc<Bridge<P, R>>) -> bool {
        Arc::ptr_eq(&self.bridge, bridge)
    }

    /// Notes that one more PE is attached, and answers the table, made if there is none.
    pub(crate) fn attach(&self) -> Result<Arc<Table<P, R>>, NoMemory> {
        let mut slot = self.slot.lock();
        let table = self.table_in(&mut slot)?;
        slot.attached += 1;
        Ok(table)
    }

    /// Notes that one PE less is attached.
    pub(crate) fn detach(&self) {
        self.slot.lock().attached -= 1;
        self.let_go();
    }

    /// Lets the table go if nobody has it: no PE is attached, the bridge has forgotten it for every one that was, nothing is mapped. Until it is gone, a sync asks the bridge.
    pub(crate) fn let_go(&self) {
        let mut slot = self.slot.lock();
        // Nothing that somebody mapped goes with it, whatever words that nobody stored have made of the count.
        let is_unused = |table: &Arc<Table<P, R>>| {
            table.live() == 0 && !table.is_linked() && table.next(table.range().first()).is_none()
        };
        let unused = slot.attached == 0 && !slot.taken && slot.table.as_ref().is_some_and(is_unused);
        let gone = if unused { slot.table.take() } else { None };
        drop(slot);
        drop(gone);
    }

    /// For a user that takes the table over whole.
    ///
    /// # Errors
    ///
    /// The first address that is mapped, if there is one; or no memory.
    pub(crate) fn take(&self) -> Result<Result<Arc<Table<P, R>>, Iova>, NoMemory> {
        let mut slot = self.slot.lock();
        let table = self.table_in(&mut slot)?;
        if let Some((iova, _)) =
            table.next(Iova::new(0)).filter(|_| !mutant!("table-taken-with-live-mappings"))
        {
            return Ok(Err(iova));
        }
        slot.taken = true;
        Ok(Ok(table))
    }

    /// The user has given it back.
    pub(crate) fn give_back(&self) {
        self.slot.lock().taken = false;
    }

    fn table_in(&self, slot: &mut Slot<P, R>) -> Result<Arc<Table<P, R>>, NoMemory> {
        if let Some(table) = &slot.table {
            return Ok(table.clone());
        }
        // A user who takes the table over whole wants his view of it.
        let user = !self.bridge.config.tables_on_demand;
        let table = Table::new(self.bridge.clone(), self.spec, user).map_err(|_| NoMemory)?;
        slot.table = Some(table.clone());
        Ok(table)
    }

    fn present(&self) -> Option<Arc<Table<P, R>>> {
        self.slot.lock().table.clone()
    }

    fn page_bytes(&self) -> u64 {
        self.spec.page.bytes()
    }

    fn misaligned(&self, values: &[u64]) -> Option<u64> {
        values.iter().copied().find(|value| value % self.page_bytes() != 0)
    }
}

impl<P: Platform, R: Registers> HwDomain<P> for Domain<P, R> {
    fn aperture(&self) -> IovaRange {
        IovaRange::new(Iova::new(0), self.spec.window_bytes).expect("checked at probe")
    }

    fn page_sizes(&self) -> PageSizes {
        PageSizes::from_bits(self.page_bytes())
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        if let Some(value) = self.misaligned(&[iova.get(), pa.get(), len_bytes]) {
            return Err(MapError::Misaligned { value, granule: self.spec.page });
        }
        let range = IovaRange::new(iova, len_bytes).ok_or(MapError::BadLength)?;
        if !self.aperture().covers(range) {
            return Err(MapError::OutsideAperture(if self.aperture().contains(iova) {
                range.last()
            } else {
                iova
            }));
        }
        if pa.get().checked_add(len_bytes - 1).is_none_or(|last| last > LAST_ADDRESS) {
            return Err(MapError::OutputTooLarge(pa));
        }
        if !plain(prot.perms) {
            return Err(MapError::Unsupported(prot));
        }
        // Held while the table is changed, so that a PE that leaves does not find it empty and let it go.
        let mut slot = self.slot.lock();
        // As if all of it were mapped: what a user has taken is not the kernel's to map.
        if slot.taken {
            return Err(MapError::Mapped(iova));
        }
        let table = self.table_in(&mut slot).map_err(|NoMemory| MapError::NoTableMemory)?;
        table.map(range, pa, prot.perms).map_err(|error| match error {
            TceMapError::Mapped(index) => MapError::Mapped(Iova::new(index << self.spec.page.get())),
            TceMapError::OutsideWindow(index) => {
                MapError::OutsideAperture(Iova::new(index << self.spec.page.get()))
            }
            TceMapError::Misaligned(pa) => MapError::OutputTooLarge(pa),
            TceMapError::NoAccess => MapError::Unsupported(prot),
            _ => MapError::NoTableMemory,
        })
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        if !range.is_aligned(self.page_bytes()) {
            return Err(UnmapError::Misaligned { granule: self.spec.page });
        }
        if !self.aperture().covers(range) {
            return Err(UnmapError::OutsideAperture(range.last()));
        }
        let Some((pages, found)) = self.present().and_then(|table| table.unmap(range)) else { return Ok(0) };
        gather.add(found, self.spec.page, false);
        Ok(pages << self.spec.page.get())
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        match self.present() {
            Some(table) => table.flush(gather),
            None => {
                // The table that held it is gone, and went only when every PE had forgotten it.
                *gather = Gather::new();
                Ok(Flushed::completed())
            }
        }
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.present().map_or_else(|| Ok(Flushed::completed()), |table| table.flush_all())
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        let entry = self.present()?.entry(iova)?;
        let pa = Pa::new(entry.pa.get() | iova.offset_in(self.page_bytes()));
        Some((pa, Prot::cached(entry.perms)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
