//! Consuming commands, and doing what they say no later than the CMD_SYNC behind them completes.
//!
//! Spec: SMMUv3 H.a, 4.1.4 "Consumption of commands from the Command queue", 4.7.3 "CMD_SYNC", 7.1 "Command queue errors".

use model_bus::Notes;
use portcullis_types::trace::Value;

use crate::atc::{Progress, Target};
use crate::cache::CachedCd;
use crate::command::{self, Command, Completion, Invalidate, Resume};
use crate::config::{Config, StallModel};
use crate::counters::Counters;
use crate::cr::CMDQEN;
use crate::engine::{Caches, Engine};
use crate::event::{Asked, Class};
use crate::pri::Response;
use crate::report::gerror;
use crate::state::{Around, Pending, State, Sync};
use crate::strict::clause;
use crate::tlb::{Space, Translation};
use crate::{cd, ste};

/// Error codes in CMDQ_CONS.ERR. Spec: SMMUv3 H.a, 7.1 "Command queue errors".
const CERROR_ILL: u32 = 1;
const CERROR_ABT: u32 = 2;
const CERROR_ATC_INV_SYNC: u32 = 3;

/// What came of trying to consume a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consumed {
    /// One is gone, or an error was raised.
    Yes,
    /// There is none, or none may be consumed.
    Nothing,
    /// A CMD_SYNC waits for accesses or ATC invalidations under way, or a CMD_ATC_INV for a tag.
    Blocked,
}

impl State {
    /// Consumes commands, up to what the policy makes of one tick. Answers whether anything moved.
    pub(crate) fn consume(&mut self, around: Around<'_>) -> bool {
        let most = around.config.policy.commands_per_tick;
        let budget = if most == u32::MAX { most } else { 1 + self.dice.up_to(most.saturating_sub(1)) };
        let mut moved = false;
        for _ in 0..budget {
            match self.consume_one(around) {
                Consumed::Yes => moved = true,
                Consumed::Nothing | Consumed::Blocked => break,
            }
        }
        moved
    }

    fn consume_one(&mut self, around: Around<'_>) -> Consumed {
        // 4.1.2: not empty, enabled, no error active.
        let config = around.config;
        let lg2 = self.registers.commands.lg2(config.command_queue_lg2);
        let queue = &self.registers.commands;
        if !self.registers.cr0.is_on(CMDQEN)
            || self.stuck
            || queue.is_empty(lg2)
            || self.is_active(gerror::CMDQ_ERR)
        {
            return Consumed::Nothing;
        }
        if let Some(sync) = self.sync {
            return self.finish_sync(sync, lg2, around);
        }
        // PROD may have been written while an error was active: nothing was consumed then, whatever it said.
        if !queue.is_consistent(lg2) {
            let queue = *queue;
            self.stuck = true;
            self.note_indexes("CMDQ", &queue);
            return Consumed::Nothing;
        }
        let slot = u64::from(queue.read_index(lg2) & ((1 << lg2) - 1));
        let at = queue.aligned(lg2, 16) + slot * 16;
        let mut engine = self.engine(around);
        let at = engine.truncate(at);
        let Ok(raw) = engine.read_words::<2>(at) else {
            return self.command_error(CERROR_ABT, around);
        };
        let op = u8::try_from(raw[0] & 0xff).unwrap_or(0);
        if op == command::opcode::ATC_INV && self.atc_must_wait(around) {
            return Consumed::Blocked;
        }
        // A CMD_SYNC that was dropped with its queue waited for accesses that are older than all that this one turns away from.
        if op == command::opcode::SYNC && !around.traffic.is_dry(self.half ^ 1) {
            return Consumed::Blocked;
        }
        let name = command::name(op).unwrap_or("reserved");
        around.trace(
            "cmd",
            &[("op", Value::Str(name)), ("w0", Value::Hex(raw[0])), ("w1", Value::Hex(raw[1]))],
        );
        let command = match command::decode(raw, config) {
            Ok(command) => command,
            Err(reason) => {
                let detail = format!("{name} {:#018x} {:#018x}: {reason:?}", raw[0], raw[1]);
                self.notes.record(clause::ILLEGAL_COMMAND, detail);
                return self.command_error(CERROR_ILL, around);
            }
        };
        self.note_parameters(&command, config);
        if let Command::Sync(completion) = command {
            return self.begin_sync(completion, lg2, around);
        }
        self.perform(command, around);
        self.consumed(name, lg2);
        Consumed::Yes
    }

    fn consumed(&mut self, name: &'static str, lg2: u32) {
        *self.counters.commands.entry(name).or_default() += 1;
        self.registers.commands.consume(lg2);
    }

