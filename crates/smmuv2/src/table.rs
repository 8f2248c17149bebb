//! The page table of a domain, in the driver's words: which format, and what a context bank's registers must say about it.
//!
//! Spec: SMMUv2 D.c, 16.5.38 "SMMU_CBn_TCR", 16.5.39 "SMMU_CBn_TCR2", 17.3.8 "SMMU_CBn_TCR", 1.6 "SMMU address support".
//! Not here: walking, mapping, unmapping (`pgtable`), the domain's part of that (`paging`), writing the registers (`bank`).

use portcullis_core::nested::GuestTable;
use portcullis_pgtable::BreakBeforeMake;
use portcullis_pgtable::arm::{self, Stage1, Stage2};
use portcullis_spec::smmuv2::bank::{
    SEP_UPSTREAM, SHARE_INNER, SHARE_OUTER, Stage2Tcr, Tcr, Tcr2, WALK_NON_CACHEABLE, WALK_WRITE_BACK,
};
use portcullis_types::SizeLg2;

use crate::features::Features;

/// A page table, of the stage that this SMMU uses.
pub(crate) type Table = portcullis_paging::Table<Stage1, Stage2>;

/// The format of an SMMU's page tables.
pub(crate) type TableFormat = portcullis_paging::TableFormat<Stage1, Stage2>;

/// What a context bank's registers say of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BankWords {
    /// SMMU_CBn_TCR.
    pub(crate) tcr: u32,
    /// SMMU_CBn_TCR2; stage 1 only.
    pub(crate) tcr2: u32,
    /// SMMU_CBn_MAIR0 and MAIR1; stage 1 only.
    pub(crate) mair: u64,
    /// Where the root is: of a guest's table, in the guest's memory.
    pub(crate) root: u64,
}

/// What the format is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) stage2: bool,
    pub(crate) granule: SizeLg2,
    pub(crate) input_bits: Option<u8>,
    pub(crate) coherent: bool,
}

/// The format for this hardware; none if it has no sizes that a format can say.
///
/// Stage 1 alone still gives intermediate addresses, which the hardware checks against what it has for those.
/// Spec: SMMUv2 D.c, 3.7.2 "Recording a context fault", Table 3-3.
///
/// Choice: live entries are never changed from a block to a table, since the book says nothing that would allow it.
pub(crate) fn choose(features: &Features, wanted: Wanted) -> Option<TableFormat> {
    let Features { input_bits, ipa_bits, output_bits, .. } = *features;
    let (most_in, out) = if wanted.stage2 {
        (ipa_bits.min(input_bits), output_bits)
    } else {
        (input_bits, output_bits.min(ipa_bits))
    };
    let config = arm::Config {
        input_bits: wanted.input_bits.unwrap_or(most_in).min(most_in),
        output_bits: out,
        break_before_make: BreakBeforeMake::Always,
        coherent: wanted.coherent,
        ..arm::Config::new(wanted.granule)
    };
    if wanted.stage2 {
        Stage2::new(config).ok().map(TableFormat::Two)
    } else {
        Stage1::new(config).ok().map(TableFormat::One)
    }
}

/// What a bank that walks a table must say. ASIDs have 8 bits: there are no more banks.
pub(crate) fn bank_words(table: &Table) -> BankWords {
    match table {
        Table::One(table) => {
            let format = table.format();
            let (cache, share) = walks(format.config().coherent);
            let tcr = Tcr::new()
                .with_t0sz(format.t0sz())
                .with_tg0(format.tg0())
                .with_irgn0(cache)
                .with_orgn0(cache)
                .with_sh0(share)
                .with_epd1(true);
            let tcr2 = Tcr2::new()
                .with_pasize(arm::address_code(format.config().output_bits))
                .with_sep(SEP_UPSTREAM);
            let root = table.root().get();
            BankWords { tcr: tcr.into_bits(), tcr2: tcr2.into_bits(), mair: arm::MAIR, root }
        }
        Table::Two(table) => {
            let format = table.format();
            let (cache, share) = walks(format.config().coherent);
            let tcr = Stage2Tcr::new()
                .with_t0sz(format.t0sz())
                .with_sl0(format.sl0())
                .with_tg0(format.tg())
                .with_irgn0(cache)
                .with_orgn0(cache)
                .with_sh0(share)
                .with_pasize(arm::address_code(format.config().output_bits));
            BankWords { tcr: tcr.into_bits(), tcr2: 0, mair: 0, root: table.root().get() }
        }
    }
}

