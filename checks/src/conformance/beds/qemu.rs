//! QEMU's `virt` and `q35` as beds: an SMMUv3 and a VT-d unit that we did not write.
//!
//! Engines are `edu` devices, which copy between memory and a buffer of their own, and, where QEMU has it, an `iommu-testdev`, which writes a pattern
//! and says whether it was let through. What an `edu` has read is seen by having it write its buffer to the way out, which every domain of
//! the suite maps.
//!
//! An `edu` begins 100 ms after it was told to, by the machine's clock. The CPU is parked, and the clock is one of instructions (`-icount`) that jumps to the
//! next timer whenever the CPU sleeps: so a transfer takes microseconds.
//!
//! Observed: QEMU 7.2 and 11.1, docs/specs/edu.rst, hw/misc/edu.c; QEMU 11.1, docs/specs/iommu-testdev.rst, hw/misc/iommu-testdev.c.

use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use portcullis::types::trace::Silence;
use portcullis::types::{AccessKind, Pa, PaRange, SourceId};
use portcullis_qemu::{
    Arch, Machine, MachineOptions, Qemu, QemuError, QemuPlatform, QemuRegisters, Version, Width, q35,
};

use crate::conformance::bed::{Ask, Bed, Carried, Engine, Limits, MOST_BYTES, WayOut};

/// Where things are on a machine.
#[derive(Clone, Copy, Debug)]
struct Places {
    /// The IOMMU's registers, and bytes of them.
    iommu: (u64, u64),
    /// PCIe's configuration space.
    ecam: u64,
    /// Where devices' registers are put.
    window: u64,
}

const VIRT: Places = Places { iommu: (0x0905_0000, 0x2_0000), ecam: 0x40_1000_0000, window: 0x1000_0000 };
const Q35: Places =
    Places { iommu: (0xfed9_0000, 0x1000), ecam: q35::ECAM, window: q35::ECAM + q35::ECAM_BYTES };
/// An `edu` has 1 MiB of registers.
const REGISTERS_BYTES: u64 = 0x10_0000;

/// How long an `edu` may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What is at the way out before an `edu` writes there.
const MARK: u8 = 0xdd;

/// The first QEMU that has `iommu-testdev`.
const WITH_TESTDEV: Version = Version::new(11, 0);

#[derive(Debug)]
enum Device {
    /// What is in its buffer, from the beginning.
    Edu(Mutex<Vec<u8>>),
    Testdev,
}

/// A machine of QEMU's.
pub struct QemuBed {
    name: String,
    places: Places,
    machine: Arc<Machine>,
    platform: Arc<QemuPlatform>,
    registers: QemuRegisters,
    engines: Vec<Engine>,
    devices: Vec<Device>,
}

/// Offsets of an `edu`'s registers, and bits of its command.
mod edu {
    pub(super) const SOURCE: u64 = 0x80;
    pub(super) const DESTINATION: u64 = 0x88;
    pub(super) const COUNT: u64 = 0x90;
    pub(super) const COMMAND: u64 = 0x98;
    pub(super) const RUN: u64 = 1;
    pub(super) const TO_MEMORY: u64 = 2;
    /// Where its buffer is, as it calls it.
    pub(super) const BUFFER: u64 = 0x4_0000;
}

/// Offsets of an `iommu-testdev`'s registers.
mod testdev {
    pub(super) const RUN: u64 = 0x00;
    pub(super) const ADDRESS: u64 = 0x04;
    pub(super) const LENGTH: u64 = 0x0c;
    pub(super) const RESULT: u64 = 0x10;
    pub(super) const ARM: u64 = 0x14;
    pub(super) const CHECKED: u64 = 0x1c;
    pub(super) const REFUSED: u64 = 0xdead_0002;
    pub(super) const PATTERN: u32 = 0x1234_5678;
}

