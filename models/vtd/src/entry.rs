//! Entries of root, context, PASID directory and PASID tables: their words, and what they mean.
//!
//! Each `decode` says what an entry with P=1 means, or which fault it is. Whether it is present, and FPD, is looked at before.
//!
//! Spec: VT-d 5.10, 9.1 "Root Entry" to 9.6 "Scalable-Mode PASID Table Entry"; 7.1.3, Table 30, LCT, SCT, SPD and SPT.

use crate::bits::{bit, field, half, low, mask};
use crate::config::{Config, Scalable};
use crate::reason::Reason;

/// P of any entry.
pub(crate) const fn is_present(word: u64) -> bool {
    bit(word, 0)
}

/// FPD of a context, directory or PASID-table entry: looked at even if it is not present.
pub(crate) const fn is_silent(word: u64) -> bool {
    bit(word, 1)
}

/// The address in bits 63:12.
pub(crate) const fn pointer(word: u64) -> u64 {
    word & mask(63, 12)
}

/// AW: levels, if the part walks so many.
fn levels(aw: u64, config: &Config) -> Option<u32> {
    let levels = u32::try_from(aw).ok()?.checked_add(2)?;
    config.depths.has(levels).then_some(levels)
}

/// Bits of a domain id that the part does not have.
fn domain_reserved(domain: u16, config: &Config) -> bool {
    domain & !config.domain_mask() != 0
}

/// Whether a root entry, or half of a scalable-mode one, has reserved bits set.
pub(crate) fn root_reserved(word: u64, config: &Config) -> bool {
    word & (mask(11, 1) | config.beyond_host()) != 0
}

/// What a context entry has done with requests. Spec: 9.3, TT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// 00b: untranslated requests only.
    Untranslated,
    /// 01b: and ATS.
    WithAts,
    /// 10b.
    PassThrough,
}

/// A context entry of legacy mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) kind: Type,
    pub(crate) domain: u16,
    pub(crate) root: u64,
    pub(crate) levels: u32,
}

impl Context {
    pub(crate) fn decode(words: [u64; 2], config: &Config) -> Result<Self, Reason> {
        let kind = field(words[0], 3, 2);
        let beyond = if kind == 2 { 0 } else { config.beyond_host() };
        let domain = half(words[1], 8);
        let reserved = words[0] & (mask(11, 4) | beyond) != 0 || words[1] & (mask(63, 24) | 1 << 7) != 0;
        if reserved || domain_reserved(domain, config) {
            return Err(Reason::ContextReserved);
        }
        let kind = match kind {
            0 => Type::Untranslated,
            1 if config.device_tlbs => Type::WithAts,
            2 if config.pass_through => Type::PassThrough,
            _ => return Err(Reason::ContextInvalid),
        };
        let levels = levels(field(words[1], 2, 0), config).ok_or(Reason::ContextInvalid)?;
        Ok(Self { kind, domain, root: pointer(words[0]), levels })
    }
}

/// A context entry of scalable mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScalableContext {
    pub(crate) directory: u64,
    /// The directory has PASIDs below this.
    pub(crate) pasid_end: u32,
    pub(crate) device_tlb: bool,
    pub(crate) pasids: bool,
    pub(crate) page_requests: bool,
    pub(crate) translated_pasids: bool,
    pub(crate) rid_pasid: u32,
    pub(crate) rid_priv: bool,
}

impl ScalableContext {
    pub(crate) fn decode(words: [u64; 4], config: &Config) -> Result<Self, Reason> {
        let has = |test: fn(&Scalable) -> bool| config.scalable_has(test);
        let mut reserved = mask(8, 7) | 1 << 5 | config.beyond_host();
        let absent = [
            (config.device_tlbs, 2),
            (has(|mode| mode.pasid_bits.is_some()), 3),
            (has(|mode| mode.page_requests), 4),
            (has(|mode| mode.translated_pasid), 6),
        ];
        absent.iter().filter(|(there, _)| !there).for_each(|&(_, n)| reserved |= 1 << n);
        let mut above = mask(63, 21);
        if !has(|mode| mode.rid_pasid) {
            above |= mask(19, 0);
        }
        if !has(|mode| mode.rid_priv) {
            above |= 1 << 20;
        }
        if words[0] & reserved != 0 || words[1] & above != 0 || words[2] | words[3] != 0 {
            return Err(Reason::ScalableContextReserved);
        }
        let entry = Self {
            directory: pointer(words[0]),
            // 2^(X+7) directory entries of 64 PASIDs each.
            pasid_end: 1 << (low(field(words[0], 11, 9)) + 13),
            device_tlb: bit(words[0], 2),
            pasids: bit(words[0], 3),
            page_requests: bit(words[0], 4),
            translated_pasids: bit(words[0], 6),
            rid_pasid: low(field(words[1], 19, 0)),
            rid_priv: bit(words[1], 20),
        };
        let contradicts = entry.page_requests && !entry.device_tlb
            || entry.rid_pasid >= entry.pasid_end
            || entry.translated_pasids && !entry.pasids;
        if contradicts { Err(Reason::ScalableContextInvalid) } else { Ok(entry) }
    }
}

