//! Taking mappings away.
//!
//! Version 2 takes whole mappings that lie in the range, and refuses a range that would cut one. Version 1 does nothing if the range begins inside a
//! mapping; otherwise it takes every mapping that begins in the range, whole, and says how much that was.

use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_spec::vfio::{Bitmap, UnmapDma, UnmapDmaFlags};
use portcullis_types::trace::Value;
use portcullis_types::{Iova, IovaRange};

use super::{Type1, Version};
use crate::Errno;
use crate::trace::say;
use crate::user::{UserMemory, beyond, read};

impl<P: Platform> Type1<P> {
    pub(super) fn unmap(&mut self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let request = UnmapDma::from_bytes(&read(memory, arg)?);
        let bitmap = bitmap(memory, arg, &request)?;
        let asked = self.asked(memory, &request)?;
        if let Some(bitmap) = &bitmap
            && (!self.watching || bitmap.pgsize != self.granule(memory.page_size())?.bytes())
        {
            return Err(Errno::Einval);
        }
        let taken = self.taken(asked)?;
        // The answer goes where the request came from. That this can be written is seen before anything is done.
        memory.copy_out(arg, &request.to_bytes())?;
        if let Some(bitmap) = &bitmap {
            self.tell_dirty(memory, Iova::new(request.iova), &taken, bitmap)?;
        }
        let bytes = if taken.is_empty() { 0 } else { self.drop_mappings(&taken)? };
        let fields = [
            ("iova", Value::Addr(request.iova)),
            ("len", Value::Dec(bytes)),
            ("mappings", Value::Dec(taken.len() as u64)),
        ];
        say(&*self.shared.platform, "vfio_unmap", &fields);
        memory.copy_out(arg, &UnmapDma { size: bytes, ..request }.to_bytes())?;
        Ok(0)
    }

    /// The range that is asked for.
    fn asked(&self, memory: &dyn UserMemory, request: &UnmapDma) -> Result<IovaRange, Errno> {
        let &UnmapDma { flags, iova, size, .. } = request;
        if flags & UnmapDmaFlags::ALL != 0 {
            return if iova == 0 && size == 0 { Ok(IovaRange::all()) } else { Err(Errno::Einval) };
        }
        let granule = self.granule(memory.page_size())?.bytes();
        if size == 0 || !(iova | size).is_multiple_of(granule) {
            return Err(Errno::Einval);
        }
        IovaRange::new(Iova::new(iova), size).ok_or(Errno::Eoverflow)
    }

    /// Which mappings that takes away.
    fn taken(&self, asked: IovaRange) -> Result<Vec<IovaRange>, Errno> {
        let found = || self.mappings.overlapping(asked).map(|mapping| mapping.range);
        match self.version {
            Version::V1 if found().next().is_some_and(|lowest| lowest.first() < asked.first()) => {
                Ok(Vec::new())
            }
            Version::V1 => Ok(found().collect()),
            Version::V2 if found().any(|range| !asked.covers(range)) => Err(Errno::Einval),
            Version::V2 => Ok(found().collect()),
        }
    }
}

/// Where the bitmap goes, if one is asked for.
fn bitmap(memory: &dyn UserMemory, arg: u64, request: &UnmapDma) -> Result<Option<Bitmap>, Errno> {
    let &UnmapDma { argsz, flags, size, .. } = request;
    if flags & !UnmapDmaFlags::ALL_KNOWN != 0 || (argsz as usize) < UnmapDma::BYTES {
        return Err(Errno::Einval);
    }
    if flags & UnmapDmaFlags::GET_DIRTY_BITMAP == 0 {
        return Ok(None);
    }
    if flags & UnmapDmaFlags::ALL != 0 || (argsz as usize) < UnmapDma::BYTES + Bitmap::BYTES {
        return Err(Errno::Einval);
    }
    let bitmap = Bitmap::from_bytes(&read(memory, beyond(arg, UnmapDma::BYTES)?)?);
    super::dirty::is_sound(&bitmap, size)?;
    Ok(Some(bitmap))
}
