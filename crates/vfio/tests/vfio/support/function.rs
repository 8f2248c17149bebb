//! A PCI function with memory registers, MSI-X and a reset of its own. Words are by hand, from the book.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_core::device::Device;
use portcullis_hal::Registers;
use portcullis_pci::{
    AddressServices, Bdf, ConfigAccess, Function, HostBridge, HostTrust, HostWindow, Space, enumerate,
};
use portcullis_types::Pa;
use portcullis_vfio::pci::{Doorbell, Interrupts};
use portcullis_vfio::{Errno, EventFile};

use super::iommu::Hardware;
use super::lock::locks_held;
use super::machine::Machine;

/// Bytes behind the first base address register: registers, the MSI-X table in the third page, its pending bits in the fourth.
pub(crate) const BAR_BYTES: u64 = 0x4000;
pub(crate) const TABLE: usize = 0x2000;
pub(crate) const VECTORS: u32 = 17;
/// Where the CPU finds them.
pub(crate) const BAR_PA: u64 = 0x10_0000_0000;
/// Where interrupts are raised.
pub(crate) const DOORBELL: u64 = 0x808_0040;

struct State {
    config: Vec<u32>,
    writable: Vec<u32>,
    registers: Vec<u32>,
    resets: usize,
    /// Whether it answers nothing after its next reset, and loses its access control for good.
    silent_after_reset: bool,
    is_silent: bool,
    loses_control: bool,
    /// What its identification reads as after a reset, and how many reads of it later it is ready.
    comes_up: Option<(u32, usize)>,
    not_ready: Option<(u32, usize)>,
    /// So many looks at its device status find requests of its own that are under way.
    pending_looks: usize,
    /// How many times it was reset while some were.
    resets_while_pending: usize,
}

/// The function, at device 1.
pub(crate) struct Disk {
    state: Mutex<State>,
    express: bool,
}

impl Disk {
    pub(crate) fn new(can_reset: bool) -> Arc<Self> {
        let mut config = vec![0; 1024];
        let mut writable = vec![0; 1024];
        config[0] = 0x0010_1b36;
        config[1] = 0x0010_0000;
        writable[1] = 0x0000_0547;
        config[2] = 0x0108_0202;
        // 64 bits, not prefetchable.
        config[4] = 0x4;
        writable[4] = !(BAR_BYTES as u32 - 1);
        writable[5] = u32::MAX;
        config[0x34 / 4] = 0x40;
        config[0x3c / 4] = 0x0000_0109;
        // PCI Express, an endpoint; the next capability is at 0x80.
        config[0x40 / 4] = 0x0002_8010;
        config[0x44 / 4] = 0x0000_8000 | u32::from(can_reset) << 28;
        config[0x48 / 4] = 0x0000_2810;
        writable[0x48 / 4] = 0x0000_7fff;
        writable[0x68 / 4] = 0x0000_ffff;
        // MSI-X, 17 vectors, the last capability.
        config[0x80 / 4] = 0x0010_0011;
        writable[0x80 / 4] = 0xc000_0000;
        config[0x84 / 4] = 0x0000_2000;
        config[0x88 / 4] = 0x0000_3000;
        // ATS, with a queue of 32.
        config[0x100 / 4] = 0x1101_000f;
        writable[0x104 / 4] = 0x801f_0000;
        // Access control: requests and completions go up; the last extended capability.
        config[0x110 / 4] = 0x0001_000d;
        config[0x114 / 4] = 0x0000_000c;
        writable[0x114 / 4] = 0x000c_0000;
        let registers = vec![0; BAR_BYTES as usize / 4];
        let state = State {
            config,
            writable,
            registers,
            resets: 0,
            silent_after_reset: false,
            is_silent: false,
            loses_control: false,
            comes_up: None,
            not_ready: None,
            pending_looks: 0,
            resets_while_pending: 0,
        };
        let disk = Arc::new(Self { state: Mutex::new(state), express: true });
        disk.state.lock().unwrap().mask_all();
        disk
    }

