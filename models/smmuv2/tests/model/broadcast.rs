//! TLB maintenance that CPUs broadcast.

use core::sync::atomic::{AtomicBool, Ordering};

use model_bus::{Request, Translator};
use model_smmuv2::{Broadcast, Config, Policy};
use portcullis_types::{Access, Iova, SourceId};

use crate::harness::{Got, L3, Machine, lazy};

fn hearing() -> Machine {
    Machine::stage1(Config { broadcast: true, ..lazy() })
}

/// Page 0x1000 cached, and gone from the table.
fn stale(machine: &Machine) {
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0]);
}

#[test]
fn what_a_cpu_broadcasts_is_in_force_when_its_barrier_returns() {
    let address =
        |asid, first, last| Broadcast::Address { vmid: 7, asid, first, last, last_level_only: true };
    let rows = [
        (Broadcast::EveryVmid, true),
        (Broadcast::BothStages { vmid: 7 }, true),
        (Broadcast::All { vmid: 7 }, true),
        (Broadcast::All { vmid: 8 }, false),
        (Broadcast::Asid { vmid: 7, asid: 3 }, true),
        (Broadcast::Asid { vmid: 7, asid: 4 }, false),
        (address(Some(3), 0, 0xffff), true),
        (address(None, 0x1fff, 0x1fff), true),
        (address(None, 0x2000, 0xffff), false),
        (Broadcast::Stage2Address { vmid: 7, first: 0, last: 0xffff, last_level_only: false }, false),
        (Broadcast::Hypervisor, false),
    ];
    for (broadcast, goes) in rows {
        let machine = hearing();
        stale(&machine);
        machine.smmu.broadcast(&broadcast);
        assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000), "posted, and waits");
        machine.smmu.broadcast_sync();
        let expected = if goes { Got::Abort } else { Got::At(0x30_0000) };
        assert_eq!(machine.read(5, 0x1000), expected, "{broadcast:?}");
        machine.assert_clean();
    }
}

#[test]
fn a_private_smmu_and_a_private_namespace_hear_nothing() {
    let vmid = Broadcast::All { vmid: 7 };
    for (control, broadcast, goes) in [
        (0x0020_1406, Broadcast::EveryVmid, false),
        (0x0020_0c06, vmid, false),
        (0x0020_0c06, Broadcast::EveryVmid, true),
        (0x0020_0406, vmid, true),
    ] {
        let machine = hearing();
        machine.w32(0x00, control);
        stale(&machine);
        machine.smmu.broadcast(&broadcast);
        machine.smmu.broadcast_sync();
        assert_eq!(machine.read(5, 0x1000) == Got::Abort, goes, "CR0 {control:#x}");
        assert_eq!(machine.smmu.counters().broadcasts, u64::from(goes));
    }
    // BTM is 0: nothing is heard.
    let machine = Machine::stage1(lazy());
    stale(&machine);
    machine.smmu.broadcast(&Broadcast::EveryVmid);
    machine.smmu.broadcast_sync();
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
}

#[test]
fn a_synchronization_by_register_completes_no_broadcast() {
    // Nothing takes effect by itself.
    let policy = Policy { sync_ticks: 0, work_on_reads: false, ..lazy().policy };
    let machine = Machine::stage1(Config { broadcast: true, policy, ..lazy() });
    stale(&machine);
    machine.smmu.broadcast(&Broadcast::EveryVmid);
    machine.gsync();
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    machine.smmu.broadcast_sync();
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
}

#[test]
fn a_broadcast_synchronization_waits_for_accesses_of_other_threads() {
    let machine = Machine::stage1(Config { broadcast: true, ..lazy() });
    let (begun, landed) = (AtomicBool::new(false), AtomicBool::new(false));
    let request = Request {
        source: SourceId(5),
        pasid: None,
        iova: Iova::new(0x1000),
        len_bytes: 8,
        access: Access::WRITE,
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            machine.smmu.access(&request, &mut |_| {
                begun.store(true, Ordering::Release);
                (0..1000).for_each(|_| std::thread::yield_now());
                landed.store(true, Ordering::Release);
                Ok(())
            })
        });
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        machine.smmu.broadcast_sync();
        assert!(landed.load(Ordering::Acquire), "it is still under way");
    });
}
