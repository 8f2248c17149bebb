//! Event records: what went wrong, in the 32 bytes that software reads.
//!
//! Spec: SMMUv3 H.a, 7.3 "Event records".
//! Not here: the queue they go to (`queue`).

use portcullis_types::AccessKind;

/// The four 64-bit words of a record.
pub(crate) type Record = [u64; 4];

/// Which operation a fault interrupted. Spec: SMMUv3 H.a, 7.3 "Event records", CLASS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The fetch of a context descriptor.
    Cd,
    /// The fetch of a stage 1 table descriptor.
    Tt,
    /// The hardware's update of a stage 1 table descriptor: the same in CLASS, and a write in TTRnW.
    TtUpdate,
    /// The access itself.
    In,
}

/// Kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// C_BAD_STREAMID.
    BadStreamId = 0x02,
    /// F_STE_FETCH.
    SteFetch = 0x03,
    /// C_BAD_STE.
    BadSte = 0x04,
    /// F_BAD_ATS_TREQ.
    BadAtsRequest = 0x05,
    /// F_STREAM_DISABLED.
    StreamDisabled = 0x06,
    /// F_TRANSL_FORBIDDEN.
    TranslatedForbidden = 0x07,
    /// C_BAD_SUBSTREAMID.
    BadSubstreamId = 0x08,
    /// F_CD_FETCH.
    CdFetch = 0x09,
    /// C_BAD_CD.
    BadCd = 0x0a,
    /// F_WALK_EABT.
    WalkAbort = 0x0b,
    /// F_TRANSLATION.
    Translation = 0x10,
    /// F_ADDR_SIZE.
    AddressSize = 0x11,
    /// F_ACCESS.
    Access = 0x12,
    /// F_PERMISSION.
    Permission = 0x13,
    /// F_TLB_CONFLICT.
    TlbConflict = 0x20,
}

impl EventKind {
    /// The book's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadStreamId => "C_BAD_STREAMID",
            Self::SteFetch => "F_STE_FETCH",
            Self::BadSte => "C_BAD_STE",
            Self::BadAtsRequest => "F_BAD_ATS_TREQ",
            Self::StreamDisabled => "F_STREAM_DISABLED",
            Self::TranslatedForbidden => "F_TRANSL_FORBIDDEN",
            Self::BadSubstreamId => "C_BAD_SUBSTREAMID",
            Self::CdFetch => "F_CD_FETCH",
            Self::BadCd => "C_BAD_CD",
            Self::WalkAbort => "F_WALK_EABT",
            Self::Translation => "F_TRANSLATION",
            Self::AddressSize => "F_ADDR_SIZE",
            Self::Access => "F_ACCESS",
            Self::Permission => "F_PERMISSION",
            Self::TlbConflict => "F_TLB_CONFLICT",
        }
    }
}

/// Who asked for what, after the overrides of the STE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) stream: u32,
    pub(crate) substream: Option<u32>,
    pub(crate) address: u64,
    pub(crate) kind: AccessKind,
    pub(crate) privileged: bool,
}

/// What a fault says beyond what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: EventKind,
    pub(crate) stage2: bool,
    pub(crate) class: Class,
    /// The intermediate address, of a stage 2 fault. Spec: at stage 1 it is UNKNOWN; we say 0.
    pub(crate) ipa: u64,
    /// Where a fetch failed.
    pub(crate) fetch: u64,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    BadStreamId(Asked),
    SteFetch(Asked, u64),
    BadSte(Asked),
    BadAtsRequest(Asked),
    StreamDisabled(Asked),
    TranslatedForbidden(Asked),
    BadSubstreamId(Asked, u32),
    CdFetch(Asked, u64),
    BadCd(Asked),
    Fault(Asked, Fault),
    /// A fault of an access that is held back, with its STAG.
    Stalled(Asked, Fault, u16),
}

/// FetchAddr lies in bits 55:3.
const FETCH: u64 = 0x00ff_ffff_ffff_fff8;
/// IPA lies in bits 55:12.
const IPA: u64 = 0x00ff_ffff_ffff_f000;