    /// As enumeration finds it, and with which address services.
    pub(crate) fn enumerated(&self) -> (Function, AddressServices) {
        let window = HostWindow {
            space: Space::Memory64,
            prefetchable: false,
            bus_first: BAR_PA,
            cpu_first: Pa::new(BAR_PA),
            size_bytes: 0x100_0000,
        };
        let bridge = HostBridge { segment: 0, buses: 0..=0, windows: vec![window], segment_bytes: 1 };
        let topology = enumerate(self, &bridge);
        assert_eq!(topology.problems, []);
        let trust = HostTrust { ats_supported: true, ..HostTrust::default() };
        let services = AddressServices::find(self, &topology, 0, &trust);
        assert!(services.ats.is_ok(), "{services:?}");
        (topology.functions[0].clone(), services)
    }

    pub(crate) fn config(&self, offset: usize) -> u32 {
        self.state.lock().unwrap().config[offset / 4]
    }

    pub(crate) fn set_config(&self, offset: usize, word: u32) {
        self.state.lock().unwrap().config[offset / 4] = word;
    }

    /// It answers nothing after its next reset, until it [comes back](Self::comes_back).
    pub(crate) fn goes_silent(&self) {
        self.state.lock().unwrap().silent_after_reset = true;
    }

    pub(crate) fn comes_back(&self) {
        self.state.lock().unwrap().is_silent = false;
    }

    /// After each reset it is ready only at the look at its identification after so many that read as this.
    pub(crate) fn comes_up_late(&self, word: u32, looks: usize) {
        self.state.lock().unwrap().comes_up = Some((word, looks));
    }

    /// Requests of its own are under way for so many looks at its device status.
    pub(crate) fn waits_for(&self, looks: usize) {
        self.state.lock().unwrap().pending_looks = looks;
    }

    /// How many times it was reset while requests of its own were under way.
    pub(crate) fn resets_while_pending(&self) -> usize {
        self.state.lock().unwrap().resets_while_pending
    }

    /// Its slot is reset, and its configuration is then what it was after enumeration: behind the back of whoever has it.
    pub(crate) fn reset_by_its_slot(&self) {
        let mut state = self.state.lock().unwrap();
        state.reset();
        state.config[1] |= 0x402;
        (state.config[4], state.config[5]) = (4, (BAR_PA >> 32) as u32);
        state.config[0x114 / 4] |= 0x000c_0000;
    }

    /// MSI besides MSI-X, 64 bits: the next capability after that.
    pub(crate) fn has_msi(&self) {
        let mut state = self.state.lock().unwrap();
        state.config[0x80 / 4] |= 0xa000;
        state.config[0xa0 / 4] = 0x0080_0005;
        state.writable[0xa0 / 4] = 0x0071_0000;
    }

    /// It does not keep what is written to its access control any more; or it does again.
    pub(crate) fn loses_control(&self, loses: bool) {
        self.state.lock().unwrap().loses_control = loses;
    }

    pub(crate) fn register(&self, offset: usize) -> u32 {
        self.state.lock().unwrap().registers[offset / 4]
    }

    pub(crate) fn resets(&self) -> usize {
        self.state.lock().unwrap().resets
    }

    /// Whether a message of this vector would be sent, and what: address and data.
    pub(crate) fn message(&self, vector: usize) -> Option<(u64, u32)> {
        let state = self.state.lock().unwrap();
        let entry = &state.registers[TABLE / 4 + 4 * vector..][..4];
        let on = state.config[0x80 / 4] & 0xc000_0000 == 0x8000_0000;
        let may = state.config[1] & 4 != 0 && on && entry[3] & 1 == 0;
        may.then(|| (u64::from(entry[1]) << 32 | u64::from(entry[0]), entry[2]))
    }
}

impl State {
    fn mask_all(&mut self) {
        for vector in 0..VECTORS as usize {
            self.registers[TABLE / 4 + 4 * vector..][..4].copy_from_slice(&[0, 0, 0, 1]);
        }
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.config[1] &= 0xffff_0000;
        (self.config[4], self.config[5]) = (4, 0);
        self.config[0x48 / 4] = 0x0000_2810;
        self.config[0x68 / 4] = 0;
        self.config[0x80 / 4] &= 0x07ff_ffff;
        self.config[0x104 / 4] = 0;
        self.config[0x114 / 4] &= 0xffff;
        self.is_silent = core::mem::take(&mut self.silent_after_reset);
        self.not_ready = self.comes_up;
        self.resets_while_pending += usize::from(self.pending_looks > 0);
        self.registers.fill(0);
        self.mask_all();
    }
}

