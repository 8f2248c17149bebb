//! The conformance suites over QEMU's SMMUv3 and VT-d: hardware that we did not write.

mod on_qemu {
    use std::sync::Arc;
    use std::time::Instant;

    use portcullis_checks::conformance::bed::Bed;
    use portcullis_checks::conformance::beds::qemu::QemuBed;
    use portcullis_checks::conformance::seam::vtd::VtD;
    use portcullis_checks::conformance::{seam, suite};
    use portcullis_qemu::Arch;
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

    /// Units of QEMU: what they are called, from which version on they are there, and which properties make them.
    const UNITS: [(&str, u32, &str); 4] = [
        ("legacy", 0, ""),
        ("caching", 0, ",caching-mode=on"),
        ("scalable", 11, ",scalable-mode=on"),
        ("first-stage", 11, ",scalable-mode=on,fsts=on"),
    ];

    #[test]
    fn vtd_of_qemu_conforms_but_for_what_is_known() {
        let mut reports = Vec::new();
        for qemu in qemus(Arch::X86_64) {
            for (name, _, properties) in UNITS.iter().filter(|(_, since, _)| qemu.version().major >= *since) {
                let started = Instant::now();
                let bed = QemuBed::start_q35(&qemu, name, properties);
                let bed = Arc::new(bed.unwrap_or_else(|error| panic!("{error}")));
                let report = seam::suite::run::<_, VtD>(&bed);
                println!("the suite took {:.1} s on {qemu}", started.elapsed().as_secs_f64());
                println!("{}", report.said(bed.name()));
                reports.push((bed.name().to_owned(), report));
            }
        }
        let failed: Vec<_> = reports.iter().flat_map(|(_, report)| &report.failed).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        reports.iter().for_each(|(bed, report)| report.hold(bed));
    }
}
