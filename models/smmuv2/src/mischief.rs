//! What the hardware does of its own accord, because the book lets it: throw out, fetch ahead, look again.
//!
//! Spec: SMMUv2 D.c, 2.5.1 "Prefetch behavior for TLB entries", 5.1: "The SMMU is permitted to make translation table walks for enabled contexts at any
//! time, including speculative accesses."

use model_bus::Notes;

use crate::bank::{Bank, BankType};
use crate::counters::Counters;
use crate::fault::Asked;
use crate::regime::{Regime, on_bus};
use crate::state::{Around, State};
use crate::tlb::{Tlb, Translation};
use crate::translate::{Grant, check_input};
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
            self.fetch_near(asked, regime, pages, around);
        }
    }

    /// Fetches what may be asked for next, with nobody asking now: what an invalidation took comes back if its bank is still enabled.
    pub(crate) fn fetch_idly(&mut self, around: Around<'_>) {
        if !self.dice.one_in(around.config.policy.idle_prefetch_one_in) {
            return;
        }
        let Some((first, second, asked)) = self.last else { return };
        // The banks may have become something else meanwhile.
        let second_now = match self.registers.bank(first).map(Bank::kind) {
            Some(BankType::Nested(bank)) => Some(bank),
            Some(BankType::Stage1 | BankType::Stage2) => None,
            _ => return,
        };
        let fits = second.is_none_or(|bank| self.registers.bank(bank).is_some_and(Bank::is_stage2));
        let on = self.registers.bank(first).is_some_and(Bank::is_on);
        if second_now != second || !fits || !on {
            return;
        }
        if let Some(regime) = self.registers.regime(first, second, around.config, &mut Notes::discarded()) {
            let pages = u64::from(self.dice.up_to(1)) * 4096;
            self.fetch_near(&asked, &regime, pages, around);
        }
    }

    fn fetch_near(&mut self, asked: &Asked, regime: &Regime, distance: u64, around: Around<'_>) {
        let forward = self.dice.one_in(2);
        let address =
            if forward { asked.address.wrapping_add(distance) } else { asked.address.wrapping_sub(distance) };
        if check_input(regime, on_bus(address, around.config).0).is_some() {
            return;
        }
        let mut engine = self.engine(around);
        engine.demand = false;
        // Only what can be used is cached; a fault leaves nothing.
        let _fetched = engine.translate(regime, &Asked { address, ..*asked });
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
