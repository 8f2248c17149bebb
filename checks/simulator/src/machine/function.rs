//! A device as VFIO has it: a PCI function with registers, MSI-X and a reset of its own, driven by VFIO's own driver of such functions.
//!
//! The function's words are by hand. Spec: PCIe 6.0, 7.5.1 "PCI-Compatible Configuration Registers", 7.5.3 "PCI Express Capability Structure", 7.7.2 "MSI-X
//! Capability and Table Structure".
//! Not here: how it moves bytes (`engine`), what a user can do to it (`life::vfio`).

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis::core::device::Device;
use portcullis::core::iommu::SyncError;
use portcullis::core::table_group::Slot;
use portcullis::hal::Registers;
use portcullis::pci::{Bdf, ConfigAccess, HostBridge, HostWindow, Space, enumerate};
use portcullis::types::{Pa, PaRange, SizeLg2};
use portcullis::vfio::pci::{Doorbell, Interrupts, PciDevice, PciParts};
use portcullis::vfio::{DeviceFacts, Errno, EventFile, IrqChange, Irqs, MapArea, Region, VfioDevice};

use super::engine::Engine;
use super::platform::SimPlatform;
use crate::hub::locked;

/// Interrupts of a function.
const VECTORS: usize = 4;
/// Bytes behind its base address register: a page of registers, one of the MSI-X table, and the pending bits.
pub(crate) const BAR_BYTES: u32 = 0x4000;
/// Where the table begins.
const TABLE: usize = 0x2000;
/// Where the CPU finds them.
const BAR_PA: u64 = 0x10_0000_0000;
/// What raises the interrupt of the first vector.
const FIRST_DATA: u32 = 0x100;
/// Offsets of its configuration space: command, base address registers, capabilities.
const COMMAND: usize = 0x04;
const BAR: usize = 0x10;
const EXPRESS: usize = 0x40;
const MSIX: usize = 0x80;
const BUS_MASTER: u32 = 4;
const MEMORY_SPACE: u32 = 2;

/// Where interrupts of a machine are raised.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bell {
    /// By an interrupt controller in memory, which devices reach through a page of their domain.
    Mapped,
    /// By the bridge itself, which takes messages before it translates.
    Decoded,
}

/// Where the kernel maps doorbells for whoever maps by himself. Observed: Linux 7.3, MSI_IOVA_BASE and MSI_IOVA_LENGTH of arm-smmu-v3.c.
pub(crate) const DOORBELLS: core::ops::Range<u64> = 0x0800_0000..0x0810_0000;
/// The page in which the interrupt controller takes messages.
pub(crate) const DOORBELL_PAGE: u64 = 0x0808_0000;

impl Bell {
    /// As the CPU would write it.
    fn address(self) -> u64 {
        match self {
            Self::Mapped => DOORBELL_PAGE + 0x40,
            // Observed: QEMU 7.2, pnv_phb3_translate_iommu: messages of 64 bits have a top nibble of 1.
            Self::Decoded => 0x1000_0000_0000_0040,
        }
    }

    /// Whether a function that writes there rings it.
    fn is_rung_at(self, at: u64) -> bool {
        match self {
            Self::Mapped => DOORBELLS.contains(&at) && at & 0xfff == self.address() & 0xfff,
            Self::Decoded => at == self.address(),
        }
    }
}

/// The function as hardware.
struct Card {
    bell: Bell,
    engine: Arc<Engine>,
    state: Mutex<State>,
}

struct State {
    config: Vec<u32>,
    writable: Vec<u32>,
    registers: Vec<u32>,
    lines: BTreeMap<u16, Arc<dyn EventFile>>,
    resets: u64,
    /// What was done to it that nobody should.
    wrong: Option<String>,
}

impl State {
    fn command(&self) -> u32 {
        self.config[COMMAND / 4]
    }

    fn msix_is_on(&self) -> bool {
        self.config[MSIX / 4] >> 30 == 0b10
    }

    fn is_placed(&self) -> bool {
        (self.config[BAR / 4] & !0xf, self.config[BAR / 4 + 1]) == (0, 0x10)
    }

    /// An entry of the table: address, data, and whether it is masked.
    fn entry(&self, vector: usize) -> (u64, u32, bool) {
        let words = &self.registers[TABLE / 4 + 4 * vector..][..4];
        (u64::from(words[1]) << 32 | u64::from(words[0]), words[2], words[3] & 1 == 1)
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.config[COMMAND / 4] &= 0xffff_0000;
        (self.config[BAR / 4], self.config[BAR / 4 + 1]) = (4, 0);
        self.config[EXPRESS / 4 + 2] = 0x0000_2810;
        self.config[MSIX / 4] &= 0x07ff_ffff;
        self.registers.fill(0);
        (0..VECTORS).for_each(|vector| self.registers[TABLE / 4 + 4 * vector + 3] = 1);
    }

