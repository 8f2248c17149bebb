//! From an access to an address, or to a fault: the stages one after the other.
//!
//! Spec: SMMUv2 D.c, 2.1.1 "SMMU transaction processing", 3.7.2, Tables 3-1 to 3-4 (what addresses may be), 3.8.4 for the widths of AArch32 contexts.
//! Not here: which banks (`stream`), what a fault does (`verdict`).

use crate::descriptor::Rights;
use crate::fault::{Asked, Fault, FaultKind};
use crate::regime::{Regime, Stage1, Stage2, on_bus};
use crate::tlb::{Space, Translation};
use crate::walk::{Engine, check_stage1, space_of};

/// An access that is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Where its first byte goes.
    pub(crate) output: u64,
    /// The translation that was used; none if no stage translates.
    pub(crate) translation: Option<(Translation, u64)>,
    /// It was cached.
    pub(crate) hit: bool,
}

/// What is wrong with an address before any bank translates it. It comes before faults that banks hold already.
pub(crate) fn check_input(regime: &Regime, address: u64) -> Option<Fault> {
    match (&regime.stage1, &regime.stage2) {
        // "VA <= 32 bits for Stage 1 V7 contexts."
        (Some(stage1), _) if !stage1.wide && address >> 32 != 0 => {
            Some(Fault::stage1(FaultKind::Translation, 1))
        }
        // "IPA <= 40 bits for Stage 2 V7 contexts."
        (None, Some(stage2)) if !stage2.wide && address >> 40 != 0 => {
            let kind = if stage2.on { FaultKind::Translation } else { FaultKind::AddressSize };
            Some(Fault::stage2(kind, 1, address))
        }
        _ => None,
    }
}

impl Engine<'_> {
    /// Translates an access.
    pub(crate) fn translate(&mut self, regime: &Regime, asked: &Asked) -> Result<Grant, Fault> {
        let (address, fits) = on_bus(asked.address, self.config);
        if !fits && self.config.upstream_faults {
            let stage2 = regime.stage1.is_none();
            return Err(Fault { stage2, ipa: address, ..Fault::stage1(FaultKind::UnsupportedUpstream, 0) });
        }
        match &regime.stage1 {
            Some(stage1) if stage1.on => self.through_stage1(regime, stage1, address, asked),
            Some(stage1) => {
                if address >> stage1.untranslated_bits != 0 {
                    return Err(Fault::stage1(FaultKind::AddressSize, stage1.level_before_tables()));
                }
                self.through_stage2(regime, address, asked)
            }
            None => self.through_stage2(regime, address, asked),
        }
    }

    fn through_stage1(
        &mut self,
        regime: &Regime,
        stage1: &Stage1,
        address: u64,
        asked: &Asked,
    ) -> Result<Grant, Fault> {
        let outside = Fault::stage1(FaultKind::Translation, stage1.level_before_tables());
        let (half, address) = stage1.place(address).ok_or(outside)?;
        let nested = regime.stage2.as_ref().is_some_and(|stage2| stage2.on);
        let cached = if self.fresh { None } else { self.tlb.find(space_of(stage1, nested), address) };
        let hit = cached.is_some();
        let translation = match cached {
            Some(translation) => translation,
            None => self.walk_stage1(regime, stage1, half, address, asked)?,
        };
        if let Some(half) = &translation.stage1 {
            check_stage1(half, asked)?;
        }
        check_stage2(&translation, translation.ipa_of(address), asked)?;
        let output = translation.output_of(address);
        if let Some(stage2) = regime.stage2.as_ref().filter(|stage2| !stage2.on) {
            check_untranslated(stage2, output)?;
        }
        Ok(Grant { output, translation: Some((translation, address)), hit })
    }

    fn through_stage2(&mut self, regime: &Regime, ipa: u64, asked: &Asked) -> Result<Grant, Fault> {
        let Some(stage2) = &regime.stage2 else {
            return Ok(Grant { output: ipa, translation: None, hit: false });
        };
        if !stage2.on {
            check_untranslated(stage2, ipa)?;
            return Ok(Grant { output: ipa, translation: None, hit: false });
        }
        let hit = !self.fresh && self.tlb.find(Space::Stage2 { vmid: stage2.vmid }, ipa).is_some();
        let translation = self.stage2_leaf(stage2, ipa, regime.bank_of(true))?;
        check_stage2(&translation, ipa, asked)?;
        Ok(Grant { output: translation.output_of(ipa), translation: Some((translation, ipa)), hit })
    }
}

fn check_stage2(translation: &Translation, ipa: u64, asked: &Asked) -> Result<(), Fault> {
    let needed = Rights::needed(asked.kind, asked.privileged);
    match translation.stage2 {
        Some(half) if !half.rights.allow(needed) => {
            Err(Fault::stage2(FaultKind::Permission, half.level, ipa))
        }
        _ => Ok(()),
    }
}

/// "PA is greater than the output address size", where stage 2 does not translate.
fn check_untranslated(stage2: &Stage2, output: u64) -> Result<(), Fault> {
    if output >> stage2.untranslated_bits == 0 {
        Ok(())
    } else {
        Err(Fault::stage2(FaultKind::AddressSize, u8::from(!stage2.wide), output))
    }
}