impl Event {
    pub(crate) fn kind(&self) -> EventKind {
        match self {
            Self::BadStreamId(..) => EventKind::BadStreamId,
            Self::SteFetch(..) => EventKind::SteFetch,
            Self::BadSte(..) => EventKind::BadSte,
            Self::BadAtsRequest(..) => EventKind::BadAtsRequest,
            Self::StreamDisabled(..) => EventKind::StreamDisabled,
            Self::TranslatedForbidden(..) => EventKind::TranslatedForbidden,
            Self::BadSubstreamId(..) => EventKind::BadSubstreamId,
            Self::CdFetch(..) => EventKind::CdFetch,
            Self::BadCd(..) => EventKind::BadCd,
            Self::Fault(_, fault) | Self::Stalled(_, fault, _) => fault.kind,
        }
    }

    pub(crate) fn asked(&self) -> &Asked {
        match self {
            Self::BadStreamId(asked)
            | Self::SteFetch(asked, _)
            | Self::BadSte(asked)
            | Self::BadAtsRequest(asked)
            | Self::StreamDisabled(asked)
            | Self::TranslatedForbidden(asked)
            | Self::BadSubstreamId(asked, _)
            | Self::CdFetch(asked, _)
            | Self::BadCd(asked)
            | Self::Fault(asked, _)
            | Self::Stalled(asked, ..) => asked,
        }
    }

    /// The record as it lies in the queue.
    pub(crate) fn encode(&self) -> Record {
        let asked = self.asked();
        let stream = u64::from(asked.stream) << 32 | self.kind() as u64;
        let substream = asked.substream.map_or(0, |ssid| u64::from(ssid & 0xf_ffff) << 12 | 1 << 11);
        match *self {
            Self::BadStreamId(_) | Self::BadSte(_) | Self::BadCd(_) => [stream | substream, 0, 0, 0],
            Self::SteFetch(_, fetch) | Self::CdFetch(_, fetch) => [stream | substream, 0, 0, fetch & FETCH],
            // InputAddr[63:12]. Choice: the second word, with Span and the permissions asked for, is left 0.
            Self::BadAtsRequest(_) => [stream | substream, 0, asked.address & !0xfff, 0],
            Self::StreamDisabled(_) => [stream, 0, 0, 0],
            // RnW alone: 99.
            Self::TranslatedForbidden(_) => {
                let read = u64::from(asked.kind != AccessKind::Write);
                [stream | substream, read << 35, asked.address, 0]
            }
            Self::BadSubstreamId(_, ssid) => [stream | u64::from(ssid & 0xf_ffff) << 12, 0, 0, 0],
            Self::Fault(_, fault) => {
                [stream | substream, attributes(asked, &fault), asked.address, fault.last_word()]
            }
            // Word 1: STAG 15:0, Stall 31.
            Self::Stalled(_, fault, tag) => [
                stream | substream,
                attributes(asked, &fault) | u64::from(tag) | 1 << 31,
                asked.address,
                fault.last_word(),
            ],
        }
    }
}

impl Fault {
    fn last_word(&self) -> u64 {
        match self.kind {
            EventKind::WalkAbort => self.fetch & FETCH,
            _ if self.stage2 => self.ipa & IPA,
            _ => 0,
        }
    }
}

