//! Devices, as a user sees them: regions, interrupts, reset. What is the same for all of them; the rest is a [`VfioDevice`]'s.
//!
//! Region `n` of a device is at offset `n << 40` of its file.
//!
//! Observed: Linux 7.3, drivers/vfio/pci/vfio_pci_core.c: what is looked at in which order; where regions are in the file.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::device::Device;
use portcullis_hal::Platform;
use portcullis_spec::vfio::{
    DEVICE_GET_INFO, DEVICE_GET_IRQ_INFO, DEVICE_GET_REGION_INFO, DEVICE_RESET, DEVICE_SET_IRQS, DeviceInfo,
    IrqInfo, IrqSet, IrqSetFlags, RegionInfo, RegionInfoFlags, SparseArea, SparseMmap,
};
use portcullis_types::{PaRange, SizeLg2, mutant};

use crate::Errno;
use crate::chain::Chain;
use crate::group::GroupFile;
use crate::irqs::IrqChange;
use crate::turns::{Turn, Turns};
use crate::user::{Caller, UserMemory, beyond, read, read_head};

const REGION_SHIFT: u32 = 40;
/// Registers are copied in pieces of this size at most.
const PIECE_BYTES: usize = 256;

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// [`DeviceInfoFlags`](portcullis_spec::vfio::DeviceInfoFlags).
    pub flags: u32,
    /// Region indexes are below this.
    pub region_count: u32,
    /// Interrupt indexes are below this.
    pub irq_count: u32,
}

/// A region of a device.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Region {
    /// How many bytes; 0 if there is no such region.
    pub size_bytes: u64,
    /// [`RegionInfoFlags`], without `CAPS`.
    pub flags: u32,
    /// Which parts can be mapped, if not all of it.
    pub areas: Option<Vec<MapArea>>,
}

/// A part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapArea {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes.
    pub len_bytes: u64,
}

/// Interrupts of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Irqs {
    /// [`IrqInfoFlags`](portcullis_spec::vfio::IrqInfoFlags).
    pub flags: u32,
    /// How many.
    pub count: u32,
}

/// A device that can be handed to a user. Everything may be called from several threads, with no spin lock held; nothing that a user asks may
/// harm anybody but him.
pub trait VfioDevice<P: Platform>: Send + Sync {
    /// Makes it ready for a user, in a state that tells nothing of who had it before. Its group is attached to the user's domain.
    ///
    /// # Errors
    ///
    /// It does not answer (EIO), or there is no room for its registers (EINVAL).
    fn open(&self) -> Result<(), Errno>;

    /// Stops it: no DMA, no interrupts from now on.
    fn close(&self);

    /// What it is.
    fn facts(&self) -> DeviceFacts;

    /// A region, as a process with pages of this size can use it.
    ///
    /// # Errors
    ///
    /// There is no such index.
    fn region(&self, index: u32, page: SizeLg2) -> Result<Region, Errno>;

    /// Interrupts of one kind.
    ///
    /// # Errors
    ///
    /// There is no such index.
    fn irqs(&self, index: u32) -> Result<Irqs, Errno>;

    /// Changes what becomes of interrupts; all of those meant, or none.
    ///
    /// # Errors
    ///
    /// ENOTTY for what cannot be done with this kind; others as they come.
    fn set_irqs(&self, change: IrqChange) -> Result<(), Errno>;

    /// Resets it.
    ///
    /// # Errors
    ///
    /// EINVAL if it cannot be reset.
    fn reset(&self) -> Result<(), Errno>;

    /// Reads a part of a region. It lies within the region.
    ///
    /// # Errors
    ///
    /// EINVAL for what cannot be read so, EIO if it does not answer.
    fn read(&self, index: u32, offset: u64, into: &mut [u8]) -> Result<(), Errno>;

    /// Writes a part of a region. It lies within the region.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    fn write(&self, index: u32, offset: u64, from: &[u8]) -> Result<(), Errno>;

    /// Where the CPU finds a part of a region that can be mapped as [`region`](Self::region) says.
    fn address(&self, index: u32, area: MapArea) -> Option<PaRange>;
}

/// A device that is registered, open or not.
pub(crate) struct DeviceSlot<P: Platform> {
    device: Arc<Device<P>>,
    driver: Arc<dyn VfioDevice<P>>,
    state: Turns<P, State>,
}

#[derive(Default)]
struct State {
    opens: usize,
    /// Its driver has taken it back.
    gone: bool,
}

impl<P: Platform> DeviceSlot<P> {
    pub(crate) fn new(platform: Arc<P>, device: Arc<Device<P>>, driver: Arc<dyn VfioDevice<P>>) -> Self {
        Self { device, driver, state: Turns::new(platform, State::default()) }
    }