    /// "Command consumption stops; CMDQ_CONS.RD remains pointing to the erroneous command; ERR is updated; CMDQ_ERR is triggered."
    fn command_error(&mut self, code: u32, around: Around<'_>) -> Consumed {
        let cons = &mut self.registers.commands.cons;
        *cons = *cons & !0x7f00_0000 | code << 24;
        self.raise(gerror::CMDQ_ERR, around);
        Consumed::Yes
    }

    fn begin_sync(&mut self, completion: Completion, lg2: u32, around: Around<'_>) -> Consumed {
        // "TLB invalidates are guaranteed to be complete"; "Configuration invalidations are guaranteed to be complete".
        while !self.pending.is_empty() {
            self.apply_pending(0, around);
        }
        // "Visibility of event records for client transactions terminated before the CMD_SYNC."
        self.deliver_late_events(true, around);
        // "If it cannot commit to write to the queue, the transaction is retried when the queue is next writable."
        self.retry_unrecorded(around);
        // "All transactions in progress that were translated using any of the TLB entries targeted are globally observable."
        let sync = Sync { completion, half: self.half };
        self.half ^= 1;
        self.sync = Some(sync);
        self.finish_sync(sync, lg2, around)
    }

    fn finish_sync(&mut self, sync: Sync, lg2: u32, around: Around<'_>) -> Consumed {
        if !around.traffic.is_dry(sync.half) {
            return Consumed::Blocked;
        }
        // "TLB invalidates and ATS Invalidations are guaranteed to be complete."
        let progress = self.atc_progress(around);
        if progress == Progress::UnderWay {
            return Consumed::Blocked;
        }
        self.sync = None;
        if progress == Progress::Failed {
            // "RD remains pointing at the CMD_SYNC": it begins again once the error is acknowledged.
            return self.command_error(CERROR_ATC_INV_SYNC, around);
        }
        self.unsynced.clear();
        // "Observation of the interrupt means that the consumption of the CMD_SYNC is observable": CONS first, then the message.
        self.consumed("CMD_SYNC", lg2);
        if let Completion::Message { address, data } = sync.completion {
            self.lines.sync = true;
            self.send(address, data, gerror::MSI_CMDQ_ABT_ERR, around);
        }
        Consumed::Yes
    }

    fn perform(&mut self, command: Command, around: Around<'_>) {
        let pending = match command {
            Command::PrefetchConfiguration { stream, substream } => {
                return self.prefetch_configuration(stream, Some(substream), around);
            }
            Command::PrefetchAddress { stream, substream, address } => {
                return self.prefetch_address(
                    &Asked::prefetch(stream, Some(substream).filter(|&id| id != 0), address),
                    around,
                );
            }
            Command::InvalidateSte { stream, leaf } => {
                self.last_stream = stream;
                Pending::Ste { stream, leaf }
            }
            Command::InvalidateSteRange { stream, range } => Pending::SteRange { stream, range },
            Command::InvalidateCd { stream, substream, leaf } => Pending::Cd { stream, substream, leaf },
            Command::InvalidateCdAll { stream } => Pending::CdAll { stream },
            Command::Tlb(what) => Pending::Tlb(what),
            Command::InvalidateAtc(target) => return self.invalidate_atc(&target, around),
            Command::RespondPage(response) => return self.respond_page(&response, around),
            Command::Resume(resume) => return self.resume(resume, around),
            Command::TerminateStalls { stream } => return self.terminate_stream(stream, around),
            // Handled by the caller.
            Command::Sync(_) => return,
        };
        self.note_unsynced(&pending, around.config);
        self.pending.push(pending);
        if !around.config.policy.lazy_invalidation {
            self.apply_pending(0, around);
        }
    }

    /// Remembers what a CMD_SYNC is still to complete, for CMD_STALL_TERM.
    fn note_unsynced(&mut self, pending: &Pending, config: &Config) {
        const MOST: usize = 1024;
        if config.stall == StallModel::NotSupported {
            return;
        }
        if self.unsynced.len() >= MOST {
            self.unsynced = vec![0..=u32::MAX];
        }
        self.unsynced.extend(pending.streams());
    }