/// Whether a present PASID directory entry has reserved bits set.
pub(crate) fn directory_reserved(word: u64, config: &Config) -> bool {
    word & (mask(11, 2) | config.beyond_host()) != 0
}

/// PGTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granular {
    First,
    Second,
    Nested,
    PassThrough,
}

/// A PASID-table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PasidEntry {
    pub(crate) kind: Granular,
    pub(crate) domain: u16,
    pub(crate) second_root: u64,
    /// Of the second stage; 0 where there is none.
    pub(crate) second_levels: u32,
    pub(crate) second_dirty: bool,
    pub(crate) first_root: u64,
    /// Of the first stage; 0 where there is none.
    pub(crate) first_levels: u32,
    pub(crate) supervisor: bool,
    pub(crate) write_protect: bool,
    pub(crate) extended_accessed: bool,
    /// PWSNP: walks snoop.
    pub(crate) walks_snoop: bool,
}

impl PasidEntry {
    pub(crate) fn decode(words: &[u64; 8], config: &Config) -> Result<Self, Reason> {
        if words.iter().zip(Self::reserved(config)).any(|(word, reserved)| word & reserved != 0)
            || domain_reserved(half(words[1], 0), config)
        {
            return Err(Reason::PasidReserved);
        }
        let has = |test: fn(&Scalable) -> bool| config.scalable_has(test);
        let kind = match field(words[0], 8, 6) {
            1 if has(|mode| mode.first_stage) => Granular::First,
            2 if has(|mode| mode.second_stage) => Granular::Second,
            3 if has(|mode| mode.nested) => Granular::Nested,
            4 if config.pass_through => Granular::PassThrough,
            _ => return Err(Reason::PasidInvalid),
        };
        let (first, second) = match kind {
            Granular::First => (true, false),
            Granular::Second => (false, true),
            Granular::Nested => (true, true),
            Granular::PassThrough => (false, false),
        };
        let second_levels =
            if second { levels(field(words[0], 4, 2), config).ok_or(Reason::PasidInvalid)? } else { 0 };
        let first_levels = match (first, field(words[2], 3, 2)) {
            (false, _) => 0,
            (true, 0) => 4,
            (true, 1) if has(|mode| mode.first_stage_5_levels) => 5,
            _ => return Err(Reason::PasidInvalid),
        };
        let entry = Self {
            kind,
            domain: half(words[1], 0),
            second_root: pointer(words[0]),
            second_levels,
            second_dirty: second && bit(words[0], 9),
            first_root: pointer(words[2]),
            first_levels,
            supervisor: bit(words[2], 0),
            write_protect: bit(words[2], 4),
            extended_accessed: first && bit(words[2], 7),
            walks_snoop: bit(words[1], 23),
        };
        // "FSPTPTR represents an address above (2^X - 1)."
        if kind == Granular::Nested && entry.first_root >> guest_width(second_levels, config) != 0 {
            return Err(Reason::PasidInvalid);
        }
        Ok(entry)
    }

    /// The reserved bits of the eight words.
    fn reserved(config: &Config) -> [u64; 8] {
        let has = |test: fn(&Scalable) -> bool| config.scalable_has(test);
        let beyond = config.beyond_host();
        // Memory types (CD, EMTE, PAT) and host permission tables are not there.
        let mut words = [
            mask(11, 10) | 1 << 5 | beyond,
            mask(22, 16) | mask(31, 25) | mask(63, 32),
            mask(11, 8) | 1 << 1 | beyond,
            u64::MAX,
            u64::MAX,
            u64::MAX,
            u64::MAX,
            u64::MAX,
        ];
        if !has(|mode| mode.second_stage) {
            words[0] |= mask(63, 12) | mask(4, 2);
        }
        if !has(|mode| mode.second_stage && mode.second_stage_dirty) {
            words[0] |= 1 << 9;
        }
        if !has(|mode| mode.coherent_walks) {
            words[1] |= 1 << 23;
        }
        if !config.snoop_control {
            words[1] |= 1 << 24;
        }
        if !has(|mode| mode.first_stage) {
            words[2] |= mask(63, 12) | mask(4, 2);
        }
        if !has(|mode| mode.supervisor_requests) {
            words[2] |= 1;
        }
        if !has(|mode| mode.extended_accessed) {
            words[2] |= 1 << 7;
        }
        words
    }
}

/// How many bits of an address the second stage takes: "the minimum of MGAW and the value in the Address-Width (AW) field".
pub(crate) fn guest_width(levels: u32, config: &Config) -> u32 {
    (9 * levels + 12).min(u32::from(config.guest_bits))
}
