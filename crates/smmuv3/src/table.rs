//! The page table of a domain, in the driver's words: which format, and what STE and CD must say about it.
//!
//! Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", 5.2 "STE, Stream Table Entry", the S2 fields.
//! Not here: walking, mapping, unmapping (`pgtable`), and the domain's part of that (`paging`).

use portcullis_hal::{Platform, Registers};
use portcullis_pgtable::arm::{self, MAIR, Stage1, Stage2};
use portcullis_pgtable::{BreakBeforeMake, PageTable};
use portcullis_spec::smmuv3::tables::{
    CD_WORDS, CdWord0, CdWord1, CdWord2, CdWord3, SteWord2, SteWord3, WALK_NON_CACHEABLE, WALK_WRITE_BACK,
};
use portcullis_spec::smmuv3::{SHARE_INNER, SHARE_OUTER};
use portcullis_types::{SizeLg2, mutant};

use crate::entry::Cd;
use crate::hardware::Hardware;

/// Bits of input that a page table has if nobody asks for others: what four levels of 4 KiB tables give.
const INPUT_BITS: u8 = 48;

/// A page table, of the stage that this SMMU uses.
pub(crate) type Table = portcullis_paging::Table<Stage1, Stage2>;

/// The format of an SMMU's page tables.
pub(crate) type TableFormat = portcullis_paging::TableFormat<Stage1, Stage2>;

/// What the hardware is like, of what formats ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) stage2: bool,
    pub(crate) granule: SizeLg2,
    pub(crate) input_bits: Option<u8>,
    pub(crate) coherent: bool,
}

/// The format for this hardware; none if it has no sizes that a format can say.
pub(crate) fn choose(features: &crate::Features, wanted: Wanted) -> Option<TableFormat> {
    let granule = wanted.granule;
    // Large descriptors only where memory is beyond what others reach: they take the shareability field.
    let large = granule != SizeLg2::KIB_64 && features.large_addresses && features.output_bits > 48;
    let wide = large || granule == SizeLg2::KIB_64;
    let most_out = if wide { features.output_bits } else { features.output_bits.min(48) };
    let most_in = match (wanted.stage2, wide) {
        (true, _) => most_out,
        (false, true) => features.input_bits,
        (false, false) => 48,
    };
    let config = arm::Config {
        input_bits: wanted.input_bits.unwrap_or(INPUT_BITS).min(most_in),
        output_bits: most_out,
        large,
        break_before_make: match features.break_before_make_level {
            0 => BreakBeforeMake::Always,
            1 => BreakBeforeMake::ForBlocks,
            _ => BreakBeforeMake::Never,
        },
        coherent: wanted.coherent,
        ..arm::Config::new(granule)
    };
    if wanted.stage2 {
        Stage2::new(config).ok().map(TableFormat::Two)
    } else {
        Stage1::new(config).ok().map(TableFormat::One)
    }
}

/// The context descriptor that leads to a stage 1 table.
///
/// Faults are recorded and abort; they stall only where hardware knows nothing else. Only TTB0 is used. The ASID is the SMMU's own, not the CPUs'.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
pub(crate) fn context<P: Platform, R: Registers>(
    hardware: &Hardware<P, R>,
    table: &PageTable<Stage1>,
    asid: u16,
) -> Cd {
    let format = table.format();
    let (cache, share) = walks(hardware.coherent());
    let mut cd = [0; CD_WORDS];
    cd[0] = CdWord0::new()
        .with_t0sz(format.t0sz())
        .with_tg0(format.tg0())
        .with_ir0(cache)
        .with_or0(cache)
        .with_sh0(share)
        .with_epd1(true)
        .with_v(true)
        .with_ips(arm::address_code(format.config().output_bits))
        .with_aa64(true)
        .with_s(hardware.features.stall_forced)
        .with_r(true)
        .with_a(true)
        .with_aset(true)
        .with_asid(if mutant!("asid-a-bit-too-high") { asid << 1 } else { asid })
        .into_bits();
    cd[1] = CdWord1::new().with_ttb0_address(table.root().get()).into_bits();
    cd[2] = CdWord2::new().with_ds(format.config().large).into_bits();
    cd[3] = CdWord3::new().with_mair(MAIR).into_bits();
    cd
}

