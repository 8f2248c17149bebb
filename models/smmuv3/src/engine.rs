//! What every step of a translation works with: configuration, memory, caches, and the notes it leaves.

use model_bus::{BusError, Fabric, Notes};
use portcullis_types::Pa;

use crate::cache::ConfigCache;
use crate::config::Config;
use crate::counters::Counters;
use crate::event::{Asked, Event};
use crate::ste::{Ste, World};
use crate::strict::clause;
use crate::tlb::{Conflict, Tlb};

/// What the registers say about configuration structures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Where the stream table begins, aligned.
    pub(crate) table: u64,
    /// log2 of the number of streams, capped.
    pub(crate) lg2: u32,
    /// Bits of a StreamID that the second level resolves; none for a linear table.
    pub(crate) split: Option<u32>,
    /// CR2.E2H.
    pub(crate) e2h: bool,
    /// CR0.ATSCHK.
    pub(crate) ats_check: bool,
    /// CR2.RECINVSID.
    pub(crate) record_bad_streams: bool,
    /// What is cached of EL2 has been invalidated whole since reset.
    pub(crate) el2_invalidated: bool,
}

/// All that the hardware remembers of memory.
#[derive(Default)]
pub(crate) struct Caches {
    pub(crate) config: ConfigCache,
    pub(crate) tlb: Tlb,
}

impl Caches {
    /// Whether anything is cached of EL2, with E2H or without.
    pub(crate) fn holds_el2(&self) -> bool {
        let contexts = |ste: &Ste| match ste {
            Ste::Pass { contexts: Some(contexts), .. } => contexts.world != World::El1,
            _ => false,
        };
        let configured = self.config.stes().any(|(_, cached)| cached.meaning.as_ref().is_ok_and(contexts));
        configured || self.tlb.holds(|space| space.world().is_some_and(|world| world != World::El1))
    }
}

/// An access that is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What is recorded, if anything is.
    pub(crate) event: Option<Event>,
    /// Read as zero and write ignored, rather than aborted.
    pub(crate) ignored: bool,
    /// Held back, rather than ended: then `event` is the fault. Only an access itself is: whoever asks for something else may look away.
    pub(crate) stalls: bool,
}

impl Refusal {
    /// Aborted, without a word.
    pub(crate) const SILENT: Self = Self { event: None, ignored: false, stalls: false };

    /// Aborted and recorded.
    pub(crate) fn recorded(event: Event) -> Self {
        Self { event: Some(event), ignored: false, stalls: false }
    }
}

/// The parts of the model that a translation needs, borrowed for its time.
pub(crate) struct Engine<'a> {
    pub(crate) config: &'a Config,
    pub(crate) setup: Setup,
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) caches: &'a mut Caches,
    pub(crate) notes: &'a mut Notes,
    pub(crate) counters: &'a mut Counters,
    /// Cached translations and tables are neither used nor filled: to see what the tables say now.
    pub(crate) fresh: bool,
    /// An access of a device asked for this, and not the hardware's own curiosity.
    pub(crate) demand: bool,
}

impl Engine<'_> {
    /// Reads `N` words at `at`, each in one piece.
    pub(crate) fn read_words<const N: usize>(&mut self, at: u64) -> Result<[u64; N], BusError> {
        let mut words = [0; N];
        let mut bytes = [0; 64];
        let bytes = &mut bytes[..N * 8];
        self.fabric.read(Pa::new(at), bytes)?;
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        }
        Ok(words)
    }

    /// What stays of a PA that the SMMU itself uses.
    ///
    /// Spec: SMMUv3 H.a, 3.4.3 "Address sizes of SMMU-originated accesses": base addresses are truncated to OAS.
    pub(crate) fn truncate(&self, address: u64) -> u64 {
        address & ((1 << self.config.oas()) - 1)
    }

    /// Notes a live translation that was changed in place, if the book demands break-before-make for it.
    ///
    /// Answers whether it was against the rules. Spec: SMMUv3 H.a, 3.21.1.1 to 3.21.1.3 (BBML levels 0, 1 and 2).
    pub(crate) fn judge_conflict(&mut self, conflict: &Conflict) -> bool {
        if conflict.size_only && self.size_may_change(conflict) {
            return false;
        }
        let Conflict { old, new, .. } = conflict;
        let detail = format!(
            "{:#x}, 2^{} bytes to {:#x}, is live; the tables now say {:#x}, 2^{} bytes to {:#x}",
            old.first, old.size_lg2, old.output, new.first, new.size_lg2, new.output
        );
        self.notes.record(clause::BREAK_BEFORE_MAKE, detail);
        true
    }

    fn size_may_change(&self, conflict: &Conflict) -> bool {
        let (small, large) = if conflict.old.size_lg2 < conflict.new.size_lg2 {
            (&conflict.old, &conflict.new)
        } else {
            (&conflict.new, &conflict.old)
        };
        let origin = |leaf: &crate::tlb::Translation| leaf.stage1.or(leaf.stage2).map(|(origin, _)| origin);
        let (Some(small), Some(large)) = (origin(small), origin(large)) else { return false };
        let same_leaf = small.level == large.level && small.granule == large.granule;
        match self.config.break_before_make_level {
            // The same hint, read whole once and once not.
            0 => same_leaf && small.contiguous == large.contiguous,
            // A change of only the Contiguous bit, or a block with nT.
            1 => same_leaf || large.no_translate,
            _ => true,
        }
    }

    /// What the stream does, for an audit, if its entry is cached: an audit must not fetch configuration.
    pub(crate) fn is_cached(&self, asked: &Asked) -> bool {
        let Some(ste) = self.caches.config.ste(asked.stream) else { return false };
        match ste.meaning {
            Ok(Ste::Pass { contexts: Some(_), .. }) => {
                self.caches.config.cd(asked.stream, asked.substream.unwrap_or(0)).is_some()
            }
            Ok(Ste::Pass { .. }) => true,
            _ => false,
        }
    }
}
