//! Operations cost the same register accesses and commands on QEMU's SMMUv3 as on a model with the same features, and as many writes as the
//! table of costs says.

mod on_qemu {
    use model_smmuv3::{Config, Policy};
    use portcullis_checks::conformance::bed::Bed;
    use portcullis_checks::conformance::beds::model::ModelBed;
    use portcullis_checks::conformance::beds::qemu::QemuBed;
    use portcullis_checks::conformance::cost::{Line, table};
    use portcullis_checks::conformance::sight::Ids;
    use portcullis_qemu::testing::qemus;

    /// A model that says of itself what these registers say.
    fn twin(ids: Ids) -> Config {
        let bit = |word: u32, position: u32| word >> position & 1 == 1;
        let narrow = |value: u32| u8::try_from(value).expect("a field of a few bits");
        let field = |word: u32, low: u32, bits: u32| narrow(word >> low & ((1 << bits) - 1));
        Config {
            minor_revision: 1,
            stage1: bit(ids.idr0, 1),
            stage2: bit(ids.idr0, 0),
            output_bits: narrow(ids.output_bits()),
            asid_16_bits: bit(ids.idr0, 12),
            vmid_16_bits: bit(ids.idr0, 18),
            stream_id_bits: field(ids.idr1, 0, 6),
            substream_id_bits: field(ids.idr1, 6, 5),
            two_level_streams: field(ids.idr0, 27, 2) == 1,
            two_level_contexts: bit(ids.idr0, 19),
            command_queue_lg2: field(ids.idr1, 21, 5),
            event_queue_lg2: field(ids.idr1, 16, 5),
            range_invalidation: bit(ids.idr3, 10),
            break_before_make_level: field(ids.idr3, 11, 2),
            msi: bit(ids.idr0, 13),
            terminate_aborts: bit(ids.idr0, 26),
            // Figures must not depend on dice.
            policy: Policy::eager(),
            ..Config::default()
        }
    }

    /// Writes and commands of an operation in the table of costs of the default machine.
    fn listed(operation: &str) -> Option<(u64, String)> {
        let table = include_str!("../snapshots/cost__arm.snap");
        let line = table.lines().find(|line| line.split("  ").next() == Some(operation))?;
        let rest = line.get(26 + 9 * 3..)?;
        let (counts, commands) = rest.split_at(14.min(rest.len()));
        let writes = counts.split_whitespace().nth(1)?.parse().ok()?;
        Some((writes, commands.trim().to_owned()))
    }

    #[test]
    fn operations_cost_on_qemu_what_they_cost_on_the_model() {
        for qemu in qemus(QemuBed::ARCH) {
            let bed = QemuBed::start(&qemu).unwrap_or_else(|error| panic!("{error}"));
            let on_qemu = table(&bed);
            let twin = ModelBed::with_config("model-twin", twin(Ids::read(&bed.registers())));
            let on_model = table(&twin);
            for (qemus, models) in on_qemu.iter().zip(&on_model) {
                assert_eq!(qemus, models, "{qemu}");
            }
            assert_eq!(on_qemu.len(), on_model.len());
            let mut compared = 0;
            for Line { operation, accesses, commands } in &on_qemu {
                println!(
                    "{operation:<26}{:>4} reads{:>4} writes  {commands}",
                    accesses.reads, accesses.writes
                );
                if let Some((writes, listed)) = listed(operation) {
                    assert_eq!((accesses.writes, commands), (writes, &listed), "{qemu}: {operation}");
                    compared += 1;
                }
            }
            assert!(compared >= 20, "{compared} operations are in the table of costs");
        }
    }
}
