//! Which pages devices have written.
//!
//! No IOMMU here tells, so every page that a device could have written counts as written, each time anew.
//!
//! Choice: pages that devices can only read never count; Linux says of those, too, that they are written.

use portcullis_hal::Platform;
use portcullis_spec::vfio::{Bitmap, DirtyPages, DirtyPagesFlags, DirtyRange};
use portcullis_types::{Iova, IovaRange, Perms};

use super::{Type1, Version};
use crate::Errno;
use crate::user::{UserMemory, beyond, read};

/// A bitmap is changed in pieces of this size at most.
const PIECE_BYTES: usize = 256;

impl<P: Platform> Type1<P> {
    pub(super) fn dirty_pages(&mut self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        if self.version == Version::V1 {
            return Err(Errno::Eacces);
        }
        let DirtyPages { argsz, flags } = DirtyPages::from_bytes(&read(memory, arg)?);
        if (argsz as usize) < DirtyPages::BYTES {
            return Err(Errno::Einval);
        }
        match flags {
            DirtyPagesFlags::START => {
                self.granule(memory.page_size())?;
                self.watching = true;
            }
            DirtyPagesFlags::STOP => self.watching = false,
            DirtyPagesFlags::GET_BITMAP => self.get_bitmap(memory, arg, argsz as usize)?,
            // None, several, or unknown ones.
            _ => return Err(Errno::Einval),
        }
        Ok(0)
    }

    fn get_bitmap(&self, memory: &dyn UserMemory, arg: u64, argsz: usize) -> Result<(), Errno> {
        if argsz < DirtyPages::BYTES + DirtyRange::BYTES {
            return Err(Errno::Einval);
        }
        let asked = DirtyRange::from_bytes(&read(memory, beyond(arg, DirtyPages::BYTES)?)?);
        let (bitmap, granule) = (asked.bitmap(), self.granule(memory.page_size())?.bytes());
        let range = IovaRange::new(Iova::new(asked.iova), asked.size).ok_or(Errno::Einval)?;
        is_sound(&bitmap, asked.size)?;
        if bitmap.pgsize != granule || !(asked.iova | asked.size).is_multiple_of(granule) || !self.watching {
            return Err(Errno::Einval);
        }
        let cut = [range.first(), range.last()].into_iter().filter_map(|end| self.mappings.at(end));
        if cut.into_iter().any(|mapping| !range.covers(mapping.range)) {
            return Err(Errno::Einval);
        }
        let within: alloc::vec::Vec<_> =
            self.mappings.overlapping(range).map(|mapping| mapping.range).collect();
        self.tell_dirty(memory, range.first(), &within, &bitmap)
    }

    /// Sets the bits of written pages of `mappings` in a bitmap that begins with the page at `base`. Other bits stay.
    pub(super) fn tell_dirty(
        &self,
        memory: &dyn UserMemory,
        base: Iova,
        mappings: &[IovaRange],
        bitmap: &Bitmap,
    ) -> Result<(), Errno> {
        let shift = bitmap.pgsize.trailing_zeros();
        let page = |iova: Iova| (iova.get() - base.get()) >> shift;
        for range in mappings {
            let mapping = self.mappings.at(range.first());
            if mapping.is_some_and(|mapping| mapping.perms.contains(Perms::WRITE)) {
                set_bits(memory, bitmap.data, page(range.first()), page(range.last()))?;
            }
        }
        Ok(())
    }
}

/// That the bitmap has room for `len_bytes` bytes of pages, and an end.
pub(super) fn is_sound(bitmap: &Bitmap, len_bytes: u64) -> Result<(), Errno> {
    let &Bitmap { pgsize, size, data } = bitmap;
    // Other page sizes than the smallest are refused, too, once that is known.
    if !pgsize.is_power_of_two() {
        return Err(Errno::Einval);
    }
    let pages = len_bytes >> pgsize.trailing_zeros();
    let ends = data.checked_add(size).is_some();
    if pages == 0
        || pages > Bitmap::MAX_PAGES
        || size > Bitmap::MAX_BYTES
        || size < Bitmap::bytes_for(pages)
        || !ends
    {
        return Err(Errno::Einval);
    }
    Ok(())
}

/// Sets bits `first..=last` of a bitmap in user memory.
fn set_bits(memory: &dyn UserMemory, data: u64, first: u64, last: u64) -> Result<(), Errno> {
    let (mut at, end) = (first / 8, last / 8);
    let mut piece = [0; PIECE_BYTES];
    while at <= end {
        let count = (end - at + 1).min(PIECE_BYTES as u64);
        let piece = &mut piece[..usize::try_from(count).expect("at most a piece")];
        let place = data.checked_add(at).ok_or(Errno::Efault)?;
        memory.copy_in(place, piece)?;
        for (byte, index) in piece.iter_mut().zip(at..) {
            let from = first.saturating_sub(index * 8).min(8);
            let to = (last - index * 8).min(7);
            *byte |= (from..=to).fold(0, |bits, bit| bits | 1 << bit);
        }
        memory.copy_out(place, piece)?;
        at += count;
    }
    Ok(())
}
