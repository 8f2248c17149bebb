//! Translation requests, and accesses by translated address.
//!
//! A request is answered from the same caches and tables as an access, and what goes wrong is told to the device, not to
//! software. The exception is F_BAD_ATS_TREQ: an access would have been let through, but ATS is off.
//!
//! | an access would meet | a request is answered |
//! |---|---|
//! | SMMUEN 0, ATS off by EATS or by Config 0b100 | Unsupported Request, and F_BAD_ATS_TREQ is recorded |
//! | Config 0b000 | Unsupported Request |
//! | a wrong STE or CD, an abort of a fetch or walk, F_STREAM_DISABLED, C_BAD_SUBSTREAMID, a TLB conflict | Completer Abort |
//! | F_TRANSLATION, F_ADDR_SIZE, F_ACCESS | success, without any permission |
//! | F_PERMISSION | success, with those permissions that there are |
//!
//! Spec: SMMUv3 H.a, 3.9.1.1 to 3.9.1.3, 13.6 "PCIe and ATS attribute/permissions handling", 13.7.1 "Permission attributes granted in ATS
//! Translation Completions". SMMU_IDR0.ATSRECERR and SMMU_IDR3.PASIDTT are 0 here: configuration errors are never recorded,
//! and a PASID on a translated access is not looked at.

use model_bus::{TranslatedRequest, Translation as Answer, TranslationAnswer, TranslationRequest};
use portcullis_types::trace::Value;
use portcullis_types::{AccessKind, Iova, Pa, Pasid};

use crate::config::Config;
use crate::contexts::Regime;
use crate::descriptor::Rights;
use crate::engine::{Engine, Refusal};
use crate::event::{Asked, Class, Event, EventKind, Fault};
use crate::state::{Around, State};
use crate::ste::{self, Overrides, Stage2, Ste};
use crate::strict::clause;
use crate::tlb::Translation;
use crate::translate::{check, overridden, place, refuse};

/// STE.EATS, as it is in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eats {
    Off,
    /// Answers are physical addresses.
    Full,
    /// Answers are intermediate addresses, and stage 2 follows when they are used.
    Split,
}

/// What a device asks for.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// As a read of that address.
    asked: Asked,
    write: bool,
    execute: bool,
}

/// What is given: R, W, Exe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Given {
    read: bool,
    write: bool,
    execute: bool,
}

/// What a request is answered, and the event that is recorded besides.
type Verdict = (TranslationAnswer, Option<Event>);

