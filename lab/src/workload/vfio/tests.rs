//! Groups of several devices, and machines whose disk is not handed over.

use std::sync::Arc;

use portcullis::core::bus::{BindError, Driver};
use portcullis::core::owner::{ClaimError, Owner};

use super::program::Program;
use super::*;
use crate::boot::Bound;
use crate::machine::fdt;
use crate::machine::spec::Plugged;
use crate::machine::{Machine, builtin};
use crate::trace::Memory;

/// The default machine with one disk alone, behind a port that isolates nothing.
fn with_port() -> MachineSpec {
    let mut spec = builtin::find("arm").unwrap();
    spec.reserved.clear();
    let slots = &mut spec.host_bridges[0].slots;
    slots.retain(|slot| slot.what == Plugged::PortWithDisk { acs: false });
    assert_eq!(slots.len(), 1);
    spec
}

fn job<'a>(spec: MachineSpec, input: &'a Opened, sink: SharedSink) -> Job<'a> {
    Job {
        spec,
        device_tree: None,
        input,
        seed: 1,
        unsafe_interrupts: false,
        kill: false,
        sink,
        tamper: None,
        progress: None,
    }
}

/// The error of a machine whose disk is not handed over.
fn refusal(spec: MachineSpec, device_tree: Option<Vec<u8>>, unsafe_interrupts: bool) -> String {
    let input = Opened::beginning_of_sample(5000);
    let job = job(spec, &input, crate::trace::shared(None));
    match run(&Job { device_tree, unsafe_interrupts, ..job }) {
        Err(RunError::Refused(trouble)) => format!("{}: {}; {}", trouble.at, trouble.what, trouble.hint),
        other => panic!("it is not refused: {other:?}"),
    }
}

/// A driver that uses the DMA API, and does nothing.
struct Idle;

impl Bound for Idle {
    fn stop(self: Box<Self>) -> Result<(), RunError> {
        Ok(())
    }
}

/// A machine that has booted, with processes.
struct Rig {
    // Dropped in this order.
    kernel: Arc<UserKernel>,
    system: System,
    memory: Arc<Memory>,
    _machine: Machine,
}

impl Rig {
    fn new(spec: MachineSpec) -> Self {
        let memory = Arc::new(Memory::default());
        let sink: SharedSink = memory.clone();
        let tree = fdt::emit(&spec).unwrap();
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
        let system = System::boot(BootRequest::new(&machine, &tree, sink)).unwrap();
        let kernel = UserKernel::new(&system, 1).unwrap();
        Self { kernel, system, memory, _machine: machine }
    }

    fn bind_vfio(&self, name: &str) {
        let at = find(&self.system, name).unwrap();
        vfio::bind(&self.system, self.kernel.vfio(), self.kernel.user_interrupts(), at).unwrap();
    }

    fn bind_idle(&self, name: &str) -> Result<(), BindError<RunError>> {
        let (_, endpoint) = find(&self.system, name).unwrap();
        endpoint.binding.bind(Driver::new("idle"), || Ok(()), |_| Ok(Box::new(Idle) as Box<dyn Bound>))
    }

    fn unbind(&self, name: &str) {
        unbind(&find(&self.system, name).unwrap().1.binding).unwrap();
    }

    fn place(&self, name: &str) -> Place<LabPlatform> {
        hand::check(&self.system, name, false).unwrap()
    }

