//! The conformance suite over QEMU's SMMUv3: hardware that we did not write.

mod on_qemu {
    use std::sync::Arc;
    use std::time::Instant;

    use portcullis_checks::conformance::bed::Bed;
    use portcullis_checks::conformance::beds::qemu::QemuBed;
    use portcullis_checks::conformance::suite;
    use portcullis_qemu::testing::qemus;

    #[test]
    fn qemu_conforms_but_for_what_is_known() {
        let mut reports = Vec::new();
        for qemu in qemus(QemuBed::ARCH) {
            let started = Instant::now();
            let bed = Arc::new(QemuBed::start(&qemu).unwrap_or_else(|error| panic!("{error}")));
            let report = suite::run(&bed, |_| true);
            println!("the suite took {:.1} s on {qemu}", started.elapsed().as_secs_f64());
            println!("{}", report.said(bed.name()));
            reports.push((bed, report));
        }
        reports.iter().for_each(|(bed, report)| report.hold(bed.name()));
    }
}