    /// Does one invalidation that was put off.
    pub(crate) fn apply_pending(&mut self, index: usize, around: Around<'_>) {
        self.micro.clear();
        match self.pending.remove(index) {
            Pending::Tlb(what) => self.invalidate_translations(&what, around),
            Pending::Ste { stream, leaf } => {
                self.check_ste_update(stream, around);
                self.check_cd_updates(stream, around);
                self.caches.config.invalidate_ste(stream, leaf);
            }
            Pending::SteRange { stream, range } => {
                self.invalidated.configuration |= range == 31;
                let cached: Vec<u32> = self.caches.config.stes().map(|(stream, _)| stream).collect();
                let within = |other: u32| u64::from(other) >> (range + 1) == u64::from(stream) >> (range + 1);
                for other in cached.into_iter().filter(|&other| within(other)) {
                    self.check_ste_update(other, around);
                }
                self.caches.config.invalidate_range(stream, range);
            }
            Pending::Cd { stream, substream, leaf } => {
                self.check_cd_update(stream, substream, around);
                self.caches.config.invalidate_cd(stream, substream, leaf);
            }
            Pending::CdAll { stream } => {
                self.check_cd_updates(stream, around);
                self.caches.config.invalidate_cds(stream);
            }
        }
    }

    fn invalidate_translations(&mut self, what: &Invalidate, around: Around<'_>) {
        let without_el2 = matches!(what, Invalidate::Stage1All { .. }) && !around.config.stage2;
        self.invalidated.translations |= matches!(what, Invalidate::EverythingButEl2) || without_el2;
        self.setup.el2_invalidated |= matches!(what, Invalidate::El2All);
        let gone = self.caches.tlb.invalidate(what, self.setup.e2h);
        self.account_for(&gone, around);
    }

    /// Counts translations that were removed, and looks whether they were changed too early.
    pub(crate) fn account_for(&mut self, gone: &[Translation], around: Around<'_>) {
        self.counters.invalidated += gone.len() as u64;
        // Break-before-make: what is being invalidated must not already have been made anew.
        const AUDITED: usize = 64;
        for leaf in gone.iter().take(AUDITED) {
            self.audit(leaf, leaf.first, around);
        }
    }

    /// Walks again for a live translation, and notes if the tables now say something else that is valid, too.
    pub(crate) fn audit(&mut self, live: &Translation, address: u64, around: Around<'_>) {
        if !self.is_enabled() {
            return;
        }
        let (stream, substream) = live.filler;
        let asked = Asked::prefetch(stream, substream, address);
        let mut engine = self.engine(around);
        if !engine.is_cached(&asked) {
            return;
        }
        engine.fresh = true;
        engine.demand = false;
        let Ok(regime) = engine.regime(&asked) else { return };
        let now = match (live.space, &regime.stage2) {
            (Space::Stage2 { vmid }, Some(stage2)) if stage2.vmid == vmid => {
                engine.stage2_leaf(stage2, address, Class::In, &asked, crate::descriptor::Rights(0))
            }
            (Space::Private { .. } | Space::Global { .. }, _) if regime.stage1.is_some() => {
                engine.find_or_walk(&regime, &asked, crate::descriptor::Rights(0)).map(|(walked, _)| walked)
            }
            _ => return,
        };
        // With another ASID the stream has been led to other tables, and in these nothing was changed.
        let private = |space| matches!(space, Space::Private { .. });
        let elsewhere =
            |now: &Translation| private(live.space) && private(now.space) && live.space != now.space;
        if let Ok(now) = now
            && !elsewhere(&now)
            && let Some(conflict) = live.contradicted_by(&now)
        {
            engine.judge_conflict(&conflict);
        }
    }

    /// 4.1.7 "Out-of-range parameters", 4.4.1.1.
    fn note_parameters(&mut self, command: &Command, config: &Config) {
        let streams = |stream: u32| u64::from(stream) >> config.stream_id_bits.min(32) != 0;
        let substreams = |substream: u32| u64::from(substream) >> config.substream_id_bits.min(20) != 0;
        let bad = match *command {
            Command::InvalidateSte { stream, .. }
            | Command::InvalidateCdAll { stream }
            | Command::TerminateStalls { stream }
            | Command::Resume(Resume { stream, .. }) => streams(stream),
            Command::InvalidateSteRange { stream, range } => range != 31 && streams(stream),
            Command::InvalidateCd { stream, substream, .. }
            | Command::PrefetchConfiguration { stream, substream }
            | Command::PrefetchAddress { stream, substream, .. } => streams(stream) || substreams(substream),
            Command::Tlb(what) => {
                if what.span().is_some_and(|span| span.misaligned) {
                    self.notes.record(clause::RANGE_ALIGNMENT, format!("{what:x?}"));
                }
                !tags_in_range(&what, config)
            }
            Command::InvalidateAtc(Target { stream, substream, .. })
            | Command::RespondPage(Response { stream, substream, .. }) => {
                streams(stream) || config.substream_id_bits != 0 && substream.is_some_and(substreams)
            }
            Command::Sync(_) => false,
        };
        if bad {
            self.notes.record(clause::COMMAND_RANGE, format!("{command:x?}"));
        }
    }

