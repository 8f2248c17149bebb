//! The page table of a domain, in the driver's words: which format, and what STE and CD must say about it.
//!
//! Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", 5.2 "STE, Stream Table Entry", the S2 fields.

use core::marker::PhantomData;

use portcullis_core::iommu::{MapError, UnmapError};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv3::tables::{SteWord2, SteWord3};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2};

use crate::entry::Cd;
use crate::hardware::Hardware;

/// Tables that were emptied.
pub(crate) struct Retired<P>(PhantomData<P>);

impl<P: Platform> Retired<P> {
    pub(crate) fn is_empty(&self) -> bool {
        true
    }

    pub(crate) fn free(self, _: &P) {}
}

/// What an unmap took out.
pub(crate) struct Removed<P: Platform> {
    pub(crate) bytes: u64,
    pub(crate) leaf: Option<SizeLg2>,
    pub(crate) retired: Retired<P>,
}

/// A page table.
pub(crate) struct Table<P: Platform>(PhantomData<P>);

impl<P: Platform> Table<P> {
    pub(crate) fn new<R: Registers>(_: &Hardware<P, R>) -> Option<Self> {
        None
    }

    pub(crate) fn aperture<R: Registers>(_: &Hardware<P, R>) -> IovaRange {
        IovaRange::all()
    }

    pub(crate) fn page_sizes<R: Registers>(_: &Hardware<P, R>) -> PageSizes {
        PageSizes::default()
    }

    pub(crate) fn map(&mut self, _: Iova, _: Pa, _: u64, _: Prot) -> Result<(), MapError> {
        Err(MapError::NoTableMemory)
    }

    pub(crate) fn unmap(&mut self, _: IovaRange) -> Result<Removed<P>, UnmapError> {
        Err(UnmapError::NoTableMemory)
    }

    pub(crate) fn lookup(&self, _: Iova) -> Option<(Pa, Prot)> {
        None
    }

    pub(crate) fn context<R: Registers>(&self, _: &Hardware<P, R>, _: u16) -> Cd {
        [0; 8]
    }

    pub(crate) fn stage2_words<R: Registers>(&self, _: &Hardware<P, R>, _: u16) -> (SteWord2, SteWord3) {
        (SteWord2::new(), SteWord3::new())
    }
}