/// Word 1 of a fault: PnU 33, InD 34, RnW 35, S2 39, CLASS 41:40, TTRnW 44.
fn attributes(asked: &Asked, fault: &Fault) -> u64 {
    let read = asked.kind != AccessKind::Write;
    let instruction = asked.kind == AccessKind::Execute;
    let mut word = u64::from(asked.privileged) << 33 | u64::from(instruction) << 34 | u64::from(read) << 35;
    word |= u64::from(fault.stage2) << 39;
    if fault.kind != EventKind::TlbConflict {
        word |= match fault.class {
            Class::Cd => 0,
            Class::Tt | Class::TtUpdate => 1,
            Class::In => 2,
        } << 40;
    }
    let table_read = fault.kind == EventKind::Permission && fault.class == Class::Tt;
    word | u64::from(table_read) << 44
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked {
        stream: 0x1234,
        substream: Some(0x5_6789),
        address: 0xffff_8000_1234_5678,
        kind: AccessKind::Write,
        privileged: false,
    };
    const FAULT: Fault = Fault {
        kind: EventKind::Translation,
        stage2: false,
        class: Class::In,
        ipa: 0x9_8765_4321,
        fetch: 0x7_6543_2108,
    };

    #[test]
    fn configuration_events_are_the_words_of_the_book() {
        assert_eq!(Event::BadStreamId(ASKED).encode(), [0x0000_1234_5678_9802, 0, 0, 0]);
        assert_eq!(Event::SteFetch(ASKED, 0x4_0040).encode(), [0x0000_1234_5678_9803, 0, 0, 0x4_0040]);
        assert_eq!(Event::BadSte(ASKED).encode(), [0x0000_1234_5678_9804, 0, 0, 0]);
        assert_eq!(Event::StreamDisabled(ASKED).encode(), [0x0000_1234_0000_0006, 0, 0, 0]);
        assert_eq!(Event::BadSubstreamId(ASKED, 0x42).encode(), [0x0000_1234_0004_2008, 0, 0, 0]);
        assert_eq!(Event::CdFetch(ASKED, 0x4_0040).encode(), [0x0000_1234_5678_9809, 0, 0, 0x4_0040]);
        assert_eq!(Event::BadCd(ASKED).encode(), [0x0000_1234_5678_980a, 0, 0, 0]);
        assert_eq!(
            Event::BadAtsRequest(ASKED).encode(),
            [0x0000_1234_5678_9805, 0, 0xffff_8000_1234_5000, 0]
        );
        let plain = Asked { substream: None, ..ASKED };
        assert_eq!(
            Event::TranslatedForbidden(plain).encode(),
            [0x0000_1234_0000_0007, 0, 0xffff_8000_1234_5678, 0]
        );
        let read = Asked { kind: AccessKind::Read, ..plain };
        assert_eq!(Event::TranslatedForbidden(read).encode()[1], 0x0000_0008_0000_0000);
        assert_eq!(Event::BadSte(plain).encode(), [0x0000_1234_0000_0004, 0, 0, 0]);
    }

    #[test]
    fn faults_are_the_words_of_the_book() {
        let stage1 = Event::Fault(ASKED, FAULT).encode();
        assert_eq!(stage1, [0x0000_1234_5678_9810, 0x0000_0200_0000_0000, 0xffff_8000_1234_5678, 0]);
        let fetch = Asked { kind: AccessKind::Execute, privileged: true, ..ASKED };
        let stage2 = Fault { kind: EventKind::Permission, stage2: true, class: Class::Tt, ..FAULT };
        let record = Event::Fault(fetch, stage2).encode();
        assert_eq!(
            record,
            [0x0000_1234_5678_9813, 0x0000_118e_0000_0000, 0xffff_8000_1234_5678, 0x9_8765_4000]
        );
        let read = Asked { kind: AccessKind::Read, ..ASKED };
        let abort = Fault { kind: EventKind::WalkAbort, class: Class::Tt, ..FAULT };
        assert_eq!(
            Event::Fault(read, abort).encode()[1..],
            [0x0000_0108_0000_0000, ASKED.address, 0x7_6543_2108]
        );
        let size = Fault { kind: EventKind::AddressSize, stage2: true, class: Class::Cd, ..FAULT };
        assert_eq!(Event::Fault(read, size).encode()[1], 0x0000_0088_0000_0000);
        let conflict = Fault { kind: EventKind::TlbConflict, ..FAULT };
        assert_eq!(
            Event::Fault(read, conflict).encode()[..2],
            [0x0000_1234_5678_9820, 0x0000_0008_0000_0000]
        );
        let held = Event::Stalled(ASKED, FAULT, 0x9abc).encode();
        assert_eq!(held, [0x0000_1234_5678_9810, 0x0000_0200_8000_9abc, 0xffff_8000_1234_5678, 0]);
        let update = Fault { class: Class::TtUpdate, ..stage2 };
        assert_eq!(Event::Fault(fetch, update).encode()[1], 0x0000_018e_0000_0000, "TTRnW: a write");
        let access = Fault { kind: EventKind::Access, ..FAULT };
        assert_eq!(Event::Fault(ASKED, access).encode()[0] & 0xff, 0x12);
    }
}
