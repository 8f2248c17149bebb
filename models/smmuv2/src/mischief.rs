//! What the hardware does of its own accord, because the book lets it: throw out, fetch ahead, look again.
//!
//! Spec: SMMUv2 D.c, 2.5.1 "Prefetch behavior for TLB entries", 5.1: "The SMMU is permitted to make translation table walks for enabled contexts at any
//! time, including speculative accesses."

use model_bus::Notes;

use crate::counters::Counters;
use crate::fault::Asked;
use crate::regime::Regime;
use crate::state::{Around, State};
use crate::tlb::{Tlb, Translation};
use crate::translate::Grant;
use crate::walk::Engine;

impl State {
    /// Does what the dice say after an access that was let through.
    pub(crate) fn make_mischief(
        &mut self,
        asked: &Asked,
        regime: &Regime,
        grant: &Grant,
        around: Around<'_>,
    ) {
        let policy = around.config.policy;
        if let Some((live, address)) = grant.translation.filter(|_| grant.hit)
            && self.dice.one_in(policy.audit_one_in)
        {
            self.audit(asked, regime, &live, address, around);
        }
        if self.dice.one_in(policy.evict_one_in) {
            let pick = self.dice.next_bits();
            self.tlb.evict(pick);
        }
        if self.dice.one_in(policy.prefetch_one_in) {
            let pages = u64::from(self.dice.up_to(16)) * 4096;
            let forward = self.dice.one_in(2);
            let address =
                if forward { asked.address.wrapping_add(pages) } else { asked.address.wrapping_sub(pages) };
            let mut engine = self.engine(around);
            engine.demand = false;
            // Only what can be used is cached; a fault leaves nothing.
            let _fetched = engine.translate(regime, &Asked { address, ..*asked });
        }
    }

    /// Walks the tables again, to see whether what is cached was changed while it lived.
    fn audit(
        &mut self,
        asked: &Asked,
        regime: &Regime,
        live: &Translation,
        address: u64,
        around: Around<'_>,
    ) {
        let seen = Engine {
            config: around.config,
            fabric: around.fabric,
            tlb: &mut Tlb::default(),
            notes: &mut Notes::discarded(),
            counters: &mut Counters::default(),
            fresh: true,
            demand: false,
        }
        .translate(regime, asked);
        // Both stages in one are as large as the smaller: compare what an access sees, and leave sizes to what fills.
        let Ok(Grant { translation: Some((now, _)), output, .. }) = seen else { return };
        if output != live.output_of(address) {
            self.engine(around).judge_conflict(live, &now);
        }
    }
}
