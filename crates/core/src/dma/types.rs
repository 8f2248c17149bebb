//! What the DMA API hands out and takes back: directions, mappings, buffers, and why something was refused.
//!
//! A [`Mapping`], an [`SgMapping`] and a [`Coherent`] are the driver's receipt for what the device was given. They cannot be
//! copied, so what they stand for cannot be given back twice; giving one to the wrong device is refused.

use alloc::boxed::Box;
use core::fmt;

use portcullis_hal::BlockLayout;
use portcullis_types::{Iova, IovaRange, Pa, PaRange, Perms};

use crate::iommu::{MapError, SyncError, UnmapError};

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device reads the buffer.
    ToDevice,
    /// The device writes the buffer.
    FromDevice,
    /// The device does both.
    Bidirectional,
}

impl Direction {
    /// What the device must be allowed to do.
    pub const fn perms(self) -> Perms {
        match self {
            Self::ToDevice => Perms::READ,
            Self::FromDevice => Perms::WRITE,
            Self::Bidirectional => Perms::READ_WRITE,
        }
    }

    /// Whether the device may write, so that the CPU must not trust what it has cached.
    pub const fn device_writes(self) -> bool {
        !matches!(self, Self::ToDevice)
    }

    /// The word that traces use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToDevice => "to_device",
            Self::FromDevice => "from_device",
            Self::Bidirectional => "bidirectional",
        }
    }
}

/// Which domain a receipt belongs to: the domain's place in memory, which is its own while the receipt is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) usize);

/// A buffer that a device was given: the receipt of [`DmaHandle::map_single`](super::DmaHandle::map_single).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the device reaches the buffer until this is unmapped"]
pub struct Mapping {
    pub(crate) range: IovaRange,
    pub(crate) buffer: PaRange,
    pub(crate) direction: Direction,
    pub(crate) owner: Owner,
}

impl Mapping {
    /// What to tell the device: where the buffer's first byte is for it.
    pub fn iova(&self) -> Iova {
        self.range.first()
    }

    /// The addresses at which the device finds the buffer, byte for byte.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// The buffer.
    pub fn buffer(&self) -> PaRange {
        self.buffer
    }

    /// Which way data goes.
    pub fn direction(&self) -> Direction {
        self.direction
    }
}

/// A run of addresses that a device was given, for one or more of a scatter list's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What to tell the device.
    pub iova: Iova,
    /// How many bytes.
    pub len_bytes: u64,
}

/// A scatter list that a device was given: the receipt of [`DmaHandle::map_sg`](super::DmaHandle::map_sg).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the device reaches the buffers until this is unmapped"]
pub struct SgMapping {
    /// What was taken of the IOVA space; none where addresses are physical.
    pub(crate) taken: Option<IovaRange>,
    /// How much of it is mapped: the space between buffers is not.
    pub(crate) mapped_bytes: u64,
    pub(crate) segments: Box<[Segment]>,
    pub(crate) buffers: Box<[PaRange]>,
    pub(crate) direction: Direction,
    pub(crate) owner: Owner,
}

impl SgMapping {
    /// What to tell the device, in the order of the list: as many segments as buffers, or fewer where neighbours were joined.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The buffers, as they were given.
    pub fn buffers(&self) -> &[PaRange] {
        &self.buffers
    }

    /// Which way data goes.
    pub fn direction(&self) -> Direction {
        self.direction
    }
}

/// A zeroed buffer that CPU and device share for long, such as a queue: the receipt of
/// [`DmaHandle::alloc_coherent`](super::DmaHandle::alloc_coherent).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the memory is lost unless it is given back with free_coherent"]
pub struct Coherent {
    pub(crate) range: IovaRange,
    pub(crate) pa: Pa,
    pub(crate) layout: BlockLayout,
    pub(crate) owner: Owner,
}

impl Coherent {
    /// What to tell the device.
    pub fn iova(&self) -> Iova {
        self.range.first()
    }

    /// Where the CPU finds it; physically contiguous.
    pub fn pa(&self) -> Pa {
        self.pa
    }

    /// How many bytes were asked for.
    pub fn len_bytes(&self) -> u64 {
        self.range.last().get() - self.range.first().get() + 1
    }
}