impl Engine<'_> {
    /// The entry of the stream, and whether ATS is on in it.
    fn ats_entry(&mut self, asked: &Asked) -> Result<(Ste, Eats), Refusal> {
        let ste = self.ste(asked)?;
        let cached = self.caches.config.ste(asked.stream);
        let eats = match cached.map(|cached| (ste::eats(&cached.raw, self.config), cached.ats_check)) {
            Some((1, _)) => Eats::Full,
            // "ATSCHK == 0: behaves as 0b00." "An implementation is permitted to cache ATSCHK in configuration caches."
            Some((2, true)) => Eats::Split,
            // "If SMMU_IDR3.DPT == 0, 0b11 is Reserved and behaves as 0b00."
            _ => Eats::Off,
        };
        Ok((ste, eats))
    }

    /// Answers a request, as generously as the tables allow.
    fn answer(&mut self, wish: &Wish) -> Verdict {
        let asked = &wish.asked;
        let Ok((ste, eats)) = self.ats_entry(asked) else { return (TranslationAnswer::CompleterAbort, None) };
        if ste == Ste::Abort {
            return (TranslationAnswer::UnsupportedRequest, None);
        }
        if eats == Eats::Off {
            return (TranslationAnswer::UnsupportedRequest, Some(Event::BadAtsRequest(*asked)));
        }
        let answer = match self.regime(asked) {
            Ok(regime) => self.answer_in(&regime, wish, eats),
            // Stage 2 of a fetch of a CD: "This includes stage 2 faults for a CD fetch". One that is not even recorded is of that kind.
            Err(Refusal { event: None, .. }) => self.nothing(wish),
            Err(Refusal { event: Some(Event::Fault(_, fault)), .. }) => self.faulted(wish, fault.kind),
            Err(_) => TranslationAnswer::CompleterAbort,
        };
        (answer, None)
    }

    fn answer_in(&mut self, regime: &Regime, wish: &Wish, eats: Eats) -> TranslationAnswer {
        let asked =
            Asked { privileged: regime.overrides.privileged.unwrap_or(wish.asked.privileged), ..wish.asked };
        // Stage 1 skipped: F_ADDR_SIZE if the address is outside what it could put out.
        let limit = if regime.stage2.is_some() { self.config.ias() } else { self.config.oas() };
        if regime.stage1.is_none() && asked.address >> limit != 0 {
            return self.nothing(wish);
        }
        // 13.6.4 "Full ATS skipping stage 1": "R == 1, W == 1, identity-mapped"; "the maximum size is the same as the OAS".
        if regime.stage1.is_none() && regime.stage2.is_none() {
            let all = Given { read: true, write: true, execute: false };
            return given(wish, all, limit, 0);
        }
        match self.find_for_ats(regime, &asked, wish) {
            Ok(None) => self.nothing(wish),
            Ok(Some(found)) => {
                let rights = permissions(&found, &asked, wish, &regime.overrides);
                if rights == Given::default() {
                    return self.nothing(wish);
                }
                let (_, _, address) = place(regime, &asked);
                let first = address >> found.size_lg2 << found.size_lg2;
                let output = match (eats, found.stage1) {
                    (Eats::Split, Some(_)) => found.ipa + (first - found.first),
                    (Eats::Split, None) => first,
                    _ => found.output_of(first),
                };
                given(wish, rights, found.size_lg2, output)
            }
            Err(fault) => self.faulted(wish, fault.kind),
        }
    }

    /// The translation of the address, if stage 1 allows anything that was asked for: if not, stage 2 is not even looked at.
    ///
    /// A walk that needs a right has it granted, or meets a stage 1 permission fault. What is needed is made dirty, too: the most is
    /// tried first.
    fn find_for_ats(
        &mut self,
        regime: &Regime,
        asked: &Asked,
        wish: &Wish,
    ) -> Result<Option<Translation>, Fault> {
        // INSTCFG "Instruction": all reads are fetches.
        let reading = match regime.overrides.instruction {
            Some(true) => AccessKind::Execute,
            _ => AccessKind::Read,
        };
        let read = Rights::needed(reading, asked.privileged);
        let write = Rights::needed(AccessKind::Write, asked.privileged);
        let both = Rights(read.0 | write.0);
        // "HTTU does not mark a page Dirty in response to a Translation Request with NW == 1": then nothing needs a write.
        let tries: &[Rights] = if wish.write { &[both, read, write] } else { &[read] };
        for &needed in tries {
            match self.find_or_walk(regime, asked, needed) {
                Ok((found, _)) => return Ok(Some(found)),
                Err(Fault { kind: EventKind::Permission, stage2: false, .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }

    /// The answer to what would have been a fault.
    fn faulted(&self, wish: &Wish, kind: EventKind) -> TranslationAnswer {
        match kind {
            EventKind::WalkAbort | EventKind::TlbConflict => TranslationAnswer::CompleterAbort,
            _ => self.nothing(wish),
        }
    }

    /// Success, without any permission: "its translation size is equal to the STU size".
    fn nothing(&self, wish: &Wish) -> TranslationAnswer {
        given(wish, Given::default(), self.config.smallest_unit_lg2(), 0)
    }

    /// Judges an access by a translated address: where it goes.
    fn judge_translated(&mut self, asked: &Asked) -> Result<u64, Refusal> {
        // Choice, of two that 3.9.1.1 allows: an address beyond OAS is aborted, and not cut.
        let fits = asked.address >> self.config.oas() == 0;
        let through = fits.then_some(asked.address).ok_or(Refusal::SILENT);
        // "Fast mode, all ATS Translated traffic passes through without Stream table or TLB lookup."
        if !self.setup.ats_check {
            return through;
        }
        let (ste, eats) = self.ats_entry(asked).map_err(|_| Refusal::SILENT)?;
        match (ste, eats) {
            (Ste::Abort, _) => Err(Refusal::SILENT),
            (Ste::Pass { .. }, Eats::Off) => Err(Refusal::recorded(Event::TranslatedForbidden(*asked))),
            (Ste::Pass { stage2: Some(stage2), overrides, .. }, Eats::Split) => {
                self.second_stage(&overridden(asked, &overrides), &stage2)
            }
            (Ste::Pass { .. }, _) => through,
        }
    }

    /// Stage 2 of a translated access. Spec: SMMUv3 H.a, 13.6.3 "Split-stage (STE.EATS == 0b10) ATS behavior and responses".
    fn second_stage(&mut self, asked: &Asked, stage2: &Stage2) -> Result<u64, Refusal> {
        // "F_ADDR_SIZE arising from the check of the input address against IAS. Note: This is reported as a stage 1 fault."
        if asked.address >> self.config.ias() != 0 {
            let fault =
                Fault { kind: EventKind::AddressSize, stage2: false, class: Class::In, ipa: 0, fetch: 0 };
            return Err(Refusal::recorded(Event::Fault(*asked, fault)));
        }
        let needed = Rights::needed(asked.kind, asked.privileged);
        let found = self.stage2_leaf(stage2, asked.address, Class::In, asked, needed);
        let allowed = found.and_then(|found| check(&found, asked.address, needed).map(|()| found));
        allowed
            .map(|found| found.output_of(asked.address))
            .map_err(|fault| refuse(asked, fault, None, Some(stage2)))
    }
}

/// 13.7.1: what the final translation gives to this request.
fn permissions(found: &Translation, asked: &Asked, wish: &Wish, overrides: &Overrides) -> Given {
    let allows = |kind| {
        let needed = Rights::needed(kind, asked.privileged);
        let of = |stage: Option<(_, Rights)>| stage.is_none_or(|(_, rights)| rights.allow(needed));
        of(found.stage1) && of(found.stage2)
    };
    let [read, write, execute] = [AccessKind::Read, AccessKind::Write, AccessKind::Execute].map(allows);
    let (read, execute) = match overrides.instruction {
        None => (read, read && execute),
        Some(true) => (execute, execute),
        Some(false) => (read, read),
    };
    Given { read, write, execute: wish.execute && execute }
}

/// The answer as it goes to the device: `size_lg2` bytes around the address it asked for. The top byte is the device's own, ignored or not.
fn given(wish: &Wish, rights: Given, size_lg2: u32, output: u64) -> TranslationAnswer {
    TranslationAnswer::Translated(Answer {
        first: Iova::new(wish.asked.address >> size_lg2 << size_lg2),
        pa: Pa::new(output),
        size_lg2: u8::try_from(size_lg2).unwrap_or(12),
        read: rights.read,
        write: rights.write,
        execute: rights.execute,
        // "The Priv flag has the same value as the Priv flag provided with the request."
        privileged: wish.asked.privileged,
        // "The Global bit must be zero": other contexts may be laid out otherwise.
        global: false,
        untranslated_only: false,
    })
}

impl State {
    /// Answers a translation request.
    pub(crate) fn answer_translation(
        &mut self,
        request: &TranslationRequest,
        around: Around<'_>,
    ) -> TranslationAnswer {
        self.counters.translation_requests += 1;
        // "These fields are carried in a PASID": without one, data and unprivileged.
        let tagged = request.pasid.is_some();
        let asked = Asked {
            stream: request.source.0,
            substream: request.pasid.map(Pasid::get),
            address: request.iova.get(),
            kind: AccessKind::Read,
            privileged: tagged && request.privileged,
        };
        let wish = Wish { asked, write: !request.no_write, execute: tagged && request.execute };
        let (answer, event) = match (around.config.ats, self.is_enabled()) {
            (false, _) => (TranslationAnswer::UnsupportedRequest, None),
            (true, false) => (TranslationAnswer::UnsupportedRequest, Some(Event::BadAtsRequest(asked))),
            (true, true) => {
                self.last_stream = asked.stream;
                self.engine(around).answer(&wish)
            }
        };
        if let Some(event) = event {
            self.record(&event, around);
        }
        let answer = match answer {
            TranslationAnswer::Translated(answer) => {
                self.counters.translations_given += u64::from(answer.read || answer.write);
                TranslationAnswer::Translated(self.skimp(answer, &wish, around))
            }
            refused => refused,
        };
        if around.config.verbose {
            trace(&asked, &answer, around);
        }
        answer
    }

    /// Gives less than there is, if the dice say so: any naturally aligned piece that holds the address, and no permission to write that was
    /// not asked for.
    fn skimp(&mut self, answer: Answer, wish: &Wish, around: Around<'_>) -> Answer {
        if !self.dice.one_in(around.config.policy.stingy_answer_one_in) {
            return answer;
        }
        let most = u32::from(answer.size_lg2);
        let least = around.config.smallest_unit_lg2().min(most);
        let size_lg2 = least + self.dice.up_to(most - least);
        let first = wish.asked.address >> size_lg2 << size_lg2;
        Answer {
            first: Iova::new(first),
            pa: Pa::new(answer.pa.get() + (first - answer.first.get())),
            size_lg2: u8::try_from(size_lg2).unwrap_or(12),
            write: answer.write && (wish.write || !answer.read),
            ..answer
        }
    }

    /// Judges an access by a translated address: where it goes.
    pub(crate) fn judge_translated(
        &mut self,
        request: &TranslatedRequest,
        around: Around<'_>,
    ) -> Result<u64, Refusal> {
        if !around.config.ats {
            return Err(Refusal::SILENT);
        }
        // "Treated as though it is presented with PnU == 0, InD == 0, and SSV == 0."
        let kind = match request.access.kind {
            AccessKind::Write => AccessKind::Write,
            AccessKind::Read | AccessKind::Execute => AccessKind::Read,
        };
        let asked = Asked {
            stream: request.source.0,
            substream: None,
            address: request.at.get(),
            kind,
            privileged: false,
        };
        let judged = if self.is_enabled() {
            self.last_stream = asked.stream;
            self.engine(around).judge_translated(&asked)
        } else {
            Err(Refusal::recorded(Event::TranslatedForbidden(asked)))
        };
        if let Err(Refusal { event: Some(event), .. }) = &judged {
            self.record(event, around);
        }
        judged
    }

    /// CR0.ATSCHK changed. Entries that are cached go on as they were.
    pub(crate) fn change_ats_check(&mut self, on: bool, config: &Config) {
        self.setup.ats_check = on;
        let split = |(_, cached): &(u32, &crate::cache::CachedSte)| {
            cached.meaning.is_ok() && ste::eats(&cached.raw, config) == 2
        };
        if !on && let Some((stream, _)) = self.caches.config.stes().find(split) {
            self.notes.record(clause::ATSCHK_CLEARED, format!("stream {stream:#x}"));
        }
    }

    /// EATS of an entry that was cached, and is now invalidated, may not go straight from a physical to an intermediate address.
    pub(crate) fn note_eats_change(
        &mut self,
        stream: u32,
        old: &ste::Raw,
        new: &ste::Raw,
        around: Around<'_>,
    ) {
        let (old, new) = (ste::eats(old, around.config), ste::eats(new, around.config));
        if old != 0 && new != 0 && (old == 2) != (new == 2) {
            self.notes.record(clause::EATS_CHANGE, format!("stream {stream:#x}: {old} became {new}"));
        }
    }
}

fn trace(asked: &Asked, answer: &TranslationAnswer, around: Around<'_>) {
    let mut fields = vec![("sid", Value::Hex(asked.stream.into())), ("addr", Value::Addr(asked.address))];
    match answer {
        TranslationAnswer::Translated(answer) => {
            let bit = |set: bool, bit: u64| if set { bit } else { 0 };
            let rights = bit(answer.read, 1) | bit(answer.write, 2) | bit(answer.execute, 4);
            fields.extend([
                ("result", Value::Str("translated")),
                ("pa", Value::Addr(answer.pa.get())),
                ("size_lg2", Value::Dec(answer.size_lg2.into())),
                ("rights", Value::Hex(rights)),
            ]);
        }
        TranslationAnswer::UnsupportedRequest => fields.push(("result", Value::Str("unsupported"))),
        TranslationAnswer::CompleterAbort => fields.push(("result", Value::Str("aborted"))),
    }
    around.trace("ats_translate", &fields);
}