impl QemuBed {
    /// Starts `virt` with its SMMUv3. The bed is called `qemu-MAJOR`.
    ///
    /// # Errors
    ///
    /// [`QemuError`].
    pub fn start(qemu: &Qemu) -> Result<Self, QemuError> {
        let name = format!("qemu-{}", qemu.version().major);
        Self::with(qemu, name, VIRT, MachineOptions::virt("iommu=smmuv3"))
    }

    /// Starts `q35` with a VT-d unit that has these properties besides (`,scalable-mode=on`). The bed is called `qemu-MAJOR-q35-NAME`.
    ///
    /// # Errors
    ///
    /// [`QemuError`].
    pub fn start_q35(qemu: &Qemu, name: &str, properties: &str) -> Result<Self, QemuError> {
        let name = format!("qemu-{}-q35-{name}", qemu.version().major);
        // The unit first: what comes before it is not behind it.
        let unit = format!("intel-iommu,intremap=on,aw-bits=48{properties}");
        Self::with(qemu, name, Q35, MachineOptions::q35("").device(&unit))
    }

    fn with(qemu: &Qemu, name: String, places: Places, options: MachineOptions) -> Result<Self, QemuError> {
        let has_testdev = qemu.version() >= WITH_TESTDEV;
        let edu = "edu,dma_mask=0xffffffffffffffff";
        let first = if has_testdev { "iommu-testdev" } else { edu };
        let options = [first, edu, edu]
            .into_iter()
            .enumerate()
            .fold(options, |options, (index, device)| {
                options.device(&format!("{device},addr={:#x}", index + 1))
            })
            .argument("-icount")
            .argument("shift=0,sleep=off");
        let machine = Arc::new(qemu.start(&options)?);
        if options.arch() == Arch::X86_64 {
            q35::bring_up(&machine)?;
        }
        let platform = Arc::new(QemuPlatform::new(machine.clone(), Arc::new(Silence)));
        let (first, bytes) = places.iommu;
        let frame = PaRange::new(Pa::new(first), bytes).expect("a frame that does not wrap");
        let devices = vec![
            if has_testdev { Device::Testdev } else { Device::Edu(Mutex::new(vec![0; MOST_BYTES])) },
            Device::Edu(Mutex::new(vec![0; MOST_BYTES])),
            Device::Edu(Mutex::new(vec![0; MOST_BYTES])),
        ];
        let bed = Self {
            name,
            places,
            registers: platform.registers(frame),
            engines: (0u32..)
                .zip(&devices)
                .map(|(index, device)| Engine {
                    stream: SourceId((index + 1) << 3),
                    reads: matches!(device, Device::Edu(_)),
                })
                .collect(),
            devices,
            platform,
            machine,
        };
        bed.place_devices()?;
        Ok(bed)
    }

    /// BAR 0 and the command register: memory and bus master.
    fn place_devices(&self) -> Result<(), QemuError> {
        for index in 0..self.devices.len() {
            let space = self.places.ecam + ((index as u64 + 1) << 15);
            self.machine.store(Pa::new(space + 0x10), Width::Bits32, self.window(index))?;
            self.machine.store(Pa::new(space + 4), Width::Bits16, 6)?;
        }
        Ok(())
    }

    fn window(&self, index: usize) -> u64 {
        self.places.window + (index as u64 + 1) * REGISTERS_BYTES
    }

    /// Which architecture's QEMU it wants.
    pub const ARCH: Arch = Arch::Aarch64;

    fn one(&self, ask: &Ask, way_out: Option<WayOut>) -> Result<Carried, QemuError> {
        match &self.devices[ask.engine] {
            Device::Testdev => self.testdev(ask),
            Device::Edu(buffer) => {
                let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
                if ask.kind == AccessKind::Write {
                    self.transfer(ask.engine, edu::BUFFER, ask.at, ask.len, edu::TO_MEMORY)?;
                    return Ok(Carried { bytes: buffer[..ask.len].to_vec(), refused: None });
                }
                self.transfer(ask.engine, ask.at, edu::BUFFER, ask.len, 0)?;
                if let Some(way_out) = way_out {
                    let seen = self.buffer_of(ask.engine, way_out)?;
                    // Whoever may not write there did not read either.
                    if seen != [MARK; MOST_BYTES] {
                        *buffer = seen;
                    }
                }
                Ok(Carried { bytes: buffer[..ask.len].to_vec(), refused: None })
            }
        }
    }

