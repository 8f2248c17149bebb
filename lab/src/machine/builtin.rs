//! The machines that come with the lab. Each is there because some part of the drivers takes another way on it.

use model_cpu::{CpuFeatures, x86};
use model_smmuv3::{Config, HardwareUpdate, StallModel};
use portcullis::types::{Iova, IovaRange, Pa, PaRange, SizeLg2, SourceId};

use super::spec::{
    AcceleratorSpec, BridgeKind, HostBridgeSpec, ItsSpec, MachineSpec, PcSpec, Phb3Spec, Plugged,
    ReservedSpec, Slot, SmmuSpec, Smmuv2Spec, VtdSpec,
};

/// The machine of a run that names none.
pub const DEFAULT: &str = "arm";

/// Every built-in machine, the default first.
pub fn all() -> Vec<MachineSpec> {
    vec![
        arm(),
        arm_v31(),
        with_smmu("arm-stage2", "an SMMU with stage 2 only", shares(Config::stage2_only())),
        with_pages("arm-16k", "16 KiB pages only", SizeLg2::KIB_16),
        with_pages("arm-64k", "64 KiB pages only", SizeLg2::KIB_64),
        arm_52(),
        arm_vhe(),
        arm_stall_forced(),
        arm_noncoherent(),
        arm_small(),
        power8(),
        smmuv2(),
        pc(),
        pc_with_units(),
    ]
}

/// What a name ends with that means an Arm machine whose firmware tells of it by ACPI's tables: `arm+acpi`.
pub const WITH_ACPI: &str = "+acpi";

/// The built-in machine of this name. One with an SMMU is there a second time, with [`WITH_ACPI`]; of what firmware reserves that one has what IORT can say, which is memory.
pub fn find(name: &str) -> Option<MachineSpec> {
    let named = |name| all().into_iter().find(|machine| machine.name == name);
    let Some(of) = name.strip_suffix(WITH_ACPI) else { return named(name) };
    let mut machine =
        named(of).filter(|machine| !(machine.smmus.is_empty() && machine.smmuv2s.is_empty()))?;
    machine.reserved.retain(|region| region.memory.is_some());
    Some(MachineSpec { name: name.into(), acpi: true, ..machine })
}

const SLOTS: [Slot; 4] = [
    Slot { device: 1, what: Plugged::Disk },
    Slot { device: 2, what: Plugged::PortWithDisk { acs: true } },
    Slot { device: 3, what: Plugged::Accelerator },
    Slot { device: 4, what: Plugged::PortWithDisk { acs: false } },
];