    /// The CPU reaches for a register. Where nobody answers, that is a mistake of whoever made it.
    fn reached(&mut self, offset: usize) -> bool {
        let there = self.command() & MEMORY_SPACE != 0 && self.is_placed();
        if !there {
            let command = self.command();
            self.wrong.get_or_insert_with(|| {
                format!("register {offset:#x} is reached for, and nobody answers: command {command:#x}")
            });
        }
        there
    }
}

impl Card {
    fn new(engine: Arc<Engine>, bell: Bell) -> Arc<Self> {
        let (mut config, mut writable) = (vec![0; 1024], vec![0; 1024]);
        config[0] = 0x0010_1b36;
        config[COMMAND / 4] = 0x0010_0000;
        writable[COMMAND / 4] = 0x0000_0547;
        config[2] = 0x0108_0202;
        // 64 bits, not prefetchable.
        config[BAR / 4] = 0x4;
        writable[BAR / 4] = !(BAR_BYTES - 1);
        writable[BAR / 4 + 1] = u32::MAX;
        config[0x34 / 4] = 0x40;
        // PCI Express, an endpoint with a function level reset; the next capability is MSI-X, the last.
        config[EXPRESS / 4] = 0x0002_8010;
        config[EXPRESS / 4 + 1] = 0x1000_8000;
        config[EXPRESS / 4 + 2] = 0x0000_2810;
        writable[EXPRESS / 4 + 2] = 0x0000_7fff;
        config[MSIX / 4] = 0x0003_0011;
        writable[MSIX / 4] = 0xc000_0000;
        config[MSIX / 4 + 1] = 0x0000_2000;
        config[MSIX / 4 + 2] = 0x0000_3000;
        let registers = vec![0; BAR_BYTES as usize / 4];
        let mut state = State { config, writable, registers, lines: BTreeMap::new(), resets: 0, wrong: None };
        state.reset();
        Arc::new(Self { bell, engine, state: Mutex::new(state) })
    }

    /// Whether somebody asks for this function, the only one of its bus.
    fn is_it(at: Bdf) -> bool {
        (at.device(), at.function()) == (1, 0)
    }
}

impl ConfigAccess for Card {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        if Self::is_it(at) { locked(&self.state).config[usize::from(offset / 4)] } else { u32::MAX }
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        if !Self::is_it(at) {
            return;
        }
        let mut state = locked(&self.state);
        let place = usize::from(offset / 4);
        let writable = state.writable[place];
        state.config[place] = state.config[place] & !writable | value & writable;
        // Initiate Function Level Reset.
        if usize::from(offset) == EXPRESS + 8 && value & 0x8000 != 0 {
            state.reset();
            drop(state);
            self.engine.reset();
        }
    }
}

impl Registers for Card {
    fn read32(&self, offset: usize) -> u32 {
        let mut state = locked(&self.state);
        if state.reached(offset) { state.registers[offset / 4] } else { u32::MAX }
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut state = locked(&self.state);
        if state.reached(offset) {
            state.registers[offset / 4] = value;
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        let [low, high] = [offset, offset + 4].map(|at| u64::from(Registers::read32(self, at)));
        low | high << 32
    }

    fn write64(&self, offset: usize, value: u64) {
        let half = |word: u64| u32::try_from(word & 0xffff_ffff).expect("32 bits");
        Registers::write32(self, offset, half(value));
        Registers::write32(self, offset + 4, half(value >> 32));
    }
}

impl Interrupts<SimPlatform> for Card {
    fn connect(
        &self,
        _: &Device<SimPlatform>,
        vector: u16,
        to: Arc<dyn EventFile>,
    ) -> Result<Doorbell, Errno> {
        locked(&self.state).lines.insert(vector, to);
        Ok(Doorbell { address: Pa::new(self.bell.address()), data: FIRST_DATA + u32::from(vector) })
    }

    fn disconnect(&self, _: &Device<SimPlatform>, vector: u16) {
        locked(&self.state).lines.remove(&vector);
    }
}

/// A device.
pub(crate) struct SimFunction {
    card: Arc<Card>,
    driver: PciDevice<SimPlatform>,
    open: AtomicBool,
}

impl SimFunction {
    pub(crate) fn new(
        engine: Arc<Engine>,
        platform: Arc<SimPlatform>,
        device: Arc<Device<SimPlatform>>,
        bell: Bell,
    ) -> Result<Arc<Self>, String> {
        let card = Card::new(engine, bell);
        let window = HostWindow {
            space: Space::Memory64,
            prefetchable: false,
            bus_first: BAR_PA,
            cpu_first: Pa::new(BAR_PA),
            size_bytes: BAR_BYTES.into(),
        };
        let bridge = HostBridge { segment: 0, buses: 0..=0, windows: vec![window], segment_bytes: 1 };
        let topology = enumerate(&*card, &bridge);
        let function = topology.functions.into_iter().next().ok_or("no function is found")?;
        let parts = PciParts {
            device,
            function,
            config: card.clone(),
            bars: [Some(card.clone()), None, None, None, None, None],
            interrupts: card.clone(),
        };
        let driver = PciDevice::new(platform, parts).map_err(|fault| format!("MSI-X: {fault:?}"))?;
        Ok(Arc::new(Self { card, driver, open: AtomicBool::new(false) }))
    }

