//! Processes and devices on real threads, and memory that runs out.

use std::thread;

use portcullis::accel::{Algorithm, Status};
use portcullis::types::{Iova, Pasid};
use portcullis_checks::sva::plan::{Plan, accelerator};
use portcullis_checks::sva::rig::Rig;
use portcullis_checks::sva::watched::Watched;
use portcullis_checks::sva::work::{Client, bind, job, text, unbind};

const BYTES: u64 = 0x6000;

/// A process's life: it shares, works, changes its memory, forks and exits, before or after it gives the device back.
fn life(rig: &Rig, seed: u64) {
    let process = Watched::new(&rig.kernel, &rig.judge).unwrap();
    let (source, dest) = (process.map_zeroes(BYTES).unwrap(), process.map_zeroes(BYTES).unwrap());
    let bytes = text(seed, BYTES);
    process.write(source.first(), &bytes).unwrap();
    let device = usize::try_from(seed).unwrap() % rig.accels.len();
    let mut client = Client::open(rig, &process, device).unwrap();
    for round in 0..3 {
        let copy = job(Algorithm::Copy, source.first(), BYTES, dest.first(), BYTES);
        let outcome = client.run(rig, copy).unwrap();
        assert_eq!(outcome.status, Status::Done, "seed {seed}, round {round}");
        assert_eq!(process.read(dest.first(), bytes.len()).unwrap(), bytes);
        let child = process.fork().unwrap();
        process.unmap(dest).unwrap();
        process
            .map(&portcullis_lab::process::Mapping {
                at: Some(dest.first()),
                len_bytes: BYTES,
                perms: portcullis::types::Perms::READ_WRITE,
                source: portcullis_lab::process::Source::Anonymous,
            })
            .unwrap();
        assert_eq!(child.read(dest.first(), bytes.len()).unwrap(), bytes, "a child keeps what it had");
        child.exit();
    }
    if seed.is_multiple_of(2) {
        client.submit(job(Algorithm::Fill(1), source.first(), BYTES, dest.first(), BYTES));
        process.exit();
        client.close(rig).unwrap();
    } else {
        client.close(rig).unwrap();
        process.exit();
    }
}

#[test]
fn part_17_lives_on_several_cpus_end_with_everything_given_back() {
    for seed in 0..5 {
        let machine = if seed == 4 { Plan::x86(seed) } else { Plan::new(seed) };
        let mut plan = Plan { strict: false, ..machine };
        plan.pcie = vec![accelerator(seed), accelerator(seed + 1)];
        plan.pcie[1].stop_marker = true;
        let rig = Rig::new(plan).unwrap();
        thread::scope(|scope| {
            for worker in 0..4 {
                let rig = &rig;
                scope.spawn(move || (0..3).for_each(|round| life(rig, worker + 4 * round)));
            }
        });
        assert_eq!(rig.finish(), [] as [String; 0], "seed {seed}");
    }
}

/// Unwind: wherever memory runs out in a bind, what was there before is there after, and the next bind works.
#[test]
fn part_17_a_bind_that_runs_out_of_memory_leaves_no_trace() {
    for plan in [Plan::new(7).platform_only(), Plan::new(7).pcie_only()] {
        let rig = Rig::new(plan).unwrap();
        let process = Watched::new(&rig.kernel, &rig.judge).unwrap();
        // A PASID whose descriptor lies in a table that is not there yet.
        let far = Pasid::new(0x1234).unwrap();
        assert_eq!(rig.pasids.hold(&process.memory(), far..=far), Ok(far));
        let failures =
            until_it_works(&rig, || bind(&rig, &process, 0).map(|bond| unbind(&rig, 0, &bond).unwrap()));
        assert!(failures > 0, "something was allocated");
        rig.pasids.put(far).unwrap();
        process.exit();
        // Who could not be bound has nothing of it when it exits.
        for requests in 0..failures {
            let process = Watched::new(&rig.kernel, &rig.judge).unwrap();
            assert_eq!(rig.pasids.hold(&process.memory(), far..=far), Ok(far));
            rig.bus.cpu().heap().fail_after(requests);
            let bound = bind(&rig, &process, 0);
            rig.bus.cpu().heap().fail_after(1 << 40);
            let refused = bound.map(drop).unwrap_err();
            assert!(refused.contains("NoMemory"), "request {requests}: {refused}");
            rig.pasids.put(far).unwrap();
            process.exit();
            assert_eq!(rig.pasids.in_use(), 0, "request {requests}");
        }
        assert_eq!(rig.finish(), [] as [String; 0]);
    }
}

/// The same for a device that is enabled.
#[test]
fn part_16_an_enable_that_runs_out_of_memory_leaves_no_trace() {
    for plan in [Plan::new(8).platform_only(), Plan::new(8).pcie_only()] {
        let rig = Rig::new(plan).unwrap();
        rig.disable(0).unwrap();
        let failures = until_it_works(&rig, || rig.enable(0));
        assert!(failures > 0, "something was allocated");
        let process = Watched::new(&rig.kernel, &rig.judge).unwrap();
        let bond = bind(&rig, &process, 0).unwrap();
        unbind(&rig, 0, &bond).unwrap();
        drop(bond);
        process.exit();
        assert_eq!(rig.finish(), [] as [String; 0]);
    }
}

/// Has the first, the second, and so on, request for memory refused, until `work` needs fewer. Answers how often it failed.
fn until_it_works<E: core::fmt::Debug>(rig: &Rig, work: impl Fn() -> Result<(), E>) -> u64 {
    for requests in 0..40 {
        let before = rig.bus.cpu().heap().used().live_bytes;
        rig.bus.cpu().heap().fail_after(requests);
        let done = work();
        rig.bus.cpu().heap().fail_after(1 << 40);
        match done {
            Ok(()) => return requests,
            Err(_) => assert_eq!(rig.bus.cpu().heap().used().live_bytes, before, "request {requests}"),
        }
    }
    panic!("it never works");
}

#[test]
fn an_address_that_is_not_the_process_s_is_refused_by_every_form() {
    let rig = Rig::new(Plan::new(3)).unwrap();
    for device in 0..2 {
        let process = Watched::new(&rig.kernel, &rig.judge).unwrap();
        let dest = process.map_zeroes(0x1000).unwrap();
        let mut client = Client::open(&rig, &process, device).unwrap();
        let outcome =
            client.run(&rig, job(Algorithm::Copy, Iova::new(0x5000_0000), 16, dest.first(), 16)).unwrap();
        assert_eq!(outcome.status, Status::SourceFault);
        client.close(&rig).unwrap();
        process.exit();
    }
    assert_eq!(rig.finish(), [] as [String; 0]);
}