    fn said(&self, words: &[&str]) -> bool {
        self.memory.lines().iter().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

const PORT: &str = "0000:00:04.0";
const DISK: &str = "0000:01:00.0";

#[test]
fn a_group_of_two_functions_without_acs_goes_to_one_user_and_comes_back_together() {
    let memory = Arc::new(Memory::default());
    let input = Opened::beginning_of_sample(5000);
    let outcome = run(&job(with_port(), &input, memory.clone())).unwrap();
    // Twice while it is held: two devices, each refused by its group and by its place, and a claim of the whole. Before: one. A second process: one.
    assert_eq!(outcome.counters.vfio.unwrap().claims_refused, 2 * (2 * 2 + 1) + 1 + 1);
    let lines = memory.lines();
    for device in [PORT, DISK] {
        let domains: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with(&format!("core attach: dev={device} ")))
            .filter_map(|line| line.split("domain=").nth(1)?.split(' ').next())
            .collect();
        assert_eq!(domains, ["dma", "blocked", "unmanaged", "blocked", "dma"], "{device}");
        let refused = format!("core dma_use: dev={device} ");
        assert!(lines.iter().any(|line| line.starts_with(&refused) && line.ends_with("result=refused")));
    }
}

#[test]
fn the_functions_of_a_group_cannot_be_split_between_the_kernel_and_a_user() {
    let rig = Rig::new(with_port());
    rig.unbind(PORT);
    rig.bind_idle(PORT).unwrap();
    rig.bind_vfio(DISK);
    let place = rig.place(DISK);
    assert!(place.group.devices().iter().any(|device| device.name() == PORT));

    let task = rig.kernel.spawn().unwrap();
    Program::must_be_refused(&task, place.group.id()).unwrap();
    let in_the_way = ["core claim:", "by=0000:00:04.0", "driver=idle", "result=refused"];
    assert!(rig.said(&in_the_way), "the refusal says who is in the way: {:#?}", rig.memory.lines());
    drop(task);

    rig.unbind(PORT);
    let task = rig.kernel.spawn().unwrap();
    let program = Program::join(&task, place.group.id()).unwrap();
    let bound = rig.bind_idle(PORT).unwrap_err();
    assert!(matches!(bound, BindError::Configure(_)), "{bound:?}");
    assert!(rig.said(&["core dma_use: dev=0000:00:04.0", "driver=idle", "result=refused"]));
    let somebody = Arc::new(0);
    let port = place.group.devices().into_iter().find(|device| device.name() == PORT).unwrap();
    let claimed = place.group.claim_device(&port, Owner::of(&somebody)).unwrap_err();
    assert!(matches!(claimed, ClaimError::Owned(_)), "{claimed:?}");
    program.leave().unwrap();
    rig.bind_idle(PORT).unwrap();
    rig.unbind(PORT);
    rig.unbind(DISK);
    drop(place);
    drop(task);
    rig.system.shut_down().unwrap();
}

#[test]
fn a_driver_that_is_unbound_while_a_process_has_the_device_leaves_it_with_nothing() {
    let rig = Rig::new(with_port());
    rig.bind_vfio(DISK);
    let task = rig.kernel.spawn().unwrap();
    let mut program = Program::join(&task, rig.place(DISK).group.id()).unwrap();
    program.set_iommu().unwrap();
    program.start(DISK).unwrap();
    rig.unbind(DISK);
    let failed = program.submit(0, 4096).and_then(|()| program.collect()).unwrap_err();
    assert!(failed.to_string().contains("no interrupt"), "{failed}");
    drop(program);
    drop(task);
    held::nothing_kept(&rig.kernel, DISK).unwrap();
    rig.system.shut_down().unwrap();
}

/// The tree with one string in the place of another of the same length.
fn with_word(mut tree: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let at = (0..tree.len() - old.len()).find(|&at| tree[at..].starts_with(old.as_bytes())).unwrap();
    tree[at..at + new.len()].copy_from_slice(new.as_bytes());
    tree
}

#[test]
fn a_machine_whose_interrupts_are_not_isolated_is_refused_unless_that_is_allowed() {
    let spec = builtin::find("arm-small").unwrap();
    let tree = with_word(fdt::emit(&spec).unwrap(), "arm,gic-v3-its", "acm,gic-v3-its");
    let said = refusal(spec.clone(), Some(tree.clone()), false);
    assert!(said.contains("not isolated") && said.contains("--unsafe-interrupts"), "{said}");
    // Allowed, it comes as far as the kernel's driver, which has no model of that controller.
    let said = refusal(spec, Some(tree), true);
    assert!(said.contains("none that the lab has a model of"), "{said}");
}

#[test]
fn a_disk_with_wires_for_interrupts_is_refused() {
    let mut spec = builtin::find("arm-small").unwrap();
    spec.host_bridges[0].its = None;
    let said = refusal(spec, None, false);
    assert!(said.contains("no interrupts by wires"), "{said}");
}

#[test]
fn a_disk_of_which_firmware_keeps_something_mapped_is_refused_by_region_and_table() {
    let mut spec = builtin::find("arm").unwrap();
    spec.host_bridges[0].slots.retain(|slot| slot.what == Plugged::Disk);
    let said = refusal(spec, None, false);
    assert!(said.contains("0x4fff0000") && said.contains("reserved-memory"), "{said}");
}

#[test]
fn a_disk_that_no_iommu_covers_and_a_machine_without_disk_are_refused() {
    let mut spec = builtin::find("arm-small").unwrap();
    spec.host_bridges[0].smmu = None;
    assert!(refusal(spec.clone(), None, false).contains("no IOMMU covers it"));
    spec.host_bridges[0].slots.clear();
    assert!(refusal(spec, None, false).contains("no NVMe disk"));
}
