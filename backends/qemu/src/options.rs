//! What machine QEMU shall be.

use core::time::Duration;
use std::path::PathBuf;

use portcullis_types::Pa;

use crate::QemuError;
use crate::find::Arch;
use crate::q35::{counting_rom, halting_rom};
use crate::scratch::Scratch;

/// What is on a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveContent {
    /// These bytes, in a file of the machine's own that goes with it. What is missing to a whole block of 512 bytes is zero.
    Bytes(Vec<u8>),
    /// A file, which is only read.
    ReadOnly(PathBuf),
}

/// A machine to start. Each method adds to it and hands it on.
///
/// The CPU is parked: it runs in a loop of its own, so that the machine's clock goes on, and touches nothing. Firmware is not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineOptions {
    machine: String,
    cpu: Option<&'static str>,
    park: Park,
    ram_base: Pa,
    ram_mib: u64,
    defaults: bool,
    arguments: Vec<String>,
    drives: Vec<(String, DriveContent)>,
    limit: Duration,
}

/// How the CPU is kept busy with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Park {
    /// A kernel that waits for interrupts, none of which is enabled.
    ArmKernel,
    /// Firmware that branches to itself.
    PowerFirmware,
    /// A boot ROM that halts.
    X86Firmware,
    /// A boot ROM that counts interrupts.
    X86Counting,
}

/// `wfi; b .-4`.
const ARM_KERNEL: [u8; 8] = [0x7f, 0x20, 0x03, 0xd5, 0xff, 0xff, 0xff, 0x17];
/// `b .`, big-endian, wherever the CPU begins.
const POWER_LOOP: [u8; 4] = [0x48, 0, 0, 0];
const POWER_FIRMWARE_BYTES: usize = 1 << 20;

/// As long as QEMU is waited for unless it is said otherwise.
const LIMIT: Duration = Duration::from_secs(10);

impl MachineOptions {
    /// Arm's `virt` with a GICv3 and these machine properties (`iommu=smmuv3`), 256 MiB of RAM at 1 GiB.
    pub fn virt(properties: &str) -> Self {
        Self::new("virt,gic-version=3", properties, Some("cortex-a57"), Park::ArmKernel, Pa::new(1 << 30))
    }

    /// POWER's `powernv8` with these machine properties (or none: ""), 256 MiB of RAM at 0.
    pub fn powernv8(properties: &str) -> Self {
        let mut options = Self::new("powernv8", properties, None, Park::PowerFirmware, Pa::new(0));
        // Its bridges' own root ports are among the defaults.
        options.defaults = true;
        options
    }

    /// PC `q35` with these machine properties (or none: ""), 256 MiB of RAM at 0.
    pub fn q35(properties: &str) -> Self {
        Self::new("q35", properties, None, Park::X86Firmware, Pa::new(0))
    }

    /// With a CPU that counts the interrupts that reach it ([`q35::COUNTERS`](crate::q35::COUNTERS)), and touches nothing else. For `q35`.
    ///
    /// # Panics
    ///
    /// For other machines.
    pub fn counting_interrupts(mut self) -> Self {
        assert_eq!(self.arch(), Arch::X86_64, "only a PC's CPU counts interrupts");
        self.park = Park::X86Counting;
        self
    }

    fn new(machine: &str, properties: &str, cpu: Option<&'static str>, park: Park, ram_base: Pa) -> Self {
        let comma = if properties.is_empty() { "" } else { "," };
        Self {
            machine: format!("{machine}{comma}{properties}"),
            cpu,
            park,
            ram_base,
            ram_mib: 256,
            defaults: false,
            arguments: Vec::new(),
            drives: Vec::new(),
            limit: LIMIT,
        }
    }

    /// With a device: what follows QEMU's `-device`.
    pub fn device(self, device: &str) -> Self {
        self.argument("-device").argument(device)
    }

    /// With a drive by the name `id`, for a device's `drive=id`. It is attached to nothing by itself.
    pub fn drive(mut self, id: &str, content: DriveContent) -> Self {
        self.drives.push((id.to_owned(), content));
        self
    }

    /// With one more argument, whatever QEMU takes.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With so much RAM. A power of two of at least 2 MiB.
    pub fn ram_mib(mut self, ram_mib: u64) -> Self {
        self.ram_mib = ram_mib;
        self
    }

