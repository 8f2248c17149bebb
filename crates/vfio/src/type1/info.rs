//! What can be mapped, as a user is told.

use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_spec::vfio::{
    AvailableDma, Bitmap, IommuInfo, IommuInfoFlags, IovaArea, IovaRanges, Migration,
};
use portcullis_types::IovaRange;

use super::Type1;
use crate::Errno;
use crate::chain::Chain;
use crate::user::{UserMemory, read_head};

impl<P: Platform> Type1<P> {
    pub(super) fn get_info(&self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let asked = IommuInfo::from_bytes(&read_head(memory, arg, IommuInfo::MIN_BYTES)?);
        let room = asked.argsz as usize;
        if room < IommuInfo::MIN_BYTES {
            return Err(Errno::Einval);
        }
        let sizes = self.page_sizes(memory.page_size());
        let chain = self.capabilities(self.granule(memory.page_size())?.bytes());
        let (argsz, cap_offset) = chain.put(memory, arg, asked.argsz)?;
        let flags = IommuInfoFlags::PGSIZES | IommuInfoFlags::CAPS;
        let info = IommuInfo { argsz, flags, iova_pgsizes: sizes.bits(), cap_offset };
        let told = if room < IommuInfo::WITH_CAP_OFFSET_BYTES {
            IommuInfo::MIN_BYTES
        } else {
            IommuInfo::WITH_CAP_OFFSET_BYTES
        };
        memory.copy_out(arg, &info.to_bytes()[..told])?;
        Ok(0)
    }

    fn capabilities(&self, granule_bytes: u64) -> Chain {
        let mut chain = Chain::behind(IommuInfo::BYTES);
        let migration =
            Migration { flags: 0, pgsize_bitmap: granule_bytes, max_dirty_bitmap_size: Bitmap::MAX_BYTES };
        chain.add(Migration::ID, &migration.to_bytes());
        let avail = u32::try_from(self.available()).unwrap_or(u32::MAX);
        chain.add(AvailableDma::ID, &AvailableDma { avail }.to_bytes());
        let valid = self.forbidden.gaps(IovaRange::all());
        if let Ok(nr_iovas @ 1..) = u32::try_from(valid.len()) {
            let areas =
                valid.iter().map(|range| IovaArea { start: range.first().get(), end: range.last().get() });
            let mut body: Vec<u8> = IovaRanges { nr_iovas }.to_bytes().to_vec();
            body.extend(areas.flat_map(|area| area.to_bytes()));
            chain.add(IovaRanges::ID, &body);
        }
        chain
    }
}