    pub(crate) fn device(&self) -> &Device<P> {
        &self.device
    }

    pub(crate) fn name(&self) -> &str {
        self.device.name()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.take().opens > 0
    }

    /// Opens it once more.
    pub(crate) fn open(this: &Arc<Self>) -> Result<(), Errno> {
        let mut state = this.state.take();
        if state.gone {
            return Err(Errno::Enodev);
        }
        if state.opens == 0 {
            this.driver.open()?;
        }
        state.opens += 1;
        Ok(())
    }

    fn close(&self) {
        let mut state = self.state.take();
        state.opens -= 1;
        if state.opens == 0 && !state.gone {
            self.driver.close();
        }
    }

    /// The turn, for as long as which the device is the user's.
    fn usable(&self) -> Result<Turn<'_, P, State>, Errno> {
        let state = self.state.take();
        if state.gone { Err(Errno::Enodev) } else { Ok(state) }
    }

    /// Its driver takes it back, whoever has it open.
    pub(crate) fn retire(&self) {
        let mut state = self.state.take();
        if !state.gone && state.opens > 0 && !mutant!("device-taken-back-and-not-stopped") {
            self.driver.close();
        }
        state.gone = true;
    }

    /// The same, if nobody has.
    pub(crate) fn retire_unless_open(&self) -> bool {
        let mut state = self.state.take();
        if state.opens == 0 {
            state.gone = true;
        }
        state.opens == 0
    }
}

/// A device's open file. Holds its group's file open.
pub(crate) struct DeviceFile<P: Platform> {
    slot: Arc<DeviceSlot<P>>,
    group: Arc<GroupFile<P>>,
}

impl<P: Platform> DeviceFile<P> {
    /// The file of a device that has been [opened](DeviceSlot::open) for it, and that its group has counted.
    pub(crate) fn new(slot: Arc<DeviceSlot<P>>, group: Arc<GroupFile<P>>) -> Self {
        Self { slot, group }
    }

    pub(crate) fn ioctl(&self, caller: &dyn Caller<P>, request: u32, arg: u64) -> Result<u64, Errno> {
        let memory = &**caller.memory();
        drop(self.slot.usable()?);
        match request {
            DEVICE_GET_INFO => self.get_info(memory, arg),
            DEVICE_GET_REGION_INFO => self.get_region_info(memory, arg),
            DEVICE_GET_IRQ_INFO => self.get_irq_info(memory, arg),
            DEVICE_SET_IRQS => self.set_irqs(caller, arg),
            DEVICE_RESET => {
                let _turn = self.slot.usable()?;
                self.slot.driver.reset().map(|()| 0)
            }
            _ => Err(Errno::Enotty),
        }
    }

    fn get_info(&self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let asked = DeviceInfo::from_bytes(&read_head(memory, arg, DeviceInfo::MIN_BYTES)?);
        let room = asked.argsz as usize;
        if room < DeviceInfo::MIN_BYTES {
            return Err(Errno::Einval);
        }
        let DeviceFacts { flags, region_count, irq_count } = self.slot.driver.facts();
        let info =
            DeviceInfo { flags, num_regions: region_count, num_irqs: irq_count, cap_offset: 0, ..asked };
        memory.copy_out(arg, &info.to_bytes()[..room.min(DeviceInfo::BYTES)])?;
        Ok(0)
    }

    fn get_region_info(&self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let asked = RegionInfo::from_bytes(&read(memory, arg)?);
        if (asked.argsz as usize) < RegionInfo::BYTES {
            return Err(Errno::Einval);
        }
        let region = self.slot.driver.region(asked.index, memory.page_size())?;
        let mut chain = Chain::behind(RegionInfo::BYTES);
        if let Some(areas) = &region.areas {
            chain.add(SparseMmap::ID, &sparse(areas));
        }
        let caps = if chain.is_empty() { 0 } else { RegionInfoFlags::CAPS };
        let (argsz, cap_offset) = chain.put(memory, arg, asked.argsz)?;
        let info = RegionInfo {
            argsz,
            flags: region.flags | caps,
            cap_offset,
            size: region.size_bytes,
            offset: u64::from(asked.index) << REGION_SHIFT,
            ..asked
        };
        memory.copy_out(arg, &info.to_bytes())?;
        Ok(0)
    }

    fn get_irq_info(&self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let asked = IrqInfo::from_bytes(&read(memory, arg)?);
        if (asked.argsz as usize) < IrqInfo::BYTES {
            return Err(Errno::Einval);
        }
        let Irqs { flags, count } = self.slot.driver.irqs(asked.index)?;
        memory.copy_out(arg, &IrqInfo { flags, count, ..asked }.to_bytes())?;
        Ok(0)
    }