/// An MSI as a device is to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where to.
    pub address: Iova,
    /// What.
    pub data: u32,
}

/// Why a buffer was not given to the device. Then nothing of it was, but for [`NotUndone`](Self::NotUndone) and [`StillMapped`](Self::StillMapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DmaMapError {
    /// The length is 0, the end wraps, or the list is empty. EINVAL.
    BadLength,
    /// A buffer is longer than the device takes in one segment, or crosses its boundary where it cannot be moved. EINVAL.
    Segment(PaRange),
    /// Addresses are physical here, and the device's mask or bus does not reach this one. EIO.
    Unreachable {
        /// The address.
        pa: Pa,
        /// The last address that the device reaches.
        limit: Iova,
    },
    /// No free addresses that the device reaches. ENOMEM.
    NoIova {
        /// How many bytes were wanted.
        len_bytes: u64,
        /// The last address that the device reaches.
        limit: Iova,
    },
    /// No memory for the buffer. ENOMEM.
    NoMemory,
    /// The table refused.
    Map(MapError),
    /// The table refused, and then did not let go of what had been mapped until then, as one does that was corrupted: **the device may reach the buffer for as long as
    /// there is the domain.** No flush changes that. The addresses are kept back, and so is the memory of a coherent buffer. EIO.
    StillMapped(MapError),
    /// The table refused, and hardware did not confirm that it forgot what had been mapped until then, or for a moment: **the device may still reach the buffer.** The
    /// addresses are kept back; the buffer is safe to reuse only after [`DmaHandle::flush`](super::DmaHandle::flush) has succeeded. Not for a coherent buffer, whose
    /// memory is kept back as well. EIO.
    NotUndone(MapError),
}

/// Why a buffer was not taken from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DmaUnmapError {
    /// The range is not one that was mapped here, or it was unmapped before. A caught programming error; nothing changed. EINVAL.
    NotMapped(IovaRange),
    /// The receipt is of another domain. A caught programming error; nothing changed. EINVAL.
    Foreign,
    /// The table refused; everything is mapped as before. Try again.
    Unmap(UnmapError),
    /// Hardware did not confirm that it forgot the mapping: **the device may still reach the buffer.** The addresses are kept
    /// back, and so is the memory of a coherent buffer, until a later flush succeeds; a streaming buffer is safe to reuse only
    /// after [`DmaHandle::flush`](super::DmaHandle::flush) has succeeded. EIO.
    NotFlushed(SyncError),
    /// It is unmapped, and flushed or waiting for that as any other, but the table held fewer bytes of it than were mapped: somebody else took some out. EIO.
    Torn {
        /// How many bytes the table held.
        found_bytes: u64,
        /// How many there should have been.
        mapped_bytes: u64,
    },
}

/// An unmap that was refused, with the receipt where there is still something mapped under it.
#[derive(PartialEq, Eq)]
pub struct Refused<M> {
    /// Why.
    pub error: DmaUnmapError,
    /// What is mapped as before and can be tried again; none if it is gone.
    pub mapping: Option<M>,
}

impl<M> fmt::Debug for Refused<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (still mapped: {})", self.error, self.mapping.is_some())
    }
}

/// Why there is no message for a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MsiError {
    /// The device is blocked: its messages would be aborted. EINVAL.
    Blocked,
    /// The domain is the user's and has no place for doorbells. EINVAL.
    NoCookie,
    /// Every address for doorbells that the device reaches is taken or reserved. ENOSPC.
    NoIova {
        /// The last address that the device reaches.
        limit: Iova,
    },
    /// The table refused.
    Map(MapError),
}

/// What the DMA API did on a domain so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DmaStats {
    /// Mappings made: single buffers, scatter lists, coherent buffers.
    pub maps: u64,
    /// Mappings taken away.
    pub unmaps: u64,
    /// Invalidations that completed.
    pub syncs: u64,
    /// Invalidations that failed.
    pub failed_syncs: u64,
    /// Ranges that are kept back because an invalidation failed. Goes down when a later flush succeeds.
    pub quarantined: u64,
    /// Ranges that wait for the next flush in lazy mode.
    pub waiting: u64,
    /// Ranges that are in use: mappings, and doorbells' pages.
    pub live: u64,
}
