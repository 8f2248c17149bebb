//! What becomes of one access: the procedure from the device's request to a physical address or a refusal.
//!
//! Spec: SMMUv3 H.a, 3.3.3 "Configuration and Translation lookup", 3.4 "Address sizes", 3.12 "Fault models, recording and reporting",
//! 5.5 "Fault configuration (A, R, S bits)".

use portcullis_types::AccessKind;

use crate::cd::Cd;
use crate::contexts::Regime;
use crate::descriptor::Rights;
use crate::engine::{Engine, Refusal};
use crate::event::{Asked, Class, Event, EventKind, Fault};
use crate::ste::{Overrides, Stage2};
use crate::tlb::{Space, Translation};
use crate::walk::canonical;

/// An access that is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Where its first byte goes.
    pub(crate) output: u64,
    /// The translation that was used; none if the stream is bypassed.
    pub(crate) translation: Option<Translation>,
    pub(crate) overrides: Overrides,
    /// It was cached.
    pub(crate) hit: bool,
}

impl Engine<'_> {
    /// Judges an access.
    pub(crate) fn translate(&mut self, asked: &Asked) -> Result<Grant, Refusal> {
        // 1. Configuration: STE, then CD.
        let regime = self.regime(asked)?;
        // 2. Attributes: what the STE overrides.
        let asked = &overridden(asked, &regime.overrides);
        let needed = Rights::needed(asked.kind, asked.privileged);
        // 3. Stage 1 bypassed: "this fault occurs when the output address is outside the address range implemented".
        //    It is always recorded: no descriptor says otherwise.
        let limit = if regime.stage2.is_some() { self.config.ias() } else { self.config.oas() };
        if regime.stage1.is_none() && asked.address >> limit != 0 {
            let fault =
                Fault { kind: EventKind::AddressSize, stage2: false, class: Class::In, ipa: 0, fetch: 0 };
            return Err(Refusal::recorded(Event::Fault(*asked, fault)));
        }
        if regime.stage1.is_none() && regime.stage2.is_none() {
            let overrides = regime.overrides;
            return Ok(Grant { output: asked.address, translation: None, overrides, hit: false });
        }
        // 4. Translation: cached, or walked.
        let (cd, stage2) = (regime.stage1.as_ref(), regime.stage2.as_ref());
        let (translation, hit) =
            self.find_or_walk(&regime, asked, needed).map_err(|fault| refuse(asked, fault, cd, stage2))?;
        // 5. Permissions: stage 1 first.
        let address = cd.map_or(asked.address, |cd| canonical(cd, asked.address));
        check(&translation, address, needed).map_err(|fault| refuse(asked, fault, cd, stage2))?;
        let output = translation.output_of(address);
        Ok(Grant { output, translation: Some(translation), overrides: regime.overrides, hit })
    }

    /// The translation of an access, and whether it was cached.
    pub(crate) fn find_or_walk(
        &mut self,
        regime: &Regime,
        asked: &Asked,
        needed: Rights,
    ) -> Result<(Translation, bool), Fault> {
        let (space, aset, address) = place(regime, asked);
        if !self.fresh
            && let Some(&found) = self.caches.tlb.find(space, aset, address)
            && !found.is_clean_for(needed)
        {
            return Ok((found, true));
        }
        let walked = match (&regime.stage1, &regime.stage2) {
            (Some(cd), _) => self.walk_stage1(regime, cd, asked, needed),
            (None, Some(stage2)) => self.stage2_leaf(stage2, address, Class::In, asked, needed),
            // The caller let bypassed streams through.
            (None, None) => {
                Err(Fault { kind: EventKind::Translation, stage2: false, class: Class::In, ipa: 0, fetch: 0 })
            }
        };
        walked.map(|translation| (translation, false))
    }
}

/// Where a translation of the access is cached: space, ASET, address.
pub(crate) fn place(regime: &Regime, asked: &Asked) -> (Space, bool, u64) {
    match &regime.stage1 {
        Some(cd) => {
            let space = Space::Private { world: cd.world, vmid: regime.vmid, asid: cd.asid };
            (space, cd.private, canonical(cd, asked.address))
        }
        None => (Space::Stage2 { vmid: regime.vmid }, false, asked.address),
    }
}

/// The access as the STE makes it. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", PRIVCFG, INSTCFG (reads only).
pub(crate) fn overridden(asked: &Asked, overrides: &Overrides) -> Asked {
    let kind = match (asked.kind, overrides.instruction) {
        (AccessKind::Read | AccessKind::Execute, Some(true)) => AccessKind::Execute,
        (AccessKind::Read | AccessKind::Execute, Some(false)) => AccessKind::Read,
        (kind, _) => kind,
    };
    Asked { kind, privileged: overrides.privileged.unwrap_or(asked.privileged), ..*asked }
}

/// Whether both stages allow what is needed: stage 1 first.
pub(crate) fn check(translation: &Translation, address: u64, needed: Rights) -> Result<(), Fault> {
    let permission =
        |stage2, ipa| Fault { kind: EventKind::Permission, stage2, class: Class::In, ipa, fetch: 0 };
    if translation.stage1.is_some_and(|(_, rights)| !rights.allow(needed)) {
        return Err(permission(false, 0));
    }
    if translation.stage2.is_some_and(|(_, rights)| !rights.allow(needed)) {
        let offset = address - translation.first;
        let ipa = if translation.stage1.is_some() { translation.ipa + offset } else { address };
        return Err(permission(true, ipa));
    }
    Ok(())
}

/// What a fault does to the access.
///
/// Spec: SMMUv3 H.a, 5.5 "Fault configuration (A, R, S bits)": stage 1 by CD.A, CD.R and CD.S, stage 2 by STE.S2R and STE.S2S, and never ignored.
/// What is held back is always recorded, whatever R says.
/// Anything but translation, size, access flag and permission faults is recorded and aborted.
pub(crate) fn refuse(asked: &Asked, fault: Fault, cd: Option<&Cd>, stage2: Option<&Stage2>) -> Refusal {
    let event = Event::Fault(*asked, fault);
    let configurable = !matches!(fault.kind, EventKind::WalkAbort | EventKind::TlbConflict);
    let (record, ignored, stalls) = match (fault.stage2, cd, stage2) {
        _ if !configurable => (true, false, false),
        (true, _, Some(stage2)) => (stage2.record, false, stage2.stall),
        (false, Some(cd), _) => (cd.record, !cd.abort, cd.stall),
        _ => (true, false, false),
    };
    Refusal { event: (record || stalls).then_some(event), ignored: ignored && !stalls, stalls }
}
