//! What stream table entries and context descriptors hold, and which of their bits the hardware looks at.
//!
//! Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", 5.4 "CD, Context Descriptor".
//! Not here: where they lie (`stream_table`, `context`), how they are changed (`update`).

use portcullis_spec::smmuv3::tables::{
    CD_WORDS, CONFIG_ABORT, CONFIG_BYPASS, CONFIG_STAGE_1, CONFIG_STAGE_1_BIT, CONFIG_STAGE_2,
    CONFIG_STAGE_2_BIT, CdWord0, CdWord1, EATS_FULL, EATS_OFF, S1DSS_BYPASS, S1DSS_SSID0, S1DSS_TERMINATE,
    SHCFG_INCOMING, STE_WORDS, STRW_EL2, STRW_NS_EL1, SteWord0, SteWord1, SteWord2, SteWord3,
};
use portcullis_spec::smmuv3::{CACHE_NON_CACHEABLE, CACHE_WRITE_BACK, SHARE_INNER, SHARE_NON};
use portcullis_types::Pa;

use crate::context::ContextShape;
use crate::features::Features;

/// The words of a stream table entry.
pub type Ste = [u64; STE_WORDS];
/// The words of a context descriptor.
pub type Cd = [u64; CD_WORDS];

/// The valid bit of an STE's first word.
pub const STE_VALID: u64 = 1;
/// The valid bit of a CD's first word.
pub const CD_VALID: u64 = CdWord0::new().with_v(true).into_bits();

/// An entry that is not valid: traffic is aborted and recorded as C_BAD_STE.
pub(crate) const INVALID: Ste = [0; STE_WORDS];

/// Traffic is aborted in silence.
pub(crate) fn abort() -> Ste {
    let mut ste = INVALID;
    ste[0] = SteWord0::new().with_v(true).with_config(CONFIG_ABORT).into_bits();
    ste
}

/// Traffic passes as it is.
pub(crate) fn bypass(features: &Features) -> Ste {
    let mut ste = INVALID;
    ste[0] = SteWord0::new().with_v(true).with_config(CONFIG_BYPASS).into_bits();
    ste[1] = SteWord1::new().with_shcfg(incoming_shareability(features)).into_bits();
    ste
}

/// SHCFG that leaves shareability alone. The field is reserved where attributes cannot be overridden.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", SHCFG.
fn incoming_shareability(features: &Features) -> u8 {
    if features.attribute_override { SHCFG_INCOMING } else { 0 }
}

/// What stage 1 entries of one SMMU have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World<'a> {
    pub(crate) features: &'a Features,
    /// Whether descriptors are fetched through the CPUs' caches.
    pub(crate) coherent: bool,
    /// Whether TLB entries are tagged as those of a kernel at EL2.
    pub(crate) e2h: bool,
}

/// What an entry allows a device with stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Features1 {
    /// Translation requests are answered.
    pub(crate) ats: bool,
    /// Faults may stall, as the CD says.
    pub(crate) stall: bool,
    /// Responses to page requests carry the PASID, also those that the SMMU gives by itself.
    pub(crate) response_pasid: bool,
}

/// Stage 1 translates, as the CDs at `table` say; traffic without a SubstreamID uses CD 0. TLB entries are tagged with VMID 0, or, at EL2, with none.
pub(crate) fn stage1(world: World<'_>, table: Pa, shape: ContextShape, allowed: Features1) -> Ste {
    let World { features, coherent, e2h } = world;
    let (cache, share) =
        if coherent { (CACHE_WRITE_BACK, SHARE_INNER) } else { (CACHE_NON_CACHEABLE, SHARE_NON) };
    let substreams = shape.substream_bits > 0;
    let mut ste = INVALID;
    ste[0] = SteWord0::new()
        .with_v(true)
        .with_config(CONFIG_STAGE_1)
        .with_s1_fmt(shape.format())
        .with_s1_cd_max(shape.substream_bits)
        .with_s1_context_ptr_address(table.get())
        .into_bits();
    ste[1] = SteWord1::new()
        .with_s1_dss(if substreams { S1DSS_SSID0 } else { S1DSS_TERMINATE })
        .with_s1_cir(cache)
        .with_s1_cor(cache)
        .with_s1_csh(share)
        // The bit means something only where faults can be made to stall or not; elsewhere it is illegal.
        .with_s1_stalld(features.stall_configurable && !allowed.stall)
        .with_eats(if allowed.ats { EATS_FULL } else { EATS_OFF })
        // What the device's PRG Response PASID Required says; reserved where there are no page requests or substreams.
        .with_ppar(allowed.response_pasid && features.page_requests && features.substream_bits > 0)
        .with_strw(if e2h { STRW_EL2 } else { STRW_NS_EL1 })
        .into_bits();
    ste
}

