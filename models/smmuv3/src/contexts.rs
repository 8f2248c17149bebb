//! Finding the context descriptor of a stream and substream: one, linear and two-level tables.
//!
//! Spec: SMMUv3 H.a, 5.3 "L1CD, Level 1 Context Descriptor", 5.4 "CD, Context Descriptor", 7.3.7 "F_STREAM_DISABLED",
//! 7.3.9 "C_BAD_SUBSTREAMID", 7.3.10 "F_CD_FETCH", 7.3.11 "C_BAD_CD".

use crate::cache::CachedCd;
use crate::cd::{self, Cd};
use crate::descriptor::Rights;
use crate::engine::{Engine, Refusal};
use crate::event::{Asked, Class, Event};
use crate::ste::{Contexts, DefaultSubstream, Overrides, Stage2, Ste, flag};
use crate::strict::clause;

/// How an access is to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regime {
    pub(crate) stage1: Option<Cd>,
    pub(crate) stage2: Option<Stage2>,
    pub(crate) vmid: u16,
    pub(crate) overrides: Overrides,
}

impl Engine<'_> {
    /// How the access is to be translated, or why it is refused before any translation.
    pub(crate) fn regime(&mut self, asked: &Asked) -> Result<Regime, Refusal> {
        let Ste::Pass { contexts, stage2, vmid, overrides } = self.ste(asked)? else {
            // "Config == 0b000: terminated with abort; no event is recorded."
            return Err(Refusal::SILENT);
        };
        let bypass = Regime { stage1: None, stage2, vmid, overrides };
        let Some(contexts) = contexts else {
            // C_BAD_SUBSTREAMID: "Stage 1 translation disabled".
            return asked.substream.map_or(Ok(bypass), |ssid| Err(bad_substream(asked, ssid)));
        };
        match self.choose_context(asked, &contexts)? {
            None => Ok(bypass),
            Some(index) => {
                let cd = self.cd(asked, &contexts, index, stage2.as_ref(), vmid)?;
                Ok(Regime { stage1: Some(cd), ..bypass })
            }
        }
    }

    /// Which descriptor of the table; none to bypass stage 1.
    fn choose_context(&self, asked: &Asked, contexts: &Contexts) -> Result<Option<u32>, Refusal> {
        match (asked.substream, contexts.lg2, contexts.default_substream) {
            (None, 0, _) | (None, _, DefaultSubstream::UseZero) => Ok(Some(0)),
            (None, _, DefaultSubstream::Bypass) => Ok(None),
            (None, _, DefaultSubstream::Terminate) => Err(Refusal::recorded(Event::StreamDisabled(*asked))),
            // "Substreams disabled (STE.S1CDMax == 0)", "SMMU_IDR1.SSIDSIZE == 0", "SubstreamID >= 2^S1CDMax".
            (Some(ssid), lg2, _) if lg2 == 0 || ssid >> lg2 != 0 => Err(bad_substream(asked, ssid)),
            // "SubstreamID 0 when S1DSS == 0b10 (CD 0 is Reserved for non-substream traffic)".
            (Some(0), _, DefaultSubstream::UseZero) => Err(Refusal::recorded(Event::StreamDisabled(*asked))),
            (Some(ssid), ..) => Ok(Some(ssid)),
        }
    }

    fn cd(
        &mut self,
        asked: &Asked,
        contexts: &Contexts,
        index: u32,
        stage2: Option<&Stage2>,
        vmid: u16,
    ) -> Result<Cd, Refusal> {
        let cached = match self.caches.config.cd(asked.stream, index) {
            Some(cached) => *cached,
            None => self.fetch_cd(asked, contexts, index, stage2, vmid)?,
        };
        cached.meaning.map_err(|_| Refusal::recorded(Event::BadCd(*asked)))
    }

    fn fetch_cd(
        &mut self,
        asked: &Asked,
        contexts: &Contexts,
        index: u32,
        stage2: Option<&Stage2>,
        vmid: u16,
    ) -> Result<CachedCd, Refusal> {
        let address = match contexts.leaf_lg2 {
            None => {
                // "Linear table: aligned to its size."
                let table_lg2 = contexts.lg2 + 6;
                (contexts.pointer >> table_lg2 << table_lg2) + u64::from(index) * 64
            }
            Some(leaf_lg2) => self.second_level_context(asked, contexts, index, leaf_lg2, stage2)?,
        };
        let at = self.through_stage2(asked, address, stage2)?;
        self.counters.configuration_reads += 1;
        let raw = self.read_words::<8>(at).map_err(|_| Refusal::recorded(Event::CdFetch(*asked, at)))?;
        let meaning = cd::decode(&raw, contexts, self.config);
        let cached = CachedCd { at, raw, meaning, vmid };
        self.note_cd(asked.stream, index, &cached);
        self.caches.config.keep_cd(asked.stream, index, cached);
        Ok(cached)
    }

    /// Where the second-level table has the descriptor, an IPA if stage 2 translates.
    fn second_level_context(
        &mut self,
        asked: &Asked,
        contexts: &Contexts,
        index: u32,
        leaf_lg2: u32,
        stage2: Option<&Stage2>,
    ) -> Result<u64, Refusal> {
        let upper = index >> leaf_lg2;
        let raw = match self.caches.config.context_table(asked.stream, upper) {
            Some(raw) => raw,
            None => {
                let at = self.through_stage2(asked, contexts.pointer + u64::from(upper) * 8, stage2)?;
                self.counters.configuration_reads += 1;
                let [raw] =
                    self.read_words::<1>(at).map_err(|_| Refusal::recorded(Event::CdFetch(*asked, at)))?;
                self.caches.config.keep_context_table(asked.stream, upper, raw);
                raw
            }
        };
        // "A two-level CD fetch encounters an L1CD structure with V == 0, or an L2Ptr that is out of range."
        let pointer = raw & 0x000f_ffff_ffff_f000;
        let limit = if stage2.is_some() { self.config.ias() } else { self.config.oas() };
        if !flag(raw, 0) || pointer >> limit != 0 {
            return Err(bad_substream(asked, index));
        }
        // Leaf tables of 64 KiB are aligned to their size.
        let table_lg2 = leaf_lg2 + 6;
        let aligned = pointer >> table_lg2 << table_lg2;
        if aligned != pointer {
            self.notes
                .record(clause::CD_ALIGNMENT, format!("stream {:#x}: L2Ptr {pointer:#x}", asked.stream));
        }
        Ok(aligned + u64::from(index & ((1 << leaf_lg2) - 1)) * 64)
    }

    /// The PA of something that stage 1 structures point to: an IPA if stage 2 translates.
    fn through_stage2(
        &mut self,
        asked: &Asked,
        address: u64,
        stage2: Option<&Stage2>,
    ) -> Result<u64, Refusal> {
        let Some(stage2) = stage2 else { return Ok(address) };
        self.stage2_for_walk(stage2, address, Class::Cd, asked)
            .map_err(|fault| crate::translate::refuse(asked, fault, None, Some(stage2)))
    }

    /// What the strict mode has to say about a descriptor that was just fetched.
    fn note_cd(&mut self, stream: u32, index: u32, cached: &CachedCd) {
        let cd = match cached.meaning {
            Ok(cd) => cd,
            Err(illegal) => {
                if let Some(clause) = illegal.clause() {
                    self.notes.record(clause, format!("stream {stream:#x}, CD {index}: {:#x?}", cached.raw));
                }
                return;
            }
        };
        if flag(cached.raw[0], 42) && !flag(cached.raw[0], 43) {
            let detail = format!("stream {stream:#x}, CD {index}: {:#x}", cached.raw[0]);
            self.notes.record(clause::DIRTY_WITHOUT_ACCESS, detail);
        }
        if cd.misaligned_root {
            let detail =
                format!("stream {stream:#x}, CD {index}: {:#x}, {:#x}", cached.raw[1], cached.raw[2]);
            self.notes.record(clause::ROOT_ALIGNMENT, detail);
        }
        let differs = self.caches.config.cds().find(|&(place, other)| {
            place != (stream, index)
                && other.vmid == cached.vmid
                && other.meaning.is_ok_and(|theirs| same_space(&theirs, &cd) && differ(&theirs, &cd))
        });
        if let Some(((other, other_index), _)) = differs {
            let detail = format!(
                "ASID {:#x}: stream {stream:#x} CD {index}, stream {other:#x} CD {other_index}",
                cd.asid
            );
            self.notes.record(clause::SHARED_ASID, detail);
        }
    }
}

fn bad_substream(asked: &Asked, ssid: u32) -> Refusal {
    Refusal::recorded(Event::BadSubstreamId(*asked, ssid))
}

fn same_space(one: &Cd, other: &Cd) -> bool {
    one.world == other.world && one.asid == other.asid
}

/// Whether two descriptors of one address space differ in what a TLB may cache. Halves that one of them disables do not count:
/// a process that exits has its descriptors disabled one by one.
fn differ(one: &Cd, other: &Cd) -> bool {
    let halves = one
        .regions
        .iter()
        .zip(&other.regions)
        .any(|(one, other)| one.zip(*other).is_some_and(|(a, b)| a != b));
    let attributes =
        |cd: &Cd| (cd.output_bits, cd.ds, cd.updates, cd.ignore_access_flag, cd.write_execute_never, cd.mair);
    halves || attributes(one) != attributes(other)
}

/// Rights of a fetch of configuration. Spec: SMMUv3 H.a, 7.3.16 "F_PERMISSION": "implicitly Data and a read".
pub(crate) const FETCH: Rights = Rights::WALK;