    /// Has an `edu` write its buffer where it can be seen.
    fn buffer_of(&self, engine: usize, way_out: WayOut) -> Result<Vec<u8>, QemuError> {
        self.machine.ram().write(way_out.pa, &[MARK; MOST_BYTES]);
        self.transfer(engine, edu::BUFFER, way_out.iova, MOST_BYTES, edu::TO_MEMORY)?;
        let mut bytes = vec![0; MOST_BYTES];
        self.machine.ram().read(way_out.pa, &mut bytes);
        Ok(bytes)
    }

    /// One transfer of an `edu`.
    fn transfer(
        &self,
        engine: usize,
        from: u64,
        to: u64,
        len: usize,
        direction: u64,
    ) -> Result<(), QemuError> {
        let at = |offset: u64| Pa::new(self.window(engine) + offset);
        self.machine.store_all(&[
            (at(edu::SOURCE), Width::Bits64, from),
            (at(edu::DESTINATION), Width::Bits64, to),
            (at(edu::COUNT), Width::Bits64, len as u64),
            (at(edu::COMMAND), Width::Bits64, edu::RUN | direction),
        ])?;
        let deadline = Instant::now() + LIMIT;
        while self.machine.load(at(edu::COMMAND), Width::Bits64)? & edu::RUN != 0 {
            assert!(Instant::now() < deadline, "an edu did not finish within {LIMIT:?}");
        }
        Ok(())
    }

    /// One write of an `iommu-testdev`. What it finds in memory afterwards is not asked.
    fn testdev(&self, ask: &Ask) -> Result<Carried, QemuError> {
        let at = |offset: u64| Pa::new(self.window(ask.engine) + offset);
        let ram = self.machine.ram().range().first().get();
        let word = |offset: u64, value: u64| (at(offset), Width::Bits32, value & 0xffff_ffff);
        self.machine.store_all(&[
            word(testdev::ADDRESS, ask.at),
            word(testdev::ADDRESS + 4, ask.at >> 32),
            word(testdev::LENGTH, ask.len as u64),
            word(testdev::CHECKED, ram),
            word(testdev::CHECKED + 4, ram >> 32),
            word(testdev::ARM, 1),
        ])?;
        self.machine.load(at(testdev::RUN), Width::Bits32)?;
        let refused = self.machine.load(at(testdev::RESULT), Width::Bits32)? == testdev::REFUSED;
        let bytes = testdev::PATTERN.to_le_bytes().into_iter().cycle().take(ask.len).collect();
        Ok(Carried { bytes, refused: Some(refused) })
    }
}

impl Bed for QemuBed {
    type Platform = QemuPlatform;
    type Registers = QemuRegisters;

    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> Arc<QemuPlatform> {
        self.platform.clone()
    }

    fn registers(&self) -> QemuRegisters {
        self.registers.clone()
    }

    fn engines(&self) -> &[Engine] {
        &self.engines
    }

    fn limits(&self) -> Limits {
        Limits { marks: false, pasids: false }
    }

    /// # Panics
    ///
    /// If the machine fails: there is nothing to be judged then.
    fn carry_out(&self, asks: &[Ask], way_out: Option<WayOut>) -> Vec<Carried> {
        let one = |ask| self.one(ask, way_out).unwrap_or_else(|error| panic!("{error}"));
        asks.iter().map(one).collect()
    }

    fn complaints(&self) -> Vec<String> {
        self.machine.failure().map(ToString::to_string).into_iter().collect()
    }
}
