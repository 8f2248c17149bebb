//! Which windows there are, and can be, as a user is told.

use portcullis_core::table_group::TableGroupInfo;
use portcullis_hal::Platform;
use portcullis_spec::vfio::{SpaprInfo, SpaprInfoFlags};

use super::{Spapr, Version};
use crate::Errno;
use crate::user::{UserMemory, read_head};

impl<P: Platform> Spapr<P> {
    pub(super) fn get_info(&self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let limits = self.limits().ok_or(Errno::Enxio)?;
        let asked = SpaprInfo::from_bytes(&read_head(memory, arg, SpaprInfo::MIN_BYTES)?);
        let room = asked.argsz as usize;
        if room < SpaprInfo::MIN_BYTES {
            return Err(Errno::Einval);
        }
        let info = SpaprInfo { argsz: asked.argsz, ..self.told(&limits) };
        let told = if room < SpaprInfo::BYTES { SpaprInfo::MIN_BYTES } else { SpaprInfo::BYTES };
        memory.copy_out(arg, &info.to_bytes()[..told])?;
        Ok(0)
    }

    fn told(&self, limits: &TableGroupInfo) -> SpaprInfo {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let window = SpaprInfo {
            dma32_window_start: narrow(limits.window32.first().get()),
            dma32_window_size: narrow(limits.window32.len_bytes().unwrap_or(u64::MAX)),
            ..SpaprInfo::default()
        };
        if self.version == Version::V1 {
            return window;
        }
        SpaprInfo {
            flags: SpaprInfoFlags::DDW,
            pgsizes: limits.page_sizes.bits(),
            max_windows: narrow(limits.windows.iter().flatten().count() as u64),
            levels: limits.max_levels.into(),
            ..window
        }
    }
}