    /// Whether a user has it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// How many interrupts go somewhere.
    pub(crate) fn connected(&self) -> usize {
        locked(&self.card.state).lines.len()
    }

    /// How often it was reset.
    pub(crate) fn resets(&self) -> u64 {
        locked(&self.card.state).resets
    }

    /// An interrupt goes somewhere, and nobody asked for it.
    #[cfg(test)]
    pub(crate) fn connect(&self, to: Arc<dyn EventFile>) {
        locked(&self.card.state).lines.insert(0, to);
    }

    /// A word of the table is the user's, behind everybody's back.
    #[cfg(test)]
    pub(crate) fn forge_message(&self) {
        let mut state = locked(&self.card.state);
        state.config[MSIX / 4] |= 1 << 31;
        state.registers[TABLE / 4..][..4].copy_from_slice(&[0x5a5a_0000, 0, 0x5a, 0]);
    }

    /// Raises an interrupt, if it may: whoever waits for its message hears of it.
    pub(crate) fn raise(&self, vector: usize) {
        let state = locked(&self.card.state);
        let (_, data, masked) = state.entry(vector % VECTORS);
        let line = data.checked_sub(FIRST_DATA).and_then(|vector| u16::try_from(vector).ok());
        let to =
            line.filter(|_| !masked && state.msix_is_on()).and_then(|line| state.lines.get(&line).cloned());
        drop(state);
        if let Some(to) = to {
            to.signal();
        }
    }

    /// What is wrong with it as it is now: a message that goes where a user says, a register that nobody answers for; closed, that it sends on.
    pub(crate) fn what_is_wrong(&self) -> Option<String> {
        let state = locked(&self.card.state);
        if let Some(wrong) = &state.wrong {
            return Some(wrong.clone());
        }
        if !state.is_placed() && self.is_open() {
            return Some(format!("it is not where it was: {:#x?}", &state.config[BAR / 4..][..2]));
        }
        if state.msix_is_on() {
            for vector in 0..VECTORS {
                let (address, data, masked) = state.entry(vector);
                let line = u16::try_from(vector).ok();
                let told = line.map(|line| FIRST_DATA + u32::from(line)) == Some(data);
                let ours = self.card.bell.is_rung_at(address) && told;
                let wanted = line.is_some_and(|line| state.lines.contains_key(&line));
                let lawful = masked || ours && wanted;
                if !lawful {
                    return Some(format!(
                        "vector {vector} sends {data:#x} to {address:#x}, connected {wanted}"
                    ));
                }
                if wanted && masked {
                    return Some(format!("vector {vector} is connected, and masked"));
                }
            }
        }
        let sends = state.command() & BUS_MASTER != 0 || state.msix_is_on() || !state.lines.is_empty();
        (!self.is_open() && sends).then(|| format!("it is closed and sends: command {:#x}", state.command()))
    }
}

impl VfioDevice<SimPlatform> for SimFunction {
    fn open(&self) -> Result<(), Errno> {
        self.driver.open()?;
        self.open.store(true, Relaxed);
        Ok(())
    }

    fn close(&self) {
        self.driver.close();
        self.open.store(false, Relaxed);
    }

    fn facts(&self) -> DeviceFacts {
        self.driver.facts()
    }

    fn region(&self, index: u32, page: SizeLg2) -> Result<Region, Errno> {
        self.driver.region(index, page)
    }

    fn irqs(&self, index: u32) -> Result<Irqs, Errno> {
        self.driver.irqs(index)
    }

    fn set_irqs(&self, change: IrqChange) -> Result<(), Errno> {
        self.driver.set_irqs(change)
    }

    fn reset(&self) -> Result<(), Errno> {
        self.driver.reset()
    }

    fn read(&self, index: u32, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.driver.read(index, offset, into)
    }

    fn write(&self, index: u32, offset: u64, from: &[u8]) -> Result<(), Errno> {
        self.driver.write(index, offset, from)
    }

    fn address(&self, index: u32, area: MapArea) -> Option<PaRange> {
        self.driver.address(index, area)
    }
}

/// The way to reset the devices of one group.
pub(crate) struct SimSlot(pub(crate) Vec<Arc<Engine>>);

impl fmt::Debug for SimSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimSlot")
    }
}

impl Slot for SimSlot {
    fn hot_reset(&self) -> Result<(), SyncError> {
        self.0.iter().for_each(|engine| engine.reset());
        Ok(())
    }

    fn set_up(&self) -> Result<(), SyncError> {
        Ok(())
    }
}
