//! Translation requests of devices with a device TLB.
//!
//! Spec: VT-d 5.10, 4.1.2 "Translation Completion", 4.2.1 "Handling of ATS Protocol Errors", 4.2.3 "Handling of Translation Requests", 7.1.2
//! "Recoverable Address Translation Faults", Table 30.

use model_bus::{Translation as Given, TranslationAnswer, TranslationRequest};
use portcullis_types::{Iova, Pa, Pasid};

use crate::bits::half;
use crate::engine::{Asked, Fault, Form, is_interrupt_address};
use crate::reason::{Answer, Reason};
use crate::state::{Around, State};
use crate::translate::Grant;

/// What may be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rights {
    read: bool,
    write: bool,
    untranslated: bool,
}

impl State {
    /// Answers a translation request.
    pub(crate) fn answer(&mut self, request: &TranslationRequest, around: Around<'_>) -> TranslationAnswer {
        self.counters.translation_requests += 1;
        if !self.is_enabled() || !around.config.device_tlbs {
            return TranslationAnswer::UnsupportedRequest;
        }
        let tagged = request.pasid.is_some();
        let asked = Asked {
            form: Form::Translation,
            source: half(request.source.0.into(), 0),
            pasid: request.pasid.map(Pasid::get),
            address: request.iova.get(),
            write: !(request.no_write && around.config.no_write_flag),
            execute: tagged && request.execute,
            privileged: tagged && request.privileged,
            empty: false,
        };
        // S.1 and S.2: a message's address. The device must be allowed to ask.
        if !tagged && is_interrupt_address(asked.address) {
            let allowed = self
                .engine(around)
                .check_mode(&asked)
                .and_then(|()| self.engine(around).regime(&asked).map(|_| ()));
            return match allowed {
                Ok(()) => {
                    let rights = Rights { read: false, write: asked.write, untranslated: asked.write };
                    self.give(&asked, rights, 12, asked.address & !0xfff)
                }
                Err(fault) => self.refuse(&asked, fault, around),
            };
        }
        match self.most(&asked, around) {
            Ok((grant, rights)) => {
                let found = grant.translation;
                let stingy = self.dice.one_in(around.config.policy.stingy_answer_one_in);
                let size_lg2 = if stingy { 12 } else { found.size_lg2 };
                let first = asked.address >> size_lg2 << size_lg2;
                self.give(&asked, rights, size_lg2, found.output_of(first))
            }
            Err(fault) => self.refuse(&asked, fault, around),
        }
    }

    /// The translation with the most that is allowed: to write, which sets D, or else to read.
    fn most(&mut self, asked: &Asked, around: Around<'_>) -> Result<(Grant, Rights), Fault> {
        let read = Asked { write: false, ..*asked };
        let write = Asked { write: true, ..*asked };
        let written = if asked.write { Some(self.engine(around).translate(&write)) } else { None };
        let readable = self.engine(around).translate(&read);
        match (written, readable) {
            (Some(Ok(grant)), readable) => {
                Ok((grant, Rights { read: readable.is_ok(), write: true, untranslated: false }))
            }
            (_, Ok(grant)) => Ok((grant, Rights { read: true, write: false, untranslated: false })),
            (_, Err(fault)) => Err(fault),
        }
    }

    fn give(&mut self, asked: &Asked, rights: Rights, size_lg2: u32, output: u64) -> TranslationAnswer {
        let Rights { read, write, untranslated } = rights;
        self.counters.translations_given += u64::from(read || write);
        TranslationAnswer::Translated(Given {
            first: Iova::new(asked.address >> size_lg2 << size_lg2),
            pa: Pa::new(output),
            size_lg2: u8::try_from(size_lg2).unwrap_or(12),
            read,
            write,
            execute: false,
            privileged: asked.privileged,
            global: false,
            untranslated_only: untranslated,
        })
    }

    fn refuse(&mut self, asked: &Asked, fault: Fault, around: Around<'_>) -> TranslationAnswer {
        let answer = fault.reason.answer();
        // "Also reported as non-recoverable fault."
        let reported = matches!(answer, Answer::Unsupported | Answer::Abort)
            || fault.reason == Reason::FirstUpdateFailed;
        if reported {
            self.record_fault(asked, fault, around);
        }
        match answer {
            Answer::Unsupported => TranslationAnswer::UnsupportedRequest,
            Answer::Abort => TranslationAnswer::CompleterAbort,
            Answer::Nothing | Answer::Effective => self.give(asked, Rights::default(), 12, 0),
        }
    }
}
