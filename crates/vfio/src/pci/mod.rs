//! PCI functions for user space.
//!
//! A [`PciDevice`] is a function as a user gets it: its registers, and configuration space, interrupts and reset as far as they harm nobody
//! else.
//!
//! | file | what |
//! |---|---|
//! | `config` | configuration space: what a user reads, and what comes of what he writes |
//! | `bars` | base address registers: which parts can be mapped, read, written |
//! | `vectors` | MSI-X: programmed here, never by the user |
//! | `reset` | function level reset, and what has to be set again after it |
//!
//! # What a user cannot do
//!
//! - Say where an interrupt's message goes. The MSI-X table reads as ones and keeps nothing, its pages cannot be mapped, and the capability's
//!   bits are the kernel's; a message's address comes from the domain's own place for doorbells.
//! - Move registers: base address registers are only noted.
//! - Turn on what sends requests around the IOMMU, or forges others', or off what keeps it from its siblings: of capabilities nothing can be written, but a function's
//!   reset, after which they are as before.
//!
//! Choice: memory decoding stays on in hardware while a user has the function, because a CPU that reads what nobody answers may be
//! stopped for it; a user who turns it off finds reads and writes of the file refused.
//! For the same reason registers that are mapped into processes are taken out ([`Mappings`]) before a reset, which turns that off, and come back when the function is placed
//! again. Observed: Linux 7.3, `vfio_pci_zap_and_down_write_memory_lock`: mappings go, and who touches one waits.
//! Choice: no INTx and no MSI yet: their count is 0. Every function with NVMe has MSI-X.
//!
//! Spec: PCIe 6.0. Not here: enumeration, layouts (`portcullis-pci`, `spec::pcie`).

mod bars;
mod config;
mod reset;
mod vectors;

use alloc::sync::Arc;
use core::fmt;

use portcullis_core::device::Device;
use portcullis_hal::{Platform, Registers};
use portcullis_pci::{AddressServices, ConfigAccess, Function, Kind, MsixCapability, MsixFault};
use portcullis_spec::pcie::capability::Id;
use portcullis_spec::pcie::{COMPATIBLE_SPACE_BYTES, CONFIG_SPACE_BYTES, express};
use portcullis_spec::vfio::pci::{
    BAR5_REGION, CONFIG_REGION, ERR_IRQ, INTX_IRQ, IRQ_COUNT, MSI_IRQ, MSIX_IRQ, REGION_COUNT, REQ_IRQ,
    ROM_REGION,
};
use portcullis_spec::vfio::{DeviceInfoFlags, IrqInfoFlags, RegionInfoFlags};
use portcullis_types::{Pa, PaRange, SizeLg2};

use crate::Errno;
use crate::device::{DeviceFacts, Irqs, MapArea, Region, VfioDevice};
use crate::irqs::IrqChange;
use crate::turns::Turns;
use crate::user::EventFile;
use config::Virtual;
use reset::Saved;
use vectors::Vectors;

/// Where a function's interrupts go: the machine's interrupt controller.
pub trait Interrupts<P: Platform>: Send + Sync {
    /// From now on `to` is signalled when the function's interrupt `vector` comes. What was connected before is replaced.
    ///
    /// # Errors
    ///
    /// There are no more interrupts. What was connected before is connected still.
    fn connect(&self, device: &Device<P>, vector: u16, to: Arc<dyn EventFile>) -> Result<Doorbell, Errno>;

    /// Nobody is signalled any more.
    fn disconnect(&self, device: &Device<P>, vector: u16);
}

/// Whoever maps a function's registers into processes ([`File::mmap`](crate::File::mmap)): the embedder.
///
/// Called for one function at a time, as all of [`VfioDevice`] with no spin lock held, and in the middle of a call of the function: neither waits for one that is in
/// [`File::mmap`](crate::File::mmap), nor calls it.
///
/// A process that touches registers which were taken out faults. Whoever handles that asks [`File::mmap`](crate::File::mmap) again: it comes back when the reset is over, after
/// [`restore`](Self::restore), or is refused, if the function did not come back. A fault that began before has to find out, when it puts the registers in, that they were taken out meanwhile.
pub trait Mappings: Send + Sync {
    /// Takes the function's registers out of every process. On return no CPU reaches them any more, and none will until [`restore`](Self::restore).
    fn revoke(&self);

    /// The function's registers answer: processes that have them mapped may reach them from now on.
    fn restore(&self);
}