/// The same for a device whose traffic without a SubstreamID passes as it is.
pub(crate) fn substreams_only(world: World<'_>, table: Pa, shape: ContextShape, allowed: Features1) -> Ste {
    let mut ste = stage1(world, table, shape, allowed);
    ste[1] = SteWord1::from_bits(ste[1])
        .with_s1_dss(S1DSS_BYPASS)
        .with_shcfg(incoming_shareability(world.features))
        .into_bits();
    ste
}

/// An entry on the way from `now` to `next`, both stage 1, if there is one that makes the way hitless: the table and its shape change first, what word 1
/// allows after that.
pub(crate) fn halfway(now: &Ste, next: &Ste) -> Ste {
    let mut ste = *now;
    ste[0] = next[0];
    ste[1] = SteWord1::from_bits(now[1]).with_s1_dss(SteWord1::from_bits(next[1]).s1_dss()).into_bits();
    ste
}

/// A context descriptor with another ASID: one word changes.
pub(crate) fn with_asid(mut cd: Cd, asid: u16) -> Cd {
    cd[0] = CdWord0::from_bits(cd[0]).with_asid(asid).into_bits();
    cd
}

/// Stage 2 translates, as `word2` and `word3` say: VMID, VTCR-like fields and the root table.
pub(crate) fn stage2(features: &Features, word2: SteWord2, word3: SteWord3) -> Ste {
    let mut ste = INVALID;
    ste[0] = SteWord0::new().with_v(true).with_config(CONFIG_STAGE_2).into_bits();
    ste[1] = SteWord1::new().with_shcfg(incoming_shareability(features)).into_bits();
    ste[2] = word2.into_bits();
    ste[3] = word3.into_bits();
    ste
}

/// The bits that the hardware looks at in this entry, of those that this driver ever sets.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry": in a valid entry all S2 fields but S2VMID are ignored where stage 2 bypasses, all S1 fields where
/// stage 1 does.
pub fn ste_used(ste: &Ste) -> Ste {
    let mut used = [0; STE_WORDS];
    let word0 = SteWord0::from_bits(ste[0]);
    used[0] = STE_VALID;
    if !word0.v() {
        return used;
    }
    used[0] |= SteWord0::new().with_config(0b111).into_bits();
    let config = word0.config();
    if config & CONFIG_BYPASS == 0 {
        return used;
    }
    let stage1 = config & CONFIG_STAGE_1_BIT != 0;
    let stage2 = config & CONFIG_STAGE_2_BIT != 0;
    used[1] |= SteWord1::new().with_privcfg(0b11).with_instcfg(0b11).into_bits();
    if stage1 {
        used[0] = u64::MAX;
        used[1] |= ste_word1_stage1(word0.s1_cd_max() > 0);
    }
    let bypassed = word0.s1_cd_max() > 0 && SteWord1::from_bits(ste[1]).s1_dss() == S1DSS_BYPASS;
    if !stage1 || bypassed {
        used[1] |= ste_word1_incoming();
    }
    if stage1 || stage2 {
        used[1] |= SteWord1::new().with_eats(0b11).with_ppar(true).with_mev(true).into_bits();
        used[2] |= SteWord2::new().with_s2_vmid(u16::MAX).into_bits();
    }
    if stage2 {
        used[1] |= SteWord1::new().with_s2_fwb(true).with_s2_hwu(0xf).into_bits();
        used[2] = u64::MAX;
        used[3] = u64::MAX;
    }
    used
}

/// S1DSS is ignored where there is one CD only.
fn ste_word1_stage1(substreams: bool) -> u64 {
    SteWord1::new()
        .with_s1_dss(if substreams { 0b11 } else { 0 })
        .with_s1_cir(0b11)
        .with_s1_cor(0b11)
        .with_s1_csh(0b11)
        .with_s1_stalld(true)
        .with_s1_mpam(true)
        .with_strw(0b11)
        .into_bits()
}

/// How incoming attributes are taken: looked at where stage 1 does not replace them.
fn ste_word1_incoming() -> u64 {
    SteWord1::new().with_shcfg(0b11).with_mtcfg(true).with_mem_attr(0xf).with_alloccfg(0xf).into_bits()
}