    /// How long QEMU is waited for, each time: to come up, and for one answer. 10 s unless this says otherwise.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub(crate) fn wait_limit(&self) -> Duration {
        self.limit
    }

    pub(crate) fn ram_base(&self) -> Pa {
        self.ram_base
    }

    pub(crate) fn ram_bytes(&self) -> u64 {
        self.ram_mib << 20
    }

    /// Which QEMU has such a machine.
    pub fn arch(&self) -> Arch {
        match self.park {
            Park::ArmKernel => Arch::Aarch64,
            Park::PowerFirmware => Arch::Ppc64,
            Park::X86Firmware | Park::X86Counting => Arch::X86_64,
        }
    }

    /// The arguments, their files written to `scratch`. `more_properties` of the machine follow its own.
    pub(crate) fn arguments(
        &self,
        scratch: &Scratch,
        more_properties: &str,
    ) -> Result<Vec<String>, QemuError> {
        let ram = scratch.at("ram").display().to_string();
        let ram_mib = self.ram_mib;
        let mut all: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| all.extend(words.iter().map(|&word| word.to_owned()));
        add(&["-machine", &format!("{},memory-backend=ram{more_properties}", self.machine)]);
        add(&["-accel", "tcg", "-display", "none", "-serial", "null", "-monitor", "none"]);
        add(&["-m", &ram_mib.to_string()]);
        let object = format!("memory-backend-file,id=ram,size={ram_mib}M,share=on,mem-path={}", comma(&ram));
        add(&["-object", &object]);
        if !self.defaults {
            add(&["-nodefaults"]);
        }
        if let Some(cpu) = self.cpu {
            add(&["-cpu", cpu]);
        }
        let (option, file) = self.parked(scratch)?;
        add(&[option, &file.display().to_string()]);
        for (id, content) in &self.drives {
            add(&["-drive", &drive(scratch, id, content)?]);
        }
        all.extend(self.arguments.iter().cloned());
        Ok(all)
    }

    /// Writes what parks the CPU: the option that takes it, and its file.
    fn parked(&self, scratch: &Scratch) -> Result<(&'static str, PathBuf), QemuError> {
        match self.park {
            Park::ArmKernel => Ok(("-kernel", scratch.write("wfi.bin", &ARM_KERNEL)?)),
            Park::PowerFirmware => {
                let bytes = POWER_LOOP.repeat(POWER_FIRMWARE_BYTES / POWER_LOOP.len());
                Ok(("-bios", scratch.write("loop.bin", &bytes)?))
            }
            Park::X86Firmware => Ok(("-bios", scratch.write("halt.bin", &halting_rom())?)),
            Park::X86Counting => Ok(("-bios", scratch.write("count.bin", &counting_rom())?)),
        }
    }
}

fn drive(scratch: &Scratch, id: &str, content: &DriveContent) -> Result<String, QemuError> {
    let (path, writable): (PathBuf, _) = match content {
        DriveContent::Bytes(bytes) => {
            let mut whole = bytes.clone();
            whole.resize(bytes.len().max(1).next_multiple_of(512), 0);
            (scratch.write(&format!("drive-{id}"), &whole)?, true)
        }
        // What QEMU finds before a colon that comes before any slash is a protocol to it.
        DriveContent::ReadOnly(path) => {
            let absolute = std::path::absolute(path);
            (absolute.map_err(|error| QemuError::host("finding the file of a drive", &error))?, false)
        }
    };
    let read_only = if writable { "off" } else { "on" };
    Ok(format!("if=none,id={id},format=raw,readonly={read_only},file={}", comma(&path.display().to_string())))
}

/// A value within an option: a comma is written twice.
fn comma(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_to_qemu_in_its_own_words() {
        let scratch = Scratch::new().unwrap();
        let options = MachineOptions::virt("iommu=smmuv3")
            .device("nvme,serial=1,drive=disk")
            .drive("disk", DriveContent::Bytes(vec![7; 513]))
            .drive("other", DriveContent::ReadOnly("/a,b".into()))
            .drive("third", DriveContent::ReadOnly("nbd:host:1".into()));
        let line = options.arguments(&scratch, ",dumpdtb=x").unwrap().join(" ");
        let machine = "-machine virt,gic-version=3,iommu=smmuv3,memory-backend=ram,dumpdtb=x ";
        assert!(line.starts_with(machine), "{line}");
        assert!(line.contains("-drive if=none,id=other,format=raw,readonly=on,file=/a,,b"), "{line}");
        let here = comma(&std::env::current_dir().unwrap().display().to_string());
        assert!(line.contains(&format!("id=third,format=raw,readonly=on,file={here}/nbd:host:1")), "{line}");
        assert!(line.ends_with("-device nvme,serial=1,drive=disk"), "{line}");
        let disk = std::fs::read(scratch.at("drive-disk")).unwrap();
        assert_eq!((disk.len(), disk[512], disk[513]), (1024, 7, 0));
        assert_eq!(std::fs::read(scratch.at("wfi.bin")).unwrap(), ARM_KERNEL);
    }
}