/// What a bank that walks a guest's table must say, whose words have been checked. None if it is no table of this architecture.
pub(crate) fn guest_words(table: &GuestTable, coherent: bool) -> Option<BankWords> {
    let &GuestTable::Vmsa64 { root, granule, input_bits, output_bits, mair } = table else { return None };
    let (cache, share) = walks(coherent);
    let tcr = Tcr::new()
        .with_t0sz(64 - input_bits)
        .with_tg0(tg0(granule)?)
        .with_irgn0(cache)
        .with_orgn0(cache)
        .with_sh0(share)
        .with_epd1(true);
    let tcr2 = Tcr2::new().with_pasize(arm::address_code(output_bits)).with_sep(SEP_UPSTREAM);
    Some(BankWords { tcr: tcr.into_bits(), tcr2: tcr2.into_bits(), mair, root: root.get() })
}

/// Spec: SMMUv2 D.c, 16.5.38 "SMMU_CBn_TCR", TG0.
const fn tg0(granule: SizeLg2) -> Option<u8> {
    match granule {
        SizeLg2::KIB_4 => Some(0b00),
        SizeLg2::KIB_64 => Some(0b01),
        SizeLg2::KIB_16 => Some(0b10),
        _ => None,
    }
}

/// Cacheability and shareability of table walks.
fn walks(coherent: bool) -> (u8, u8) {
    if coherent { (WALK_WRITE_BACK, SHARE_INNER) } else { (WALK_NON_CACHEABLE, SHARE_OUTER) }
}

#[cfg(test)]
mod tests {
    use portcullis_core::iommu::MapError;
    use portcullis_types::{Iova, Pa, Prot};

    use super::*;
    use crate::testing::{Fake, features};

    fn format(stage2: bool, granule: SizeLg2, change: impl Fn(&mut Features)) -> TableFormat {
        let mut features = features();
        change(&mut features);
        choose(&features, Wanted { stage2, granule, input_bits: None, coherent: true }).unwrap()
    }

    #[test]
    fn every_granule_and_stage_has_a_format_as_wide_as_the_bus() {
        for granule in [SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64] {
            for stage2 in [false, true] {
                for bits in [32, 36, 40, 42, 44, 48] {
                    let format = format(stage2, granule, |features| {
                        (features.input_bits, features.ipa_bits, features.output_bits) = (bits, bits, bits);
                    });
                    assert_eq!(format.page_sizes().smallest(), Some(granule));
                    assert_eq!(format.aperture().last().get(), (1 << bits) - 1, "{granule} {stage2}");
                }
            }
        }
    }

    #[test]
    fn stage_1_gives_no_address_that_intermediate_addresses_cannot_be() {
        let fake = Fake::new();
        let format = format(false, SizeLg2::KIB_4, |features| features.ipa_bits = 36);
        let mut table = Table::new(format, &*fake).unwrap();
        let beyond = Pa::new(1 << 36);
        let prot = Prot::cached(portcullis_types::Perms::READ);
        assert_eq!(
            table.map(&*fake, Iova::new(0), beyond, 0x1000, prot),
            Err(MapError::OutputTooLarge(beyond))
        );
        table.destroy(&*fake);
    }

    #[test]
    fn a_bank_is_told_the_books_words() {
        let fake = Fake::new();
        let words = |stage2, granule, coherent| {
            let wanted = Wanted { stage2, granule, input_bits: None, coherent };
            let table = Table::new(choose(&features(), wanted).unwrap(), &*fake).unwrap();
            let words = bank_words(&table);
            table.destroy(&*fake);
            (words.tcr, words.tcr2)
        };
        // T0SZ 16, write-back walks, inner shareable, EPD1; PASize 48, SEP as upstream.
        assert_eq!(words(false, SizeLg2::KIB_4, true), (0x0080_3510, 0x0003_8005));
        assert_eq!(words(false, SizeLg2::KIB_64, true), (0x0080_7510, 0x0003_8005));
        assert_eq!(words(false, SizeLg2::KIB_16, true), (0x0080_b510, 0x0003_8005));
        assert_eq!(words(false, SizeLg2::KIB_4, false), (0x0080_2010, 0x0003_8005));
        // Stage 2 from level 0: SL0 2, PASize 48.
        assert_eq!(words(true, SizeLg2::KIB_4, true), (0x0005_3590, 0));
    }
}
