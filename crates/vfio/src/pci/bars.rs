//! Memory behind base address registers.
//!
//! Reads and writes through the file are whole words of 32 bits, as hardware's registers want them.

use portcullis_hal::{Platform, Registers};
use portcullis_pci::Bar;
use portcullis_spec::pcie::Space;
use portcullis_spec::pcie::msi::MSIX_ENTRY_BYTES;
use portcullis_spec::vfio::RegionInfoFlags;
use portcullis_types::{SizeLg2, mutant};

use super::{PciDevice, State};
use crate::Errno;
use crate::device::{MapArea, Region};

impl<P: Platform> PciDevice<P> {
    /// A base address register's memory that a user can reach.
    fn usable_bar(&self, index: u32) -> Option<(&Bar, &dyn Registers)> {
        let registers = self.parts.bars.get(index as usize)?.as_deref()?;
        let bar = self.parts.function.bar(u8::try_from(index).ok()?)?;
        (bar.space != Space::Io && bar.placed.is_some()).then_some((bar, registers))
    }

    pub(super) fn bar_region(&self, index: u32, page: SizeLg2) -> Region {
        let Some((bar, _)) = self.usable_bar(index) else { return Region::default() };
        let mut region = Region {
            size_bytes: bar.size_bytes,
            flags: RegionInfoFlags::READ | RegionInfoFlags::WRITE,
            areas: None,
        };
        let whole_pages = bar.size_bytes.is_multiple_of(page.bytes())
            && bar.cpu_range().is_some_and(|range| range.first().is_aligned(page.bytes()));
        if !whole_pages {
            return region;
        }
        if let Some((first, end)) = self.table_in(index) {
            let (first, end) = (first & !(page.bytes() - 1), end.next_multiple_of(page.bytes()));
            let parts = [(0, first), (end, bar.size_bytes)].into_iter().filter(|(from, to)| from < to);
            let areas: alloc::vec::Vec<_> =
                parts.map(|(from, to)| MapArea { offset: from, len_bytes: to - from }).collect();
            if areas.is_empty() {
                return region;
            }
            region.areas = Some(areas);
        }
        region.flags |= RegionInfoFlags::MMAP;
        region
    }

    /// Where the MSI-X table lies in this register's memory: beginning and end.
    fn table_in(&self, index: u32) -> Option<(u64, u64)> {
        let msix = self.msix.filter(|msix| u32::from(msix.bar()) == index)?;
        let first = msix.table_offset();
        Some((first, first + u64::from(msix.vectors()) * MSIX_ENTRY_BYTES))
    }

    pub(super) fn read_bar(
        &self,
        state: &State,
        index: u32,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Errno> {
        let (registers, first, table) = self.words(state, index, offset, into.len())?;
        for (at, word) in (first..).step_by(4).zip(into.as_chunks_mut::<4>().0) {
            *word = if table.contains(&at) { [0xff; 4] } else { registers.read32(at).to_le_bytes() };
        }
        Ok(())
    }

    pub(super) fn write_bar(&self, state: &State, index: u32, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let (registers, first, table) = self.words(state, index, offset, from.len())?;
        for (at, word) in (first..).step_by(4).zip(from.as_chunks::<4>().0) {
            if !table.contains(&at) || mutant!("user-writes-the-message-table") {
                registers.write32(at, u32::from_le_bytes(*word));
            }
        }
        Ok(())
    }

    /// Registers, the offset of the first, and where the MSI-X table is among them.
    fn words(
        &self,
        state: &State,
        index: u32,
        offset: u64,
        len_bytes: usize,
    ) -> Result<(&dyn Registers, usize, core::ops::Range<usize>), Errno> {
        let (bar, registers) = self.usable_bar(index).ok_or(Errno::Einval)?;
        let end = offset.checked_add(len_bytes as u64).ok_or(Errno::Einval)?;
        if !(offset | end).is_multiple_of(4) || end > bar.size_bytes {
            return Err(Errno::Einval);
        }
        if state.lost || !state.config.command.memory_space() {
            return Err(Errno::Eio);
        }
        let place = |at: u64| usize::try_from(at).map_err(|_| Errno::Einval);
        let (table_first, table_end) = self.table_in(index).unwrap_or((0, 0));
        Ok((registers, place(offset)?, place(table_first)?..place(table_end)?))
    }
}
