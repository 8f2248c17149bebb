//! Memory by the addresses that a device says: for a driver whose addresses somebody else has mapped.
//!
//! Portcullis's drivers take addresses from the DMA API. Two jobs want a driver that says addresses of its own: one that are mapped nowhere, and one those of a process.
//! So the driver gets a [`View`] for its platform, whose "physical" addresses are what the device says ([`Addresses`] knows where they lead), behind an IOMMU that
//! passes them as they are ([`AsTheyAre`]): the DMA API hands them through. The real IOMMU is in front of the device all the same, and does what it was told.
//!
//! This is what a driver in user space does, whose addresses are its own.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use portcullis_core::device::DeviceInfo;
use portcullis_core::dma::DmaHandle;
use portcullis_core::group::{DefaultDomain, Group};
use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    ReservedRegion, SyncError, Target,
};
use portcullis_core::unit::IommuUnit;
use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{IovaRange, Pa, PageSizes, SizeLg2, SourceId};

use crate::error::{Wrong, doing};
use crate::lock::IrqSpin;
use crate::mmu::PAGE;
use crate::platform::Metal;

/// Where the addresses of a device lead.
pub(crate) trait Addresses: Send + Sync {
    /// Zeroed memory that the device reaches at the address answered, a multiple of the alignment.
    fn alloc(&self, layout: BlockLayout) -> Option<u64>;

    /// Takes it back.
    fn free(&self, first: u64, layout: BlockLayout);

    /// Where the byte at `address` is.
    fn lookup(&self, address: u64) -> Option<Pa>;
}

/// A platform whose addresses are a device's.
pub(crate) struct View(Arc<dyn Addresses>);

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

/// The DMA API for a driver that sees its memory so.
pub(crate) fn handle(name: &str, addresses: Arc<dyn Addresses>) -> Result<DmaHandle<View>, Wrong> {
    let platform = Arc::new(View(addresses));
    let iommu: Arc<dyn Iommu<View>> = Arc::new(AsTheyAre);
    let unit = IommuUnit::new(platform.clone(), iommu.clone());
    let device = unit.add_device(DeviceInfo::new(name, &[SourceId(0)])).map_err(doing("making a view"))?;
    let group = Group::new(platform, iommu, 0, DefaultDomain::Identity).map_err(doing("making a view"))?;
    group.add_device(&device).map_err(doing("making a view"))?;
    group.dma(&device).ok_or_else(|| Wrong("the view has no device".into()))
}

impl View {
    /// Calls `each` with where each piece of `len` bytes from `at` is, and which piece it is. What leads nowhere is passed over, as by a device: a process may
    /// have given back what its device uses.
    fn pieces(&self, at: Pa, len: usize, mut each: impl FnMut(Pa, core::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let address = at.get() + done as u64;
            let rest = usize::try_from(PAGE - address % PAGE).unwrap_or(1).min(len - done);
            if let Some(place) = self.0.lookup(address) {
                each(place, done..done + rest);
            }
            done += rest;
        }
    }
}

impl DmaMemory for View {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        self.0.alloc(layout).map(Pa::new)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.0.free(first.get(), layout);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        into.fill(0);
        self.pieces(at, into.len(), |place, range| Metal.read(place, &mut into[range]));
    }

    fn write(&self, at: Pa, from: &[u8]) {
        self.pieces(at, from.len(), |place, range| Metal.write(place, &from[range]));
    }

    fn read32(&self, at: Pa) -> u32 {
        self.0.lookup(at.get()).map_or(0, |place| Metal.read32(place))
    }

    fn write32(&self, at: Pa, word: u32) {
        self.pieces(at, 4, |place, _| Metal.write32(place, word));
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        let len = usize::try_from(len_bytes).unwrap_or(0);
        self.pieces(at, len, |place, range| Metal.clean(place, range.len() as u64));
    }

    fn invalidate(&self, at: Pa, len_bytes: u64) {
        let len = usize::try_from(len_bytes).unwrap_or(0);
        self.pieces(at, len, |place, range| Metal.invalidate(place, range.len() as u64));
    }
}

/// There are no tables: nothing translates here.
impl TableMemory for View {
    fn alloc(&self, _: BlockLayout) -> Option<Pa> {
        None
    }

    fn free(&self, first: Pa, _: BlockLayout) {
        panic!("{first} is no table");
    }

    fn load(&self, at: Pa) -> u64 {
        panic!("{at} is no table");
    }

    fn store(&self, at: Pa, _: u64) {
        panic!("{at} is no table");
    }

    fn compare_exchange(&self, at: Pa, _: u64, _: u64) -> Result<u64, u64> {
        panic!("{at} is no table");
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl Barriers for View {
    fn write_barrier(&self) {
        Metal.write_barrier();
    }

    fn read_barrier(&self) {
        Metal.read_barrier();
    }

    fn full_barrier(&self) {
        Metal.full_barrier();
    }
}

impl Clock for View {
    fn now_ns(&self) -> u64 {
        Metal.now_ns()
    }

    fn relax(&self) {
        Metal.relax();
    }
}

impl Sink for View {
    fn listening(&self) -> bool {
        Metal.listening()
    }

    fn event(&self, event: &Event<'_>) {
        Metal.event(event);
    }
}

impl Platform for View {
    type Mutex = IrqSpin;
}

/// An IOMMU that passes every address as it is.
#[derive(Debug)]
struct AsTheyAre;

impl Iommu<View> for AsTheyAre {
    fn name(&self) -> &str {
        "as they are"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(IovaRange::all(), PageSizes::default().with(SizeLg2::KIB_4))
    }

    fn add_device(&self, _: &str, _: &[SourceId]) -> Result<(), AddDeviceError> {
        Ok(())
    }

    fn remove_device(&self, _: &[SourceId]) -> Result<(), SyncError> {
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<View>>, DomainError> {
        Err(DomainError::Unsupported)
    }

    fn attach(&self, _: &[SourceId], target: &Target<View>) -> Result<(), AttachError> {
        if matches!(target, Target::Domain(_)) { Err(AttachError::ForeignDomain) } else { Ok(()) }
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        Vec::new()
    }

    fn drain_events(&self, _: &mut dyn FnMut(&FaultRecord)) -> usize {
        0
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }
}
