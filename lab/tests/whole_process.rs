//! A device without PASIDs, attached as a whole to a process's memory: on models of SMMUs that hear the CPUs' invalidations, and that do not.

use std::sync::Arc;

use model_bus::{Outcome, Request, Translator};
use model_smmuv3::Smmu;
use portcullis::core::domain::DomainMapError;
use portcullis::core::mm::ProcessMemory;
use portcullis::core::sva::{BindError, ProcessDomainError, SvaRefusal};
use portcullis::hal::Barriers;
use portcullis::types::{Access, Iova, IovaRange, Pa, Perms, Prot, SourceId};
use portcullis_lab::boot::{BootRequest, Standing, System};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::process::{Kernel, Mapping, Process, Source};
use portcullis_lab::trace;

const PAGE: u64 = 4096;
/// Firmware keeps nothing mapped for this one.
const DISK: &str = "0000:01:00.0";

/// One access of the device's: what became of it, and where it went.
fn access(smmu: &Smmu, source: SourceId, at: Iova, access: Access) -> (Outcome, Option<Pa>) {
    let request = Request { source, pasid: None, iova: at, len_bytes: 1, access };
    let mut to = None;
    let outcome = smmu.access(&request, &mut |passage| {
        to = Some(passage.pa);
        Ok(())
    });
    (outcome, to)
}

fn on(
    name: &str,
    test: impl FnOnce(&Machine, &System, &Arc<Process>, &dyn Fn(Iova, Access) -> (Outcome, Option<Pa>)),
) {
    let spec = builtin::find(name).unwrap();
    let tree = fdt::emit(&spec).unwrap();
    let sink = trace::shared(None);
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
    let system = System::boot(BootRequest::new(&machine, &tree, sink)).unwrap();
    let kernel =
        Kernel::new(system.platform.clone(), machine.cpus.clone(), system.kernel_options(1).unwrap())
            .unwrap();
    let process = Process::new(&kernel).unwrap();
    let source = {
        let (_, endpoint) = system.endpoints().find(|(_, endpoint)| endpoint.name == DISK).unwrap();
        let Standing::Behind { device, .. } = &endpoint.standing else { panic!("{DISK} is uncovered") };
        device.sources()[0]
    };
    test(&machine, &system, &process, &|at, how| access(&machine.smmus[0], source, at, how));
    process.exit();
    drop(process);
    drop(kernel);
    let platform = system.platform.clone();
    system.shut_down().unwrap();
    assert_eq!((platform.live_table_bytes(), platform.live_buffer_bytes()), (0, 0));
    assert_eq!(machine.smmus[0].take_unpredictable().len(), 0);
}

fn shares_its_table(name: &str) {
    on(name, |_, system, process, access| {
        let (_, endpoint) = system.endpoints().find(|(_, endpoint)| endpoint.name == DISK).unwrap();
        let Standing::Behind { device, group } = &endpoint.standing else { panic!("{DISK} is uncovered") };
        let unit = system.unit_of(device.iommu().name()).unwrap();
        let mm: Arc<dyn ProcessMemory> = process.clone();
        let domain = unit.sva.domain(&mm).unwrap();
        group.attach(&domain).unwrap();
        let mapping =
            Mapping { at: None, len_bytes: 3 * PAGE, perms: Perms::READ_WRITE, source: Source::Anonymous };
        let area = process.map(&mapping).unwrap();
        let page = |index: u64| Iova::new(area.first().get() + index * PAGE);
        let refused = |at, how| {
            let (outcome, to) = access(at, how);
            assert_eq!((outcome, to), (Outcome::Aborted, None), "{name}: {at}");
            system.platform.bus().settle(64);
            system.service_iommus()
        };
        assert_eq!(refused(page(0), Access::READ), 1, "{name}: a page that is not present is a fault");
        for index in 0..2 {
            process.write(page(index), &[7]).unwrap();
            system.platform.full_barrier();
            let there = process.pin(page(index), true).unwrap().at();
            assert_eq!(access(page(index), Access::WRITE), (Outcome::Done, Some(there)), "{name}");
        }
        let mapped = domain.map(page(2), Pa::new(0), PAGE, Prot::cached(Perms::READ));
        assert_eq!(mapped, Err(DomainMapError::NotUsers));
        process.unmap(IovaRange::new(page(1), PAGE).unwrap()).unwrap();
        assert_eq!(refused(page(1), Access::READ), 1, "{name}: what is unmapped is closed");
        process.exit();
        assert_eq!(refused(page(0), Access::READ), 0, "{name}: a dead process's memory is closed in silence");
        let dead = unit.sva.domain(&mm).map(drop);
        assert_eq!(dead, Err(BindError::Exited), "{name}: a dead process is not shared");
        group.detach().unwrap();
    });
}

#[test]
fn a_whole_device_reaches_what_its_process_has_and_nothing_else() {
    // The second does not hear the CPUs.
    ["arm", "arm-v31"].into_iter().for_each(shares_its_table);
}

#[test]
fn a_domain_of_a_process_that_nobody_was_attached_to_goes_without_a_trace() {
    on("arm", |_, system, process, _| {
        let unit = &system.units[0];
        let mm: Arc<dyn ProcessMemory> = process.clone();
        let first = unit.sva.domain(&mm).unwrap();
        let second = unit.sva.domain(&mm).unwrap();
        drop(first);
        drop(second);
    });
}

#[test]
fn a_machine_whose_tables_the_iommu_cannot_walk_shares_no_process() {
    on("arm-stage2", |_, system, process, _| {
        let mm: Arc<dyn ProcessMemory> = process.clone();
        let refused = system.units[0].sva.domain(&mm).map(drop);
        let what = ProcessDomainError::Refused(SvaRefusal::NoFirstStage);
        assert_eq!(refused, Err(BindError::Process(what)));
    });
}