/// What raises an interrupt when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Where, as the CPU would write it.
    pub address: Pa,
    /// What.
    pub data: u32,
}

/// What a function is made of.
pub struct PciParts<P: Platform> {
    /// As core knows it.
    pub device: Arc<Device<P>>,
    /// As enumeration found it. Bridges above it pass requests up.
    pub function: Function,
    /// The way to its configuration space.
    pub config: Arc<dyn ConfigAccess + Send + Sync>,
    /// The way to its memory registers, for each base address register that has been placed.
    pub bars: [Option<Arc<dyn Registers>>; 6],
    /// Where its interrupts go.
    pub interrupts: Arc<dyn Interrupts<P>>,
}

/// A PCI function for user space.
pub struct PciDevice<P: Platform> {
    parts: PciParts<P>,
    msix: Option<MsixCapability>,
    /// What a reset must not turn off behind the IOMMU's back.
    services: Option<AddressServices>,
    /// Who maps its registers into processes, if that is to be told of resets.
    mappings: Option<Arc<dyn Mappings>>,
    /// Where its PCI Express capability is.
    express: Option<u16>,
    /// Where its second device control register is, if it has one.
    control_2: Option<u16>,
    /// Whether it can be reset alone.
    can_reset: bool,
    state: Turns<P, State>,
}

struct State {
    config: Virtual,
    vectors: Vectors,
    /// Whether it did not come back from a reset: its registers answer nobody, and it sends nothing, until one succeeds.
    lost: bool,
    /// What that reset has taken away.
    saved: Option<Saved>,
    /// Who is told of an error, and of the wish to have the device back.
    notices: [Option<Arc<dyn EventFile>>; 2],
}

/// Of what a user can be told besides interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The function has seen an error that cannot be corrected.
    Error,
    /// The device is wanted back.
    Request,
}

impl<P: Platform> fmt::Debug for PciDevice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciDevice").field("at", &self.parts.function.at).finish_non_exhaustive()
    }
}

impl<P: Platform> PciDevice<P> {
    /// A function that no driver drives. Nothing is written to it until a user opens it, which he cannot if it is a bridge, or nobody knows what it is.
    ///
    /// # Errors
    ///
    /// It says that its MSI-X table is where it cannot be.
    pub fn new(platform: Arc<P>, parts: PciParts<P>) -> Result<Self, MsixFault> {
        let msix = MsixCapability::find(&*parts.config, &parts.function)?;
        let express = parts.function.capabilities.find(Id::EXPRESS);
        let can_reset = express.is_some_and(|offset| {
            let word = parts.config.read32(parts.function.at, offset + express::DEVICE_CAPABILITIES);
            express::DeviceCapabilities::from(word).function_level_reset()
        });
        let control_2 = express.filter(|offset| {
            let word = parts.config.read16(parts.function.at, offset + express::CAPABILITIES);
            express::Capabilities::from(word).version() >= 2
        });
        // Behind the end of its space is something else.
        let control_2 = control_2.map(|offset| offset + express::DEVICE_CONTROL_2);
        let control_2 = control_2.filter(|&offset| offset < COMPATIBLE_SPACE_BYTES);
        let (config, vectors) = (Virtual::default(), Vectors::default());
        let state = State { config, vectors, lost: false, saved: None, notices: [None, None] };
        let state = Turns::new(platform, state);
        let (services, mappings) = (None, None);
        Ok(Self { parts, msix, services, mappings, express, control_2, can_reset, state })
    }

    /// The same, of a function whose address services somebody turns on: what is on stays on when the function is reset.
    #[must_use]
    pub fn keeping(mut self, services: AddressServices) -> Self {
        self.services = Some(services);
        self
    }

    /// The same, of a function whose registers are mapped into processes: nobody reaches them while it is reset, or when it was taken back from its user.
    #[must_use]
    pub fn mapped_by(mut self, mappings: Arc<dyn Mappings>) -> Self {
        self.mappings = Some(mappings);
        self
    }

    /// Tells the user, if he wants to be told. Answers whether he does.
    pub fn notify(&self, notice: Notice) -> bool {
        let state = self.state.take();
        let file = &state.notices[notice as usize];
        file.iter().for_each(|file| file.signal());
        file.is_some()
    }

    fn config_bytes(&self) -> u16 {
        if self.express.is_some() { CONFIG_SPACE_BYTES } else { COMPATIBLE_SPACE_BYTES }
    }
}

