//! The machines that come with the lab. Each is there because some part of the drivers takes another way on it.

use model_smmuv3::Config;
use portcullis::types::{Iova, IovaRange, Pa, PaRange, SourceId};

use super::spec::{HostBridgeSpec, ItsSpec, MachineSpec, Plugged, ReservedSpec, Slot, SmmuSpec};

/// The machine of a run that names none.
pub const DEFAULT: &str = "arm";

/// Every built-in machine, the default first.
pub fn all() -> Vec<MachineSpec> {
    vec![
        arm(),
        with_smmu(
            "arm-v31",
            "SMMUv3.1: no range invalidation, break-before-make",
            Config::no_range_invalidation(),
        ),
        with_smmu("arm-stage2", "an SMMU with stage 2 only", Config::stage2_only()),
        with_smmu(
            "arm-16k",
            "16 KiB pages only",
            Config { granule_4k: false, granule_64k: false, ..Config::default() },
        ),
        with_smmu(
            "arm-64k",
            "64 KiB pages only",
            Config { granule_4k: false, granule_16k: false, ..Config::default() },
        ),
        arm_52(),
        arm_noncoherent(),
        arm_small(),
    ]
}

/// The built-in machine of this name.
pub fn find(name: &str) -> Option<MachineSpec> {
    all().into_iter().find(|machine| machine.name == name)
}

const SLOTS: [Slot; 3] = [
    Slot { device: 1, what: Plugged::Disk },
    Slot { device: 2, what: Plugged::PortWithDisk { acs: true } },
    Slot { device: 3, what: Plugged::PortWithDisk { acs: false } },
];

/// SMMUv3.2 with everything, a disk on the root bus, and two behind ports. Firmware keeps a buffer of the first disk mapped 1:1, and some of its addresses free.
fn arm() -> MachineSpec {
    let mut machine =
        with_smmu("arm", "SMMUv3.2, two stages, 48 bits, range invalidation", Config::default());
    machine.reserved = vec![
        ReservedSpec {
            slot: (0, 1),
            iova: iovas(0x4fff_0000, 0x4fff_ffff),
            memory: Some(memory(0x4fff_0000, 0x4fff_ffff)),
        },
        ReservedSpec { slot: (0, 1), iova: iovas(0xf000_0000, 0xf0ff_ffff), memory: None },
    ];
    machine
}

/// Memory above 48 bits.
fn arm_52() -> MachineSpec {
    let mut machine = with_smmu("arm-52", "52-bit addresses, memory above 48 bits", Config::large());
    machine.ram = memory(0x1_0000_0000_0000, 0x1_0000_0fff_ffff);
    machine
}

/// Neither walker nor devices snoop.
fn arm_noncoherent() -> MachineSpec {
    let config = Config { coherent: false, ..Config::default() };
    let mut machine = with_smmu("arm-noncoherent", "neither SMMU nor devices snoop the CPU's caches", config);
    machine.smmus[0].coherent = false;
    machine.host_bridges[0].coherent = false;
    machine
}

/// Few streams, few bits, short queues, no messages of its own.
fn arm_small() -> MachineSpec {
    let mut machine =
        with_smmu("arm-small", "64 streams, 36 bits, 4 KiB pages, short queues", Config::small());
    machine.host_bridges[0].last_bus = 0;
    machine.host_bridges[0].ecam = memory(0x3f00_0000, 0x3f0f_ffff);
    machine.host_bridges[0].window_64 = None;
    machine.host_bridges[0].slots.truncate(1);
    machine
}

/// A machine with one SMMU in front of one host bridge. The addresses are those of QEMU's `virt`, which people know.
fn with_smmu(name: &str, summary: &str, config: Config) -> MachineSpec {
    MachineSpec {
        name: name.into(),
        summary: summary.into(),
        ram: memory(0x4000_0000, 0x4fff_ffff),
        smmus: vec![SmmuSpec {
            base: Pa::new(0x0905_0000),
            coherent: true,
            // Its messages come after those of every requester id.
            config: Config { msi_source: Some(SourceId(0x1_0000)), ..config },
        }],
        itses: vec![ItsSpec { base: Pa::new(0x0808_0000) }],
        host_bridges: vec![HostBridgeSpec {
            ecam: memory(0x40_1000_0000, 0x40_107f_ffff),
            last_bus: 7,
            window_32: memory(0x1000_0000, 0x3eff_ffff),
            window_64: Some(memory(0x80_0000_0000, 0x80_ffff_ffff)),
            coherent: true,
            smmu: Some((0, 0)),
            its: Some((0, 0)),
            slots: SLOTS.to_vec(),
        }],
        reserved: Vec::new(),
    }
}

fn memory(first: u64, last: u64) -> PaRange {
    PaRange::from_ends(Pa::new(first), Pa::new(last)).expect("the ends are in order")
}

fn iovas(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).expect("the ends are in order")
}