    /// 3.21.3: what a stream's entry was when it was fetched, and what it is now, may differ in one live word.
    fn check_ste_update(&mut self, stream: u32, around: Around<'_>) {
        if !self.is_enabled() {
            return;
        }
        let Some(cached) = self.caches.config.ste(stream).copied() else { return };
        let Ok(now) = self.engine(around).read_words::<8>(cached.at) else { return };
        self.note_eats_change(stream, &cached.raw, &now, around);
        let words = changed_words(&cached.raw, &now, &ste::live_bits(&cached.raw), &ste::live_bits(&now));
        if words > 1 {
            let detail = format!("stream {stream:#x}: {:x?} became {now:x?}", cached.raw);
            self.notes.record(clause::STE_UPDATE, detail);
        }
    }

    /// The same of every descriptor of a stream that is where it was: others are not to be had any more.
    fn check_cd_updates(&mut self, stream: u32, around: Around<'_>) {
        if !self.is_enabled() {
            return;
        }
        let of_stream = |((other, substream), cached): ((u32, u32), &CachedCd)| {
            (other == stream).then_some((substream, cached.at))
        };
        let mut found: Vec<(u32, u64)> = self.caches.config.cds().filter_map(of_stream).collect();
        found.sort_unstable();
        for (substream, at) in found {
            if self.cd_place(stream, substream, around) == Some(at) {
                self.check_cd_update(stream, substream, around);
            }
        }
    }

    /// Where the descriptor of a substream lies as memory has it now, if the stream leads to one.
    fn cd_place(&self, stream: u32, substream: u32, around: Around<'_>) -> Option<u64> {
        let mut caches = Caches::default();
        let mut engine = Engine {
            config: around.config,
            setup: self.setup,
            fabric: around.fabric,
            caches: &mut caches,
            notes: &mut Notes::discarded(),
            counters: &mut Counters::default(),
            fresh: true,
            demand: false,
        };
        // The first descriptor is that of accesses without a substream, or of substream 0.
        for named in [Some(substream), None] {
            if named.is_some() || substream == 0 {
                let _regime = engine.regime(&Asked::prefetch(stream, named, 0));
            }
        }
        caches.config.cd(stream, substream).map(|cached| cached.at)
    }

    fn check_cd_update(&mut self, stream: u32, substream: u32, around: Around<'_>) {
        if !self.is_enabled() {
            return;
        }
        let Some(cached) = self.caches.config.cd(stream, substream).copied() else { return };
        let Ok(now) = self.engine(around).read_words::<8>(cached.at) else { return };
        let words = changed_words(&cached.raw, &now, &cd::live_bits(&cached.raw), &cd::live_bits(&now));
        if words > 1 {
            let detail = format!("stream {stream:#x} CD {substream}: {:x?} became {now:x?}", cached.raw);
            self.notes.record(clause::CD_UPDATE, detail);
        }
    }
}

/// In how many words two versions of a structure differ where either of them is looked at.
fn changed_words(old: &[u64; 8], new: &[u64; 8], live_old: &[u64; 8], live_new: &[u64; 8]) -> usize {
    (0..8).filter(|&word| (old[word] ^ new[word]) & (live_old[word] | live_new[word]) != 0).count()
}

fn tags_in_range(what: &Invalidate, config: &Config) -> bool {
    let asid_fits = |asid: u16| config.asid_16_bits || asid <= 0xff;
    // "VMID is only matched when stage 2 is supported. Otherwise, the VMID parameter is RES0."
    let vmid_fits = |vmid: u16| if config.stage2 { config.vmid_16_bits || vmid <= 0xff } else { vmid == 0 };
    match *what {
        Invalidate::Stage1All { vmid }
        | Invalidate::BothStages { vmid }
        | Invalidate::Stage2Address { vmid, .. } => vmid_fits(vmid),
        Invalidate::Asid { vmid, asid } => vmid_fits(vmid) && asid_fits(asid),
        Invalidate::Address { vmid, asid, .. } => vmid_fits(vmid) && asid.is_none_or(asid_fits),
        Invalidate::El2Asid { asid } => asid_fits(asid),
        Invalidate::El2Address { asid, .. } => asid.is_none_or(asid_fits),
        Invalidate::El2All | Invalidate::EverythingButEl2 => true,
    }
}
