//! Finding the entry of a stream: linear and two-level tables.
//!
//! Spec: SMMUv3 H.a, 3.3.1 "Stream table lookup", 5.1 "L1STD, Level 1 Stream Table Descriptor", 7.3.3 "C_BAD_STREAMID", 7.3.4 "F_STE_FETCH".

use crate::cache::CachedSte;
use crate::engine::{Engine, Refusal};
use crate::event::{Asked, Event};
use crate::ste::{self, Ste, World, field};
use crate::strict::clause;

impl Engine<'_> {
    /// The entry of the stream that asks.
    pub(crate) fn ste(&mut self, asked: &Asked) -> Result<Ste, Refusal> {
        // C_BAD_STREAMID, 1: "Incoming StreamID >= 2^LOG2SIZE".
        if u64::from(asked.stream) >> self.setup.lg2 != 0 {
            return Err(self.bad_stream(asked));
        }
        let cached = match self.caches.config.ste(asked.stream) {
            Some(cached) => *cached,
            None => self.fetch_ste(asked)?,
        };
        cached.meaning.map_err(|_| Refusal::recorded(Event::BadSte(*asked)))
    }

    fn bad_stream(&self, asked: &Asked) -> Refusal {
        let event = self.setup.record_bad_streams.then_some(Event::BadStreamId(*asked));
        Refusal { event, ..Refusal::SILENT }
    }

    fn fetch_ste(&mut self, asked: &Asked) -> Result<CachedSte, Refusal> {
        let at = match self.setup.split {
            None => self.setup.table + u64::from(asked.stream) * 64,
            Some(split) => self.second_level(asked, split)?,
        };
        // "Fetch of STE caused external abort, or the address was out of range." A failed fetch is not cached.
        // "FetchAddr bits [55:OAS] are RES0 if OAS is smaller than 56."
        let failed = Refusal::recorded(Event::SteFetch(*asked, self.truncate(at)));
        if at >> self.config.oas() != 0 {
            return Err(failed);
        }
        self.counters.configuration_reads += 1;
        let raw = self.read_words::<8>(at).map_err(|_| failed)?;
        let meaning = ste::decode(&raw, self.config, self.setup.e2h);
        let cached = CachedSte { at, raw, meaning, ats_check: self.setup.ats_check };
        self.note_ste(asked.stream, &cached);
        self.caches.config.keep_ste(asked.stream, cached);
        Ok(cached)
    }

    /// Where the second-level table has the stream's entry.
    fn second_level(&mut self, asked: &Asked, split: u32) -> Result<u64, Refusal> {
        let upper = asked.stream >> split;
        let raw = match self.caches.config.stream_table(upper, split) {
            Some(raw) => raw,
            None => self.fetch_stream_table(asked, upper, split)?,
        };
        // C_BAD_STREAMID, 2: a) Span == 0, b) Span reserved, c) Span > SPLIT + 1, d) StreamID[SPLIT-1:0] >= 2^(Span-1).
        let span = u32::try_from(field(raw, 4, 0)).unwrap_or(0);
        let lower = asked.stream & ((1 << split) - 1);
        if span == 0 || span > 11 || span > split + 1 || lower >> (span - 1) != 0 {
            return Err(self.bad_stream(asked));
        }
        // "Bits L2Ptr[N:0] are treated as 0 by the SMMU, where N == 5 + (Span - 1)."
        let pointer = raw & 0x00ff_ffff_ffff_ffc0;
        let aligned = pointer >> (5 + span) << (5 + span);
        if aligned != pointer {
            let detail = format!("L2Ptr {pointer:#x} of {} entries", 1u64 << (span - 1));
            self.notes.record(clause::STREAM_TABLE_ALIGNMENT, detail);
        }
        Ok(aligned + u64::from(lower) * 64)
    }

    fn fetch_stream_table(&mut self, asked: &Asked, upper: u32, split: u32) -> Result<u64, Refusal> {
        let at = self.setup.table + u64::from(upper) * 8;
        self.counters.configuration_reads += 1;
        let words = self.read_words::<1>(at);
        let [raw] = words.map_err(|_| Refusal::recorded(Event::SteFetch(*asked, at)))?;
        self.caches.config.keep_stream_table(upper, split, raw);
        Ok(raw)
    }

    /// What the strict mode has to say about an entry that was just fetched.
    fn note_ste(&mut self, stream: u32, cached: &CachedSte) {
        match cached.meaning {
            Err(illegal) => {
                if let Some(clause) = illegal.clause() {
                    self.notes.record(clause, format!("stream {stream:#x}: {:#x?}", cached.raw));
                }
            }
            Ok(Ste::Pass { contexts, stage2, .. }) => {
                if let Some(contexts) = contexts {
                    self.note_contexts(stream, &contexts);
                    if contexts.world != World::El1 && !self.setup.el2_invalidated {
                        let detail = format!("stream {stream:#x}: {:?}", contexts.world);
                        self.notes.record(clause::ENABLED_BEFORE_INVALIDATION, detail);
                    }
                }
                if let Some(stage2) = stage2 {
                    // S2HD is bit 55, S2HA bit 56.
                    if ste::field(cached.raw[2], 56, 55) == 1 {
                        let detail = format!("stream {stream:#x}: {:#x}", cached.raw[2]);
                        self.notes.record(clause::DIRTY_WITHOUT_ACCESS, detail);
                    }
                    self.note_stage2(stream, &stage2);
                }
            }
            Ok(Ste::Abort) => {}
        }
    }

    /// "CDs of a linear table: table aligned to its size", in an L1 table 8 bytes an entry, in a linear one 64.
    fn note_contexts(&mut self, stream: u32, contexts: &ste::Contexts) {
        let table_lg2 = match contexts.leaf_lg2 {
            None => contexts.lg2 + 6,
            Some(leaf) => contexts.lg2.saturating_sub(leaf) + 3,
        };
        if contexts.pointer & ((1 << table_lg2) - 1) != 0 {
            let detail =
                format!("stream {stream:#x}: S1ContextPtr {:#x} of 2^{table_lg2} bytes", contexts.pointer);
            self.notes.record(clause::CD_ALIGNMENT, detail);
        }
    }

    fn note_stage2(&mut self, stream: u32, stage2: &ste::Stage2) {
        let table_lg2 = stage2.input_bits - stage2.granule.shift(stage2.start) + 3;
        if stage2.root & ((1 << table_lg2) - 1) != 0 {
            let detail = format!("stream {stream:#x}: S2TTB {:#x} of 2^{table_lg2} bytes", stage2.root);
            self.notes.record(clause::ROOT_ALIGNMENT, detail);
        }
        // S2R and S2S are not cached in a TLB, and may differ.
        let shared =
            |other: &ste::Stage2| ste::Stage2 { record: stage2.record, stall: stage2.stall, ..*other };
        let differs = self.caches.config.stes().find(|(other, cached)| {
            let Ok(Ste::Pass { stage2: Some(theirs), .. }) = &cached.meaning else { return false };
            *other != stream && theirs.vmid == stage2.vmid && shared(theirs) != *stage2
        });
        if let Some((other, _)) = differs {
            let detail = format!("streams {stream:#x} and {other:#x}: VMID {:#x}", stage2.vmid);
            self.notes.record(clause::SHARED_VMID, detail);
        }
    }
}