/// The words of a stream table entry that lead to a stage 2 table.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", S2VMID to S2TTB.
pub(crate) fn stage2_words<P: Platform, R: Registers>(
    hardware: &Hardware<P, R>,
    table: &PageTable<Stage2>,
    vmid: u16,
) -> (SteWord2, SteWord3) {
    let format = table.format();
    let (cache, share) = walks(hardware.coherent());
    let word2 = SteWord2::new()
        .with_s2_vmid(vmid)
        .with_s2_t0sz(format.t0sz())
        .with_s2_sl0(format.sl0())
        .with_s2_ir0(cache)
        .with_s2_or0(cache)
        .with_s2_sh0(share)
        .with_s2_tg(format.tg())
        .with_s2_ps(arm::address_code(format.config().output_bits))
        .with_s2_aa64(true)
        .with_s2_s(hardware.features.stall_forced)
        .with_s2_r(true);
    let word3 = SteWord3::new().with_s2_ds(format.config().large).with_s2_ttb_address(table.root().get());
    (word2, word3)
}

/// Cacheability and shareability of table walks.
fn walks(coherent: bool) -> (u8, u8) {
    if coherent { (WALK_WRITE_BACK, SHARE_INNER) } else { (WALK_NON_CACHEABLE, SHARE_OUTER) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Features, IdRegisters};
    use crate::testing::Fake;

    fn format(
        stage2: bool,
        granule: SizeLg2,
        change: impl Fn(&mut Features),
        bits: Option<u8>,
    ) -> TableFormat {
        let mut features = Features::decode(&IdRegisters::read(&*Fake::new())).unwrap();
        change(&mut features);
        let wanted = Wanted { stage2, granule, input_bits: bits, coherent: true };
        choose(&features, wanted).unwrap()
    }

    fn last(format: &TableFormat) -> u64 {
        format.aperture().last().get()
    }

    #[test]
    fn every_granule_and_stage_has_a_format() {
        for granule in [SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64] {
            for stage2 in [false, true] {
                for (output_bits, large) in
                    [(32, false), (40, false), (44, false), (48, false), (52, false), (52, true)]
                {
                    let format = format(
                        stage2,
                        granule,
                        |features| (features.output_bits, features.large_addresses) = (output_bits, large),
                        None,
                    );
                    assert_eq!(format.page_sizes().smallest(), Some(granule));
                    let wanted = if stage2 { output_bits.min(48) } else { 48 };
                    assert_eq!(last(&format), (1 << wanted) - 1, "{granule} {stage2} {output_bits}");
                }
            }
        }
    }

    #[test]
    fn fewer_and_more_input_bits_can_be_had_where_hardware_has_them() {
        let wide = |features: &mut Features| (features.output_bits, features.input_bits) = (52, 52);
        assert_eq!(last(&format(false, SizeLg2::KIB_4, wide, Some(39))), (1 << 39) - 1);
        assert_eq!(last(&format(false, SizeLg2::KIB_4, wide, Some(52))), (1 << 48) - 1);
        assert_eq!(last(&format(false, SizeLg2::KIB_64, wide, Some(52))), (1 << 52) - 1);
        assert_eq!(last(&format(true, SizeLg2::KIB_64, wide, Some(52))), (1 << 52) - 1);
        let large = |features: &mut Features| {
            wide(features);
            features.large_addresses = true;
        };
        assert_eq!(last(&format(false, SizeLg2::KIB_4, large, Some(52))), (1 << 52) - 1);
    }

    #[test]
    fn output_sizes_have_the_codes_of_the_book() {
        let codes = [(32, 0), (36, 1), (40, 2), (42, 3), (44, 4), (48, 5), (52, 6)];
        assert!(codes.iter().all(|&(bits, code)| arm::address_code(bits) == code));
    }
}