impl ConfigAccess for Disk {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        if (at.device(), at.function()) != (1, 0) {
            return u32::MAX;
        }
        assert!(self.express || offset < 256);
        let mut state = self.state.lock().unwrap();
        if state.is_silent {
            return u32::MAX;
        }
        if let Some((word, looks)) = state.not_ready {
            let is_identification = offset == 0;
            let left = if is_identification { looks.checked_sub(1) } else { Some(looks) };
            state.not_ready = left.map(|looks| (word, looks));
            if state.not_ready.is_some() {
                return if is_identification { word } else { u32::MAX };
            }
        }
        let pending = offset == 0x48 && state.pending_looks > 0;
        state.pending_looks -= usize::from(pending);
        state.config[usize::from(offset / 4)] | u32::from(pending) << 21
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        assert_eq!(locks_held(), 0, "as everything that a user asks of a device");
        if (at.device(), at.function()) != (1, 0) {
            return;
        }
        let mut state = self.state.lock().unwrap();
        if state.is_silent || state.not_ready.is_some() || state.loses_control && offset == 0x114 {
            return;
        }
        let place = usize::from(offset / 4);
        let writable = state.writable[place];
        state.config[place] = state.config[place] & !writable | value & writable;
        if offset == 0x48 && value & 0x8000 != 0 && state.config[0x44 / 4] >> 28 & 1 == 1 {
            state.reset();
        }
    }
}

impl Registers for Disk {
    fn read32(&self, offset: usize) -> u32 {
        let state = self.state.lock().unwrap();
        assert!(state.config[1] & 2 != 0, "nobody answers while memory decoding is off");
        assert_eq!(state.config[5], (BAR_PA >> 32) as u32, "nor where the function is not placed");
        state.registers[offset / 4]
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.state.lock().unwrap();
        assert!(state.config[1] & 2 != 0, "nobody answers while memory decoding is off");
        assert_eq!(state.config[5], (BAR_PA >> 32) as u32, "nor where the function is not placed");
        state.registers[offset / 4] = value;
    }

    fn read64(&self, offset: usize) -> u64 {
        u64::from(Registers::read32(self, offset)) | u64::from(Registers::read32(self, offset + 4)) << 32
    }

    fn write64(&self, offset: usize, value: u64) {
        Registers::write32(self, offset, value as u32);
        Registers::write32(self, offset + 4, (value >> 32) as u32);
    }
}

/// What has to be written, and who is signalled.
type Line = (u32, Arc<dyn EventFile>);

/// An interrupt controller: data 100 and the vector's number, unless it moves.
#[derive(Default)]
pub(crate) struct Controller {
    lines: Mutex<BTreeMap<u16, Line>>,
    /// Vectors for which there are no interrupts.
    pub(crate) refused: Mutex<Vec<u16>>,
    /// The data of the next connection, if each has data of its own.
    pub(crate) moving: Mutex<Option<u32>>,
}

impl Controller {
    pub(crate) fn connected(&self) -> Vec<u16> {
        self.lines.lock().unwrap().keys().copied().collect()
    }

    /// The disk raises an interrupt: its message goes through the translation that it is attached to. Answers whether it arrived.
    pub(crate) fn raise(&self, disk: &Disk, vector: usize, hardware: &Hardware) -> bool {
        let Some((address, data)) = disk.message(vector) else { return false };
        let Some((pa, prot)) = hardware.last_domain().find(address) else { return false };
        assert_eq!(prot, portcullis_types::Prot::device(portcullis_types::Perms::WRITE));
        let lines = self.lines.lock().unwrap();
        match lines.values().find(|(known, _)| *known == data) {
            Some((_, line)) if pa == DOORBELL => {
                line.signal();
                true
            }
            _ => false,
        }
    }
}

impl Interrupts<Machine> for Controller {
    fn connect(&self, _: &Device<Machine>, vector: u16, to: Arc<dyn EventFile>) -> Result<Doorbell, Errno> {
        assert_eq!(locks_held(), 0, "as everything that a user asks of a device");
        if self.refused.lock().unwrap().contains(&vector) {
            return Err(Errno::Enospc);
        }
        let data = match &mut *self.moving.lock().unwrap() {
            Some(next) => core::mem::replace(next, *next + 1),
            None => 100 + u32::from(vector),
        };
        self.lines.lock().unwrap().insert(vector, (data, to));
        Ok(Doorbell { address: Pa::new(DOORBELL), data })
    }

    fn disconnect(&self, _: &Device<Machine>, vector: u16) {
        self.lines.lock().unwrap().remove(&vector);
    }
}
