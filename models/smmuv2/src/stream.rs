//! From a StreamID to what is done with the stream.
//!
//! Spec: SMMUv2 D.c, 2.3 "Context determination", 9.6.23 "SMMU_S2CRn", 9.6.25 "SMMU_SMRn"; 3.8.4 "Invalid context checking pseudocode".
//! Not here: extended stream matching (EXSMRG), compressed indexing.

use model_bus::Notes;
use portcullis_types::AccessKind;

use crate::bank::BankType;
use crate::bits::{bit, field, flag};
use crate::config::Config;
use crate::fault::{Asked, FaultKind, GlobalFault};
use crate::registers::{Registers, cr0};
use crate::strict::clause;

/// What is to be done with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Nothing.
    Bypass,
    /// It goes through a context bank, and perhaps one more for stage 2. The access is as S2CR makes it.
    Banks { first: u8, second: Option<u8>, asked: Asked },
}

/// A group of the stream mapping table matches these StreamIDs: those with `id` in the bits that are not in `mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: u32,
    mask: u32,
}

impl Entry {
    fn matches(self, stream: u32) -> bool {
        (stream ^ self.id) & !self.mask == 0
    }

    fn overlaps(self, other: Self) -> bool {
        (self.id ^ other.id) & !(self.mask | other.mask) == 0
    }
}

impl Registers {
    /// EXIDENABLE counts only where it can be set.
    pub(crate) fn extended(&self) -> bool {
        self.is_on(cr0::EXIDENABLE)
    }

    /// A valid entry of the stream mapping table.
    fn entry(&self, group: usize, config: &Config) -> Option<Entry> {
        let (smr, s2cr) = (*self.smr.get(group)?, *self.s2cr.get(group)?);
        let extended = self.extended();
        let valid = if extended { bit(s2cr, 10) } else { bit(smr, 31) };
        let within = config.stream_mask(extended);
        valid.then_some(Entry { id: smr & within, mask: smr >> 16 & within })
    }

    /// The groups that match a StreamID.
    fn matching(&self, stream: u32, config: &Config) -> Vec<usize> {
        if !config.stream_matching {
            return usize::try_from(stream)
                .ok()
                .filter(|&group| group < self.s2cr.len())
                .into_iter()
                .collect();
        }
        (0..self.smr.len())
            .filter(|&group| self.entry(group, config).is_some_and(|entry| entry.matches(stream)))
            .collect()
    }

    /// Pairs of groups that match some StreamID both.
    pub(crate) fn conflicts(&self, config: &Config) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        if !config.stream_matching {
            return found;
        }
        let entries: Vec<(usize, Entry)> = (0..self.smr.len())
            .filter_map(|group| self.entry(group, config).map(|entry| (group, entry)))
            .collect();
        for (position, &(one, first)) in entries.iter().enumerate() {
            let rest = entries[position + 1..].iter().filter(|(_, other)| first.overlaps(*other));
            found.extend(rest.map(|&(other, _)| (one, other)));
        }
        found
    }

    /// Where an access goes. `pick` chooses between several entries if the part does not notice that there are several.
    pub(crate) fn route(
        &self,
        asked: &Asked,
        config: &Config,
        pick: u64,
        notes: &mut Notes,
    ) -> Result<Route, GlobalFault> {
        // 1. The client port is disabled: no translation, no check.
        if self.is_on(cr0::CLIENTPD) {
            return Ok(Route::Bypass);
        }
        // 2. The stream mapping table.
        let global = |kind| GlobalFault { kind, nested: false };
        let found = self.matching(asked.stream, config);
        let group = match found[..] {
            [] if self.is_on(cr0::USFCFG) => return Err(global(FaultKind::UnidentifiedStream)),
            [] => return Ok(Route::Bypass),
            [group] => group,
            [..] => {
                notes.record(
                    clause::MULTIPLE_MATCH,
                    format!("stream {:#x} matches groups {found:?}", asked.stream),
                );
                match (config.conflict_detection, self.is_on(cr0::SMCFCFG)) {
                    (false, _) => found[usize::try_from(pick % found.len() as u64).unwrap_or(0)],
                    (true, true) => return Err(global(FaultKind::StreamMatchConflict)),
                    (true, false) => return Ok(Route::Bypass),
                }
            }
        };
        // 3. What the group says.
        let s2cr = u64::from(self.s2cr[group]);
        match field(s2cr, 17, 16) {
            0 => {}
            1 => return Ok(Route::Bypass),
            _ => return Err(global(FaultKind::InvalidContext)),
        }
        let first = field(s2cr, 7, 0) as u8;
        // 4. What the banks say.
        let second = self.check_banks(first, config)?;
        Ok(Route::Banks { first, second, asked: conditioned(asked, s2cr, config, notes) })
    }

    /// CheckBankValidityAndRecordFaults of the book, in its order. Answers with the bank of stage 2, if there is one behind stage 1.
    fn check_banks(&self, first: u8, config: &Config) -> Result<Option<u8>, GlobalFault> {
        let fault = |kind, nested| GlobalFault { kind, nested };
        let bank = self.bank(first).ok_or_else(|| fault(FaultKind::UnimplementedBank, false))?;
        let kind = bank.kind();
        let unsupported = match kind {
            BankType::Nested(_) => !config.nested,
            BankType::Stage1 => !config.stage1,
            BankType::Stage2 => !config.stage2,
            BankType::Stage1Fault => true,
        };
        // A bank that can do stage 2 only has no other type: it is read only there.
        if unsupported {
            return Err(fault(FaultKind::InvalidContext, true));
        }
        let BankType::Nested(second) = kind else { return Ok(None) };
        let behind = self.bank(second).ok_or_else(|| fault(FaultKind::UnimplementedBank, true))?;
        if !behind.is_stage2() || (bank.is_wide() && !behind.is_wide()) {
            return Err(fault(FaultKind::InvalidContext, true));
        }
        Ok(Some(second))
    }
}

