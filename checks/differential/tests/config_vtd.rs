//! Our unit says of itself what QEMU's says, as far as the comparison goes.

mod on_qemu {
    use portcullis_differential::vtd::{Stage, Theirs, config};

    /// CAP_REG: ND, SAGAW, MGAW, SSLPS, PSI off or on. ECAP_REG: QI, DT, EIM without, PT, SMTS, SSTS, FSTS, NEST.
    const CAP: u64 = 0x7 | 0x1f << 8 | 0x3f << 16 | 0xf << 34;
    const ECAP: u64 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 26 | 1 << 43 | 1 << 46 | 1 << 47;

    #[test]
    fn both_units_say_the_same_of_widths_sizes_and_modes() {
        for stage in [Stage::First, Stage::Second] {
            let Some(theirs) = Theirs::for_test(stage) else { return };
            let ours = config(stage);
            // SSTS: why, `config` says.
            let ecap_mask = if stage == Stage::First { ECAP & !(1 << 46) } else { ECAP };
            let (cap, ecap) = (theirs.register(0x08).unwrap(), theirs.register(0x10).unwrap());
            assert_eq!(
                format!("{:#x}", cap & CAP),
                format!("{:#x}", ours.cap() & CAP),
                "{stage:?}: {cap:#x}"
            );
            assert_eq!(
                format!("{:#x}", ecap & ecap_mask),
                format!("{:#x}", ours.ecap() & ecap_mask),
                "{stage:?}: {ecap:#x}"
            );
        }
    }
}