    fn set_irqs(&self, caller: &dyn Caller<P>, arg: u64) -> Result<u64, Errno> {
        let set = IrqSet::from_bytes(&read(&**caller.memory(), arg)?);
        let unknown = set.flags & !IrqSetFlags::ALL_KNOWN != 0;
        if (set.argsz as usize) < IrqSet::BYTES || unknown {
            return Err(Errno::Einval);
        }
        let available = self.slot.driver.irqs(set.index)?.count;
        // Without the turn: files are looked up, and let go, which may close one of this device's.
        let change = IrqChange::read(caller, arg, &set, available)?;
        let _turn = self.slot.usable()?;
        self.slot.driver.set_irqs(change)?;
        Ok(0)
    }

    pub(crate) fn read(
        &self,
        caller: &dyn Caller<P>,
        at: u64,
        len_bytes: u64,
        offset: u64,
    ) -> Result<u64, Errno> {
        let memory = &**caller.memory();
        self.pieces(memory, len_bytes, offset, |index, offset, done, piece| {
            self.slot.driver.read(index, offset, piece)?;
            Ok(memory.copy_out(beyond(at, done)?, piece)?)
        })
    }

    pub(crate) fn write(
        &self,
        caller: &dyn Caller<P>,
        at: u64,
        len_bytes: u64,
        offset: u64,
    ) -> Result<u64, Errno> {
        let memory = &**caller.memory();
        self.pieces(memory, len_bytes, offset, |index, offset, done, piece| {
            memory.copy_in(beyond(at, done)?, piece)?;
            self.slot.driver.write(index, offset, piece)
        })
    }

    /// Goes through a part of a region, as far as the region reaches: index, offset, how many bytes are done, and a piece. Where a later piece is refused, what came
    /// before it is the answer: it has been read or written.
    fn pieces(
        &self,
        memory: &dyn UserMemory,
        len_bytes: u64,
        offset: u64,
        mut each: impl FnMut(u32, u64, usize, &mut [u8]) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        let _turn = self.slot.usable()?;
        let (index, first) = split(offset)?;
        let region = self.slot.driver.region(index, memory.page_size())?;
        let room = region.size_bytes.checked_sub(first).filter(|&room| room > 0).ok_or(Errno::Einval)?;
        let wanted = usize::try_from(len_bytes.min(room)).map_err(|_| Errno::Einval)?;
        let mut piece = [0; PIECE_BYTES];
        let mut done = 0;
        while done < wanted {
            let piece = &mut piece[..PIECE_BYTES.min(wanted - done)];
            match each(index, first + done as u64, done, piece) {
                Ok(()) => done += piece.len(),
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done as u64)
    }

    pub(crate) fn mmap(&self, caller: &dyn Caller<P>, len_bytes: u64, offset: u64) -> Result<PaRange, Errno> {
        let _turn = self.slot.usable()?;
        let page = caller.memory().page_size();
        let (index, first) = split(offset)?;
        let region = self.slot.driver.region(index, page)?;
        let area = MapArea { offset: first, len_bytes };
        let whole = (first | len_bytes).is_multiple_of(page.bytes()) && len_bytes > 0;
        if !whole || region.flags & RegionInfoFlags::MMAP == 0 || !region.can_map(area) {
            return Err(Errno::Einval);
        }
        self.slot.driver.address(index, area).ok_or(Errno::Einval)
    }
}

impl<P: Platform> Drop for DeviceFile<P> {
    fn drop(&mut self) {
        self.slot.close();
        self.group.device_closed();
    }
}

impl Region {
    fn can_map(&self, wanted: MapArea) -> bool {
        let all = [MapArea { offset: 0, len_bytes: self.size_bytes }];
        let areas = self.areas.as_deref().unwrap_or(&all);
        let ends = |area: MapArea| Some((area.offset, area.offset.checked_add(area.len_bytes)?));
        let Some((first, end)) = ends(wanted) else { return false };
        areas.iter().filter_map(|&area| ends(area)).any(|(from, to)| from <= first && end <= to)
    }
}

fn split(offset: u64) -> Result<(u32, u64), Errno> {
    let index = u32::try_from(offset >> REGION_SHIFT).map_err(|_| Errno::Einval)?;
    Ok((index, offset & ((1 << REGION_SHIFT) - 1)))
}

fn sparse(areas: &[MapArea]) -> Vec<u8> {
    let count = u32::try_from(areas.len()).expect("a region has a few areas");
    let areas = areas.iter().map(|&MapArea { offset, len_bytes }| SparseArea { offset, size: len_bytes });
    let mut bytes = SparseMmap { nr_areas: count }.to_bytes().to_vec();
    bytes.extend(areas.flat_map(|area| area.to_bytes()));
    bytes
}