/// SMMUv3.2 with everything, a disk on the root bus, and two behind ports. Firmware keeps a buffer of the first disk mapped 1:1, and some of its addresses free.
fn arm() -> MachineSpec {
    let mut machine =
        with_smmu("arm", "SMMUv3.2, two stages, 48 bits, range invalidation", shares(Config::default()));
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

/// What an SMMU has that shares processes' memory with every kind of device.
pub(super) fn shares(config: Config) -> Config {
    Config {
        substream_id_bits: 20,
        ats: true,
        pri: true,
        page_queue_lg2: 7,
        stall: StallModel::Configurable,
        hardware_update: HardwareUpdate::AccessAndDirty,
        broadcast: true,
        ..config
    }
}

/// Changes of size go through nothing, commands name single pages, and nothing is heard of the CPUs.
fn arm_v31() -> MachineSpec {
    let config = Config {
        broadcast: false,
        hardware_update: HardwareUpdate::None,
        ..shares(Config::no_range_invalidation())
    };
    with_smmu("arm-v31", "SMMUv3.1: no range invalidation, no broadcasts, break-before-make", config)
}

fn with_pages(name: &str, summary: &str, page: SizeLg2) -> MachineSpec {
    let has = |size| page == size;
    let config = Config {
        granule_4k: has(SizeLg2::KIB_4),
        granule_16k: has(SizeLg2::KIB_16),
        granule_64k: has(SizeLg2::KIB_64),
        ..shares(Config::default())
    };
    let mut machine = with_smmu(name, summary, config);
    machine.page = page;
    machine
}

/// Memory above 48 bits.
fn arm_52() -> MachineSpec {
    let config = shares(Config::large());
    let mut machine = with_smmu("arm-52", "52-bit addresses, memory above 48 bits", config);
    machine.ram = memory(0x1_0000_0000_0000, 0x1_0000_3fff_ffff);
    // The lesser of the two has no hardware updates.
    let large = CpuFeatures { host_at_el2: false, ..CpuFeatures::LARGE };
    machine.cpus = vec![large, CpuFeatures { hardware_update: model_cpu::HardwareUpdate::None, ..large }];
    machine
}

/// The kernel runs where a hypervisor would.
fn arm_vhe() -> MachineSpec {
    let config = Config { hyp: true, ..shares(Config::default()) };
    let mut machine =
        with_smmu("arm-vhe", "the kernel runs at EL2, whose TLB entries have their own tag", config);
    machine.cpus = vec![CpuFeatures { host_at_el2: true, ..CpuFeatures::COMMON }; 2];
    machine
}

/// Every fault stalls, whether or not anybody wants it.
fn arm_stall_forced() -> MachineSpec {
    let config = Config { stall: StallModel::Forced, broadcast: false, ..shares(Config::default()) };
    with_smmu("arm-stall-forced", "an SMMU that stalls whatever faults", config)
}

/// Neither walker nor devices snoop.
fn arm_noncoherent() -> MachineSpec {
    let config = Config { coherent: false, ..shares(Config::default()) };
    let mut machine = with_smmu("arm-noncoherent", "neither SMMU nor devices snoop the CPU's caches", config);
    machine.smmus[0].coherent = false;
    machine.host_bridges[0].coherent = false;
    machine.accelerators[0].coherent = false;
    machine
}

/// Few streams, few bits, short queues, no messages of its own, no PASIDs.
fn arm_small() -> MachineSpec {
    let mut machine =
        with_smmu("arm-small", "64 streams, 36 bits, 4 KiB pages, short queues", Config::small());
    let bridge = &mut machine.host_bridges[0];
    bridge.last_bus = 0;
    bridge.kind = BridgeKind::Ecam(memory(0x3f00_0000, 0x3f0f_ffff));
    bridge.window_64 = None;
    bridge.ats = false;
    bridge.slots.retain(|slot| matches!(slot.what, Plugged::Disk | Plugged::Accelerator));
    machine.accelerators[0].sources = [SourceId(62), SourceId(63)];
    let small = CpuFeatures { pa_bits: 36, asid_bits: 8, ..CpuFeatures::COMMON };
    machine.cpus = vec![CpuFeatures { granule_16k: false, granule_64k: false, ..small }; 2];
    machine
}

/// A PHB3 with two root ports, each with a disk. The addresses are those of a POWER8.
///
/// The CPUs are the lab's own, which are Arm's: that shows in processes' tables, which IODA2 has nothing to do with.
fn power8() -> MachineSpec {
    let doorbell = Pa::new(0x3_fffe_4010_0000);
    let port = |device| Slot { device, what: Plugged::PortWithDisk { acs: true } };
    let summary = "a POWER8 host bridge, PHB3, that translates by TCEs (IODA2); the CPUs are Arm's";
    MachineSpec {
        page: SizeLg2::KIB_64,
        host_bridges: vec![HostBridgeSpec {
            kind: BridgeKind::Phb3(Phb3Spec {
                base: Pa::new(0x3_fffe_4000_0000),
                pci_first: 0x8000_0000,
                config: model_ioda2::Config::new(doorbell),
            }),
            last_bus: 7,
            // All of M32 but its last 64 KiB, which are messages.
            window_32: memory(0x3_fe00_0000_0000, 0x3_fe00_7ffe_ffff),
            window_64: None,
            coherent: true,
            ats: false,
            smmu: None,
            its: None,
            slots: vec![port(0), port(1)],
        }],
        ..MachineSpec::bare("power8", summary, memory(0x1000_0000, 0x4fff_ffff))
    }
}

/// SMMUv2: streams are matched by registers, context banks are few, and nothing is shared with processes. Firmware keeps for the first disk what it keeps of `arm`.
fn smmuv2() -> MachineSpec {
    let base = arm();
    let bridge = HostBridgeSpec {
        ats: false,
        slots: SLOTS.into_iter().filter(|slot| slot.what != Plugged::Accelerator).collect(),
        ..base.host_bridges[0].clone()
    };
    MachineSpec {
        name: "smmuv2".into(),
        summary: "SMMUv2, 32 stream mapping groups, 16 context banks".into(),
        smmus: Vec::new(),
        smmuv2s: vec![Smmuv2Spec {
            base: Pa::new(0x0905_0000),
            coherent: true,
            config: model_smmuv2::Config::default(),
        }],
        host_bridges: vec![bridge],
        accelerators: Vec::new(),
        ..base
    }
}

/// A PC: everything behind one VT-d unit. The addresses are those of QEMU's `q35`, which people know.
fn pc() -> MachineSpec {
    let summary = "a PC with VT-d, its firmware's tables in ACPI's words";
    MachineSpec {
        host_bridges: vec![HostBridgeSpec {
            kind: BridgeKind::Ecam(memory(0xb000_0000, 0xb07f_ffff)),
            last_bus: 7,
            window_32: memory(0xc000_0000, 0xfebf_ffff),
            window_64: Some(memory(0x80_0000_0000, 0x80_ffff_ffff)),
            coherent: true,
            ats: true,
            smmu: None,
            its: None,
            slots: SLOTS.to_vec(),
        }],
        // As a BIOS keeps memory for its own use of a disk.
        reserved: vec![ReservedSpec {
            slot: (0, 1),
            iova: iovas(0x3fff_0000, 0x3fff_ffff),
            memory: Some(memory(0x3fff_0000, 0x3fff_ffff)),
        }],
        cpus: Vec::new(),
        pc: Some(PcSpec {
            cpus: vec![x86::CpuFeatures::COMMON; 2],
            units: vec![VtdSpec {
                base: Pa::new(0xfed9_0000),
                config: model_vtd::Config::default(),
                bridge: 0,
                ways: None,
            }],
            ..PcSpec::default()
        }),
        ..MachineSpec::bare("x86", summary, memory(0x10_0000, 0x4000_ffff))
    }
}

/// A PC with four VT-d units in two segments: two that name whom they cover, by ways of one step and of two, and in each segment one for all that is left. Firmware keeps memory for
/// disks of two of them, lets one root port pass on what devices with an ATC say, and knows a device that is no PCI function.
fn pc_with_units() -> MachineSpec {
    let base = pc();
    let pc = base.pc.clone().unwrap_or_default();
    let unit = |bridge, base, ways: Option<&[&[u8]]>| VtdSpec {
        base: Pa::new(base),
        config: model_vtd::Config::default(),
        bridge,
        ways: ways.map(|ways| ways.iter().map(|way| way.to_vec()).collect()),
    };
    let slot = |device, what| Slot { device, what };
    let first = HostBridgeSpec {
        window_32: memory(0xc000_0000, 0xdfff_ffff),
        slots: vec![
            slot(1, Plugged::Disk),
            slot(2, Plugged::PortWithDisk { acs: true }),
            slot(4, Plugged::PortWithDisk { acs: true }),
            slot(5, Plugged::PortWithAccelerator),
            slot(6, Plugged::PortWithPciBridge),
            slot(7, Plugged::PortWithDisk { acs: false }),
            slot(8, Plugged::PortWithAccelerator),
        ],
        ..base.host_bridges[0].clone()
    };
    let second = HostBridgeSpec {
        kind: BridgeKind::Ecam(memory(0xb100_0000, 0xb17f_ffff)),
        window_32: memory(0xe000_0000, 0xfebf_ffff),
        window_64: None,
        ats: false,
        slots: vec![slot(1, Plugged::Disk)],
        ..first.clone()
    };
    let kept = |device, first: u64| ReservedSpec {
        slot: (0, device),
        iova: iovas(first, first + 0xffff),
        memory: Some(memory(first, first + 0xffff)),
    };
    MachineSpec {
        name: "x86-units".into(),
        summary: "a PC with four VT-d units, two segments, and devices behind a PCI bridge".into(),
        host_bridges: vec![first, second],
        reserved: vec![kept(1, 0x3fff_0000), kept(7, 0x3ffd_0000)],
        accelerators: vec![AcceleratorSpec {
            base: Pa::new(0xfed0_0000),
            smmu: 2,
            sources: [SourceId(0xf8f8); 2],
            pasid_bits: 0,
            can_stall: false,
            coherent: true,
        }],
        pc: Some(PcSpec {
            units: vec![
                unit(0, 0xfed9_0000, Some(&[&[1], &[4, 0]])),
                unit(0, 0xfed9_2000, Some(&[&[5], &[6, 0]])),
                unit(0, 0xfed9_4000, None),
                unit(1, 0xfed9_6000, None),
            ],
            ats_ports: Some(vec![(0, 5)]),
            ..pc
        }),
        ..base
    }
}

/// A machine with one SMMU in front of one host bridge and one accelerator. The addresses are those of QEMU's `virt`, which people know.
fn with_smmu(name: &str, summary: &str, config: Config) -> MachineSpec {
    MachineSpec {
        smmus: vec![SmmuSpec {
            base: Pa::new(0x0905_0000),
            coherent: true,
            // Its messages come after those of every requester id.
            config: Config { msi_source: Some(SourceId(0x1_0000)), ..config },
        }],
        itses: vec![ItsSpec { base: Pa::new(0x0808_0000) }],
        host_bridges: vec![HostBridgeSpec {
            kind: BridgeKind::Ecam(memory(0x40_1000_0000, 0x40_107f_ffff)),
            last_bus: 7,
            window_32: memory(0x1000_0000, 0x3eff_ffff),
            window_64: Some(memory(0x80_0000_0000, 0x80_ffff_ffff)),
            coherent: true,
            ats: true,
            smmu: Some((0, 0)),
            its: Some((0, 0)),
            slots: SLOTS.to_vec(),
        }],
        accelerators: vec![AcceleratorSpec {
            base: Pa::new(0x0c00_0000),
            smmu: 0,
            // Behind those of every requester id.
            sources: [SourceId(0x800), SourceId(0x801)],
            pasid_bits: 16,
            can_stall: true,
            coherent: true,
        }],
        ..MachineSpec::bare(name, summary, memory(0x4000_0000, 0x7fff_ffff))
    }
}

fn memory(first: u64, last: u64) -> PaRange {
    PaRange::from_ends(Pa::new(first), Pa::new(last)).expect("the ends are in order")
}

fn iovas(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).expect("the ends are in order")
}
