//! The workloads on QEMU's hardware.

mod on_qemu {
    use std::fs;
    use std::sync::{Arc, PoisonError, RwLock};

    use portcullis::types::Pa;
    use portcullis_lab::error::RunError;
    use portcullis_lab::input::{Input, Opened};
    use portcullis_lab::machine::qemu::Job;
    use portcullis_lab::platform::{Barrier, Tamper};
    use portcullis_lab::tamper::Hands;
    use portcullis_lab::trace;
    use portcullis_lab::workload::{dma, spapr, sva, vfio};
    use portcullis_qemu::{Arch, Qemu, testing};

    /// Written by the test that kills the QEMUs that it finds, so that it finds no others than its own.
    static OTHERS: RwLock<()> = RwLock::new(());

    /// The QEMUs that there are, one after the other, none of which anyone kills.
    fn qemus(arch: Arch) -> impl Iterator<Item = Qemu> {
        let unharmed = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
        testing::qemus(arch).into_iter().inspect(move |_| _ = &unharmed)
    }

    fn dma_with(
        qemu: &Qemu,
        input: &Opened,
        tamper: Option<Arc<dyn Tamper>>,
    ) -> Result<dma::Outcome, RunError> {
        let sink = trace::shared(None);
        dma::run_on_qemu(qemu, &Job { input, seed: 1, sink, tamper, progress: None })
    }

    fn a_disk_is_read_on(arch: Arch) {
        for qemu in qemus(arch) {
            let input = Input::Sample.open().unwrap();
            let outcome = dma_with(&qemu, &input, None).unwrap();
            assert_eq!(outcome.digest, input.measure().digest);
            let counters = outcome.counters;
            assert!(counters.maps > 0 && counters.maps == counters.unmaps, "{counters:?}");
            assert!(counters.interrupts > 0 && counters.register_accesses > 0, "{counters:?}");
            assert!(counters.probes > 100 && counters.probes == counters.probes_blocked, "{counters:?}");
        }
    }

    #[test]
    fn a_disk_is_read_through_an_smmu_that_is_not_ours() {
        a_disk_is_read_on(Arch::Aarch64);
    }

    #[test]
    fn a_disk_is_read_through_a_phb3_that_is_not_ours() {
        a_disk_is_read_on(Arch::Ppc64);
    }

    #[test]
    fn a_user_makes_windows_of_every_shape_in_a_phb3_that_is_not_ours_and_gives_the_disk_back_or_dies() {
        for qemu in qemus(Arch::Ppc64) {
            let input = Input::Sample.open().unwrap();
            for kill in [false, true] {
                let sink = trace::shared(None);
                let job = Job { input: &input, seed: 1, sink, tamper: None, progress: None };
                let outcome = spapr::run_on_qemu(&qemu, &job, spapr::Windows::default(), kill).unwrap();
                assert_eq!(outcome.digest, input.measure().digest);
                let counters = outcome.counters;
                assert!(counters.probes > 100 && counters.probes == counters.probes_blocked, "{counters:?}");
                let spapr = counters.spapr.unwrap();
                if !kill {
                    assert_eq!((spapr.reads, spapr.shapes, spapr.reached), (3, 7, 14));
                }
            }
        }
    }

    #[test]
    fn an_input_of_no_bytes_and_one_that_fills_no_block_are_read() {
        for qemu in qemus(Arch::Aarch64) {
            for bytes in [0, 1, 513] {
                let path = std::env::temp_dir().join(format!("portcullis-{}-{bytes}, a", std::process::id()));
                fs::write(&path, vec![0x5a; bytes]).unwrap();
                let input = Input::File(path.clone()).open().unwrap();
                let outcome = dma_with(&qemu, &input, None);
                fs::remove_file(path).unwrap();
                assert_eq!(outcome.unwrap().digest, input.measure().digest);
            }
        }
    }