/// The bits that the hardware looks at in this descriptor.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", EPD0: T0SZ, TG0, IR0, OR0, SH0 and TTB0 are ignored where it is set.
pub fn cd_used(cd: &Cd) -> Cd {
    let mut used = [0; CD_WORDS];
    let word0 = CdWord0::from_bits(cd[0]);
    used[0] = CD_VALID;
    if !word0.v() {
        return used;
    }
    used = [u64::MAX; CD_WORDS];
    if word0.epd0() {
        let ignored =
            CdWord0::new().with_t0sz(0x3f).with_tg0(0b11).with_ir0(0b11).with_or0(0b11).with_sh0(0b11);
        used[0] &= !ignored.into_bits();
        used[1] &= !CdWord1::new().with_ttb0_address(u64::MAX).into_bits();
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableShape;
    use crate::features::IdRegisters;
    use crate::testing::Fake;
    use crate::update::{Plan, plan};

    fn features() -> Features {
        Features::decode(&IdRegisters::read(&*Fake::new())).unwrap()
    }

    fn contexts(root: u64, bits: u8) -> Ste {
        let shape = ContextShape::choose(bits, TableShape::Auto, true);
        stage1(
            World { features: &features(), coherent: true, e2h: false },
            Pa::new(root),
            shape,
            Features1::default(),
        )
    }

    fn second(vmid: u16) -> Ste {
        let word2 = SteWord2::new().with_s2_vmid(vmid).with_s2_t0sz(16).with_s2_aa64(true).with_s2_r(true);
        stage2(&features(), word2, SteWord3::new().with_s2_ttb_address(0x8765_4000))
    }

    fn way(now: &Ste, next: &Ste) -> Plan<STE_WORDS> {
        plan(now, next, STE_VALID, ste_used)
    }

    /// Looks at the entry as hardware can: at any moment each word is old or new. It must mean what it meant, what it will mean, or, if the
    /// plan says so, nothing.
    fn watch(now: &Ste, next: &Ste) {
        let meaning = |ste: &Ste| -> Ste {
            let used = ste_used(ste);
            core::array::from_fn(|word| ste[word] & used[word])
        };
        let plan = way(now, next);
        let mut from = *now;
        for image in plan.images() {
            for pick in 0..1u32 << STE_WORDS {
                let seen: Ste =
                    core::array::from_fn(|word| if pick >> word & 1 == 1 { image[word] } else { from[word] });
                let fine = [now, next].iter().any(|entry| meaning(entry) == meaning(&seen));
                assert!(
                    fine || !plan.is_hitless() && seen[0] & STE_VALID == 0,
                    "{now:x?} {next:x?} {seen:x?}"
                );
            }
            from = *image;
        }
        assert_eq!(from, *next);
    }

    #[test]
    fn no_change_between_real_entries_shows_a_mixture() {
        let features = features();
        let entries = [
            INVALID,
            abort(),
            bypass(&features),
            contexts(0x1_0000, 0),
            contexts(0x2_0000, 0),
            contexts(0x1_0000, 4),
            contexts(0x4_0000, 16),
            second(0),
            second(3),
            second(4),
        ];
        for now in &entries {
            for next in &entries {
                watch(now, next);
            }
        }
    }

    #[test]
    fn known_changes_cost_known_numbers_of_syncs() {
        let features = features();
        let (abort, bypass) = (abort(), bypass(&features));
        let cost = |now: &Ste, next: &Ste| (way(now, next).syncs(), way(now, next).is_hitless());
        assert_eq!((cost(&bypass, &abort), cost(&abort, &bypass)), ((2, true), (2, true)));
        assert_eq!(
            (cost(&contexts(0x1_0000, 0), &second(0)), cost(&second(0), &contexts(0x1_0000, 0))),
            ((3, true), (3, true))
        );
        let mut other = contexts(0x2_0000, 4);
        other[1] ^= SteWord1::new().with_s1_dss(S1DSS_BYPASS ^ S1DSS_SSID0).into_bits();
        assert_eq!(cost(&contexts(0x1_0000, 4), &other), (3, false));
        assert_eq!(cost(&contexts(0x1_0000, 0), &contexts(0x2_0000, 0)), (1, true));
        assert_eq!(cost(&INVALID, &abort), (1, true));
    }

    #[test]
    fn another_vmid_under_stage_1_is_a_deliberate_abort() {
        // S2VMID tags stage 1 entries too: with it, two words differ.
        assert!(!way(&contexts(0x1_0000, 0), &second(7)).is_hitless());
    }

    #[test]
    fn a_context_that_changes_its_asid_alone_is_one_step() {
        let word = CdWord0::new().with_v(true).with_aa64(true).with_t0sz(16).with_asid(5);
        let now: Cd = [word.into_bits(), 0x8000_0000, 0, 0xff, 0, 0, 0, 0];
        let mut next = now;
        next[0] = word.with_asid(6).into_bits();
        let plan = plan(&now, &next, CD_VALID, cd_used);
        assert_eq!((plan.syncs(), plan.is_hitless()), (1, true));
    }

    #[test]
    fn a_context_whose_walks_end_keeps_valid_and_may_lose_its_table() {
        let word = CdWord0::new().with_v(true).with_aa64(true).with_t0sz(16).with_asid(5);
        let now: Cd = [word.into_bits(), 0x8000_0000, 0, 0xff, 0, 0, 0, 0];
        let next: Cd = [word.with_epd0(true).with_t0sz(0).into_bits(), 0, 0, 0xff, 0, 0, 0, 0];
        let plan = plan(&now, &next, CD_VALID, cd_used);
        assert_eq!((plan.syncs(), plan.is_hitless()), (2, true));
    }

    #[test]
    fn reserved_shareability_is_left_zero() {
        let mut features = features();
        assert_eq!(bypass(&features)[1] >> 44 & 3, 1);
        features.attribute_override = false;
        assert_eq!(bypass(&features)[1], 0);
    }
}