impl<P: Platform> VfioDevice<P> for PciDevice<P> {
    fn open(&self) -> Result<(), Errno> {
        let mut state = self.state.take();
        // What a bridge passes on is others', and of a header that is not known nobody knows what a write does.
        if self.parts.function.kind != Kind::Endpoint {
            return Err(Errno::Einval);
        }
        if !self.answers() {
            return Err(Errno::Eio);
        }
        // A register without room is at address 0, where it would answer in others' stead.
        if !self.parts.function.is_placed() {
            return Err(Errno::Einval);
        }
        if state.lost {
            self.look_at_services(&mut state);
        } else {
            state.config.before = self.before();
        }
        self.quiesce();
        if self.can_reset {
            self.reset_function(&mut state)?;
        }
        self.make_ready();
        state.config = self.virtual_config(state.config.before);
        self.mappings.iter().for_each(|mappings| mappings.restore());
        Ok(())
    }

    fn close(&self) {
        let mut state = self.state.take();
        self.mappings.iter().for_each(|mappings| mappings.revoke());
        self.quiesce();
        self.disconnect_all(&mut state);
        state.notices = [None, None];
        if self.can_reset {
            // It answers no user any more; if it answers nobody, the next one to open it is told.
            let _ = self.reset_function(&mut state);
        }
        // One that is lost may be placed nowhere.
        if !state.lost {
            self.put_back(&state);
        }
    }

    fn facts(&self) -> DeviceFacts {
        let reset = if self.can_reset { DeviceInfoFlags::RESET } else { 0 };
        DeviceFacts { flags: DeviceInfoFlags::PCI | reset, region_count: REGION_COUNT, irq_count: IRQ_COUNT }
    }

    fn region(&self, index: u32, page: SizeLg2) -> Result<Region, Errno> {
        match index {
            0..=BAR5_REGION => Ok(self.bar_region(index, page)),
            ROM_REGION => Ok(Region::default()),
            CONFIG_REGION => Ok(Region {
                size_bytes: self.config_bytes().into(),
                flags: RegionInfoFlags::READ | RegionInfoFlags::WRITE,
                areas: None,
            }),
            // Among them the old addresses of VGA, which no function here has.
            _ => Err(Errno::Einval),
        }
    }

    fn irqs(&self, index: u32) -> Result<Irqs, Errno> {
        let none = Irqs { flags: IrqInfoFlags::EVENTFD, count: 0 };
        match index {
            INTX_IRQ => {
                Ok(Irqs { flags: none.flags | IrqInfoFlags::MASKABLE | IrqInfoFlags::AUTOMASKED, ..none })
            }
            MSI_IRQ => Ok(Irqs { flags: none.flags | IrqInfoFlags::NORESIZE, ..none }),
            MSIX_IRQ => Ok(Irqs { count: self.msix.map_or(0, |msix| msix.vectors().into()), ..none }),
            ERR_IRQ if self.express.is_none() => Err(Errno::Einval),
            ERR_IRQ | REQ_IRQ => Ok(Irqs { flags: none.flags | IrqInfoFlags::NORESIZE, count: 1 }),
            _ => Err(Errno::Einval),
        }
    }

    fn set_irqs(&self, change: IrqChange) -> Result<(), Errno> {
        let mut state = self.state.take();
        match change.index {
            MSIX_IRQ => self.change_vectors(&mut state, change),
            ERR_IRQ => vectors::change_notice(&mut state.notices[Notice::Error as usize], change),
            REQ_IRQ => vectors::change_notice(&mut state.notices[Notice::Request as usize], change),
            _ => Err(Errno::Enotty),
        }
    }

    fn reset(&self) -> Result<(), Errno> {
        self.reset_for_user(&mut self.state.take())
    }

    fn read(&self, index: u32, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let state = self.state.take();
        match index {
            CONFIG_REGION => self.read_config(&state, offset, into),
            _ => self.read_bar(&state, index, offset, into),
        }
    }

    fn write(&self, index: u32, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let mut state = self.state.take();
        match index {
            CONFIG_REGION => self.write_config(&mut state, offset, from),
            _ => self.write_bar(&state, index, offset, from),
        }
    }

    fn address(&self, index: u32, area: MapArea) -> Option<PaRange> {
        if self.state.take().lost {
            return None;
        }
        let bar = self.parts.function.bar(u8::try_from(index).ok()?)?;
        PaRange::new(bar.cpu_range()?.first().checked_add(area.offset)?, area.len_bytes)
    }
}
