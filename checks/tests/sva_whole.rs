//! Devices that are a process's as a whole, with the shipped drivers on the models, where hardware does not confirm that they have left it.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

use model_bus::{Request, Translator};
use portcullis::core::mm::ProcessMemory;
use portcullis::hal::Barriers;
use portcullis::types::{Access, Iova, IovaRange, Pa, Perms};
use portcullis_checks::sva::before::Model;
use portcullis_checks::sva::plan::Plan;
use portcullis_checks::sva::rig::Rig;
use portcullis_checks::wrong::commands::{CommandQueue, Words, changing_in, op, opcode};
use portcullis_checks::wrong::descriptors::{InvalidationQueue, kind, type_of};
use portcullis_lab::process::{Mapping, Process, Source};
use portcullis_lab::tamper::Tamper;
use portcullis_lab::trace;

const PAGE: u64 = 0x1000;

/// While `silent`, hardware refuses to forget where devices are led.
fn refusing(silent: &Arc<AtomicBool>, is_pc: bool) -> Arc<dyn Tamper> {
    let silent = silent.clone();
    // No such command, and no such type of descriptor.
    let refused = |words: Words, code: u64| [words[0] | code, words[1]];
    if is_pc {
        Arc::new(changing_in::<InvalidationQueue>(move |words| {
            let refuses = silent.load(SeqCst) && type_of(words) == kind::PASID_CACHE;
            if refuses { refused(words, 0xf) } else { words }
        }))
    } else {
        Arc::new(changing_in::<CommandQueue>(move |words| {
            let refuses = silent.load(SeqCst) && opcode(words) == op::CFGI_STE;
            if refuses { refused(words, 0xff) } else { words }
        }))
    }
}

/// Where a read of the device's without a PASID goes, by whatever hardware remembers.
fn reaches(rig: &Rig, at: Iova) -> Option<Pa> {
    let source = rig.accels[0].device.sources()[0];
    let request = Request { source, pasid: None, iova: at, len_bytes: 1, access: Access::READ };
    let iommu: &dyn Translator = match &rig.iommu {
        Model::Smmu(smmu) => &**smmu,
        Model::Vtd(vtd) => &**vtd,
    };
    let mut to = None;
    let _refused = iommu.access(&request, &mut |passage| {
        to = Some(passage.pa);
        Ok(())
    });
    to
}

#[test]
fn what_a_process_unmaps_is_closed_to_a_device_that_hardware_has_not_said_left_it() {
    for plan in [Plan::new(1), Plan::x86(1)] {
        let silent = Arc::new(AtomicBool::new(false));
        let tamper = refusing(&silent, plan.pc.is_some());
        let rig = Rig::with(plan, Some(tamper), trace::shared(None)).unwrap();
        rig.disable(0).unwrap();
        let (device, group) = (&rig.accels[0].device, &rig.accels[0].group);
        let process = Process::new(&rig.kernel).unwrap();
        let mm: Arc<dyn ProcessMemory> = process.clone();
        let mapping =
            Mapping { at: None, len_bytes: 2 * PAGE, perms: Perms::READ_WRITE, source: Source::Anonymous };
        let first = process.map(&mapping).unwrap().first();
        let second = Iova::new(first.get() + PAGE);
        let domain = rig.sva.domain(&mm).unwrap();
        group.attach(&domain).unwrap();
        drop(domain);
        for page in [first, second] {
            process.write(page, &[7]).unwrap();
            rig.kernel.platform().full_barrier();
            assert!(reaches(&rig, page).is_some(), "{page} is the device's as well");
        }

        silent.store(true, SeqCst);
        group.remove_device(device).unwrap();
        group.detach().unwrap();
        assert!(reaches(&rig, first).is_some(), "hardware goes by what it remembers");
        process.unmap(IovaRange::new(first, PAGE).unwrap()).unwrap();
        assert_eq!(reaches(&rig, first), None, "{:?}: what is unmapped is closed", rig.iommu);
        assert!(reaches(&rig, second).is_some(), "what is not, hardware did not forget");
        silent.store(false, SeqCst);
        process.exit();
        assert_eq!(reaches(&rig, second), None, "{:?}: a dead process is closed", rig.iommu);

        group.add_device(device).unwrap();
        drop((mm, process));
        // The device was refused, and hardware what it did not take.
        let wrongs = rig.finish();
        let others = wrongs.iter().filter(|it| !it.starts_with("quiet: ") && !it.starts_with("forbidden: "));
        assert_eq!(others.collect::<Vec<_>>(), [] as [&String; 0]);
    }
}