/// The access as S2CR makes it. Spec: SMMUv2 D.c, 9.6.23 "SMMU_S2CRn", INSTCFG (reads only) and PRIVCFG; 2.4.1 for reserved values.
fn conditioned(asked: &Asked, s2cr: u64, config: &Config, notes: &mut Notes) -> Asked {
    let (instruction, privilege) = (field(s2cr, 27, 26), field(s2cr, 25, 24));
    if instruction == 1 || (privilege == 1 && !config.privileged_access_never) {
        notes.record(clause::RESERVED_ATTRIBUTE, format!("S2CR {s2cr:#x}"));
    }
    let kind = match (asked.kind, instruction) {
        (AccessKind::Write, _) => AccessKind::Write,
        (_, 2) => AccessKind::Read,
        (_, 1 | 3) => AccessKind::Execute,
        (kind, _) => kind,
    };
    let access_never = privilege == 1 && config.privileged_access_never;
    let privileged = match privilege {
        1 => access_never,
        2 => false,
        3 => true,
        _ => asked.privileged,
    };
    Asked { kind, privileged, access_never, ..*asked }
}

/// Bits of S2CR that no format has for Non-secure software.
pub(crate) fn s2cr_reserved(value: u32, config: &Config) -> u32 {
    value & (3 << 18 | if config.extended_ids { 0 } else { 1 << 10 })
}

/// What SMR keeps of a value. Unimplemented bits are RAZ/WI.
pub(crate) fn smr_as_stored(value: u32, extended: bool, config: &Config) -> u32 {
    let within = config.stream_mask(extended);
    let mask = within & u32::from(config.match_mask);
    let valid = if extended { 0 } else { value & 1 << 31 };
    valid | (value >> 16 & mask) << 16 | value & within
}

/// Whether bit 15 of SMR, which no StreamID of 15 bits has, is set.
pub(crate) fn smr_reserved(value: u32, extended: bool) -> bool {
    !extended && flag(value.into(), 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_overlap_when_some_stream_matches_both() {
        let entry = |id, mask| Entry { id, mask };
        let all: Vec<Entry> = (0..8).flat_map(|id| (0..8).map(move |mask| entry(id, mask))).collect();
        for &one in &all {
            for &other in &all {
                let both = (0..8).any(|stream| one.matches(stream) && other.matches(stream));
                assert_eq!(one.overlaps(other), both, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn only_bits_that_are_there_are_kept() {
        let narrow = Config { stream_id_bits: 8, match_mask: 0x000f, ..Config::default() };
        assert_eq!(smr_as_stored(0xffff_ffff, false, &narrow), 0x800f_00ff);
        let extended = Config { extended_ids: true, match_mask: 0xffff, ..Config::default() };
        assert_eq!(smr_as_stored(0xf00d_beef, true, &extended), 0xf00d_beef);
        assert_eq!(smr_as_stored(0xf00d_beef, false, &extended), 0xf00d_3eef);
        assert!(smr_reserved(0x8000, false) && !smr_reserved(0x8000, true));
    }
}