    #[test]
    fn a_process_shares_its_whole_table_with_a_disk_that_has_no_pasids() {
        for qemu in qemus(Arch::Aarch64) {
            let input = Input::Sample.open().unwrap();
            let job = Job { input: &input, seed: 1, sink: trace::shared(None), tamper: None, progress: None };
            let outcome = sva::whole::run_on_qemu(&qemu, &job).unwrap();
            assert_eq!(outcome.digest.as_deref(), Some(&*input.measure().digest));
            assert_eq!(outcome.counters.probes_blocked, 6);
        }
    }

    #[test]
    fn a_user_reads_the_disk_and_gives_it_back_or_dies() {
        for qemu in qemus(Arch::Aarch64) {
            let input = Input::Sample.open().unwrap();
            for kill in [false, true] {
                let sink = trace::shared(None);
                let job = Job { input: &input, seed: 1, sink, tamper: None, progress: None };
                let outcome = vfio::run_on_qemu(&qemu, &job, kill).unwrap();
                assert_eq!(outcome.digest, input.measure().digest);
                let counters = outcome.counters;
                assert!(counters.probes > 100 && counters.probes == counters.probes_blocked, "{counters:?}");
            }
        }
    }

    /// Makes invalidations by address or ASID be about another ASID. Spec: SMMUv3 H.a, 4.4.2 "CMD_TLBI_NH_VA", 4.4.2 "CMD_TLBI_NH_ASID": ASID
    /// in bits 63:48 of the first word.
    struct OtherAsid;

    impl Tamper for OtherAsid {
        fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
            let invalidates = matches!(word & 0xff, 0x11 | 0x12) && word >> 48 != 0 && at.is_aligned(16);
            hands.store(at, if invalidates { word ^ 0x7000 << 48 } else { word });
        }
    }

    #[test]
    fn a_driver_that_leaves_the_tlb_as_it_is_gets_caught() {
        for qemu in qemus(Arch::Aarch64) {
            let input = Input::Sample.open().unwrap();
            let error = dma_with(&qemu, &input, Some(Arc::new(OtherAsid))).unwrap_err();
            // The disk wrote to where it had once been led, or reaches what was unmapped.
            let told = error.to_string();
            assert!(told.contains("isolation") || told.contains("the bytes that were read differ"), "{told}");
        }
    }

    /// Forgets every barrier for stores.
    struct NoBarriers;

    impl Tamper for NoBarriers {
        fn barrier(&self, hands: Hands<'_>, barrier: Barrier) {
            if barrier == Barrier::Read {
                hands.barrier(barrier);
            }
        }
    }

    #[test]
    fn a_driver_that_does_not_order_its_stores_gets_caught() {
        for qemu in qemus(Arch::Aarch64) {
            let input = Input::Sample.open().unwrap();
            let caught = dma_with(&qemu, &input, Some(Arc::new(NoBarriers))).map(drop).unwrap_err();
            assert!(matches!(caught, RunError::Wrong(_)), "{caught:?}");
        }
    }

    #[test]
    fn a_qemu_that_ends_in_the_middle_is_told_with_its_last_words_and_reaped() {
        let _others = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
        for qemu in testing::qemus(Arch::Aarch64) {
            let input = Input::Sample.open().unwrap();
            let end = |_, _| {
                for pid in children() {
                    let killed = std::process::Command::new("/bin/kill").args(["-KILL", &pid]).status();
                    assert!(killed.unwrap().success());
                }
            };
            let sink = trace::shared(None);
            let job = Job { input: &input, seed: 1, sink, tamper: None, progress: Some(&end) };
            let error = dma::run_on_qemu(&qemu, &job).unwrap_err();
            let RunError::Wrong(trouble) = &error else { panic!("{error}") };
            assert!(trouble.at == "QEMU" && trouble.what.contains("signal: 9"), "{error}");
            assert!(children().is_empty());
        }
    }

    /// The QEMUs that this process has started and that run.
    fn children() -> Vec<String> {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
        let pids: Vec<String> =
            children.flat_map(|line| line.split_whitespace().map(String::from).collect::<Vec<_>>()).collect();
        let is_qemu = |pid: &String| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("qemu-system"))
        };
        pids.into_iter().filter(is_qemu).collect()
    }
}
