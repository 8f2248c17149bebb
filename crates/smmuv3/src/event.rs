//! What an event record says, in core's words.
//!
//! Spec: SMMUv3 H.a, 7.3 "Event records".
//! Not here: taking records from the queue (`event_queue`).

use portcullis_core::iommu::{FaultReason, FaultRecord};
use portcullis_spec::smmuv3::event::{EVENT_WORDS, EventId, EventWord0, EventWord1};
use portcullis_types::{Access, AccessKind, Iova, Pasid, SourceId};

/// The meaning of an event record. Total: of a record that the book does not name, only the number is taken, the words are kept.
pub fn decode(raw: &[u64; EVENT_WORDS]) -> FaultRecord {
    let word0 = EventWord0::from_bits(raw[0]);
    let word1 = EventWord1::from_bits(raw[1]);
    let id = EventId(word0.id());
    let named = id.name().is_some() && id.0 < 0xe0;
    let has_pasid = named && (word0.ssv() || id.always_has_substream());
    FaultRecord {
        source: named.then_some(SourceId(word0.stream_id())),
        pasid: if has_pasid { Pasid::new(word0.substream_id()) } else { None },
        iova: id.has_input_address().then_some(Iova::new(raw[2] & address_mask(id))),
        access: id.has_access().then(|| access(word1)),
        reason: reason(id),
        name: id.name().unwrap_or("unknown"),
        raw: *raw,
    }
}

/// Which bits of the third word are an address: in some records the low ones are something else.
fn address_mask(id: EventId) -> u64 {
    match id {
        EventId::F_BAD_ATS_TREQ | EventId::E_PAGE_REQUEST => !0xfff,
        _ => u64::MAX,
    }
}

fn access(word: EventWord1) -> Access {
    let kind = match (word.rnw(), word.ind()) {
        (true, true) => AccessKind::Execute,
        (true, false) => AccessKind::Read,
        (false, _) => AccessKind::Write,
    };
    Access { kind, privileged: word.pnu() }
}

fn reason(id: EventId) -> FaultReason {
    match id {
        EventId::F_TRANSLATION => FaultReason::NotMapped,
        EventId::F_PERMISSION => FaultReason::Permission,
        EventId::F_ADDR_SIZE => FaultReason::AddressSize,
        EventId::F_ACCESS => FaultReason::AccessFlag,
        EventId::C_BAD_STREAMID
        | EventId::C_BAD_STE
        | EventId::F_BAD_ATS_TREQ
        | EventId::F_STREAM_DISABLED
        | EventId::F_TRANSL_FORBIDDEN
        | EventId::C_BAD_SUBSTREAMID
        | EventId::C_BAD_CD => FaultReason::Configuration,
        EventId::F_STE_FETCH
        | EventId::F_CD_FETCH
        | EventId::F_VMS_FETCH
        | EventId::F_WALK_EABT
        | EventId::F_TLB_CONFLICT
        | EventId::F_CFG_CONFLICT => FaultReason::Hardware,
        other => FaultReason::Other(other.0.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translation_fault_says_who_where_and_how() {
        // F_TRANSLATION of stream 0x1234, substream 5, privileged read, at 0xdead_b040.
        let raw = [0x0000_1234_0000_5810, 0x0000_020a_0000_0000, 0xdead_b040, 0];
        let record = decode(&raw);
        assert_eq!((record.name, record.reason), ("F_TRANSLATION", FaultReason::NotMapped));
        assert_eq!((record.source, record.pasid), (Some(SourceId(0x1234)), Pasid::new(5)));
        assert_eq!(record.iova, Some(Iova::new(0xdead_b040)));
        assert_eq!(record.access, Some(Access { kind: AccessKind::Read, privileged: true }));
        assert_eq!(record.raw, raw);
    }

    #[test]
    fn writes_and_fetches_are_told_apart() {
        let kind = |word1: u64| decode(&[0x13, word1, 0, 0]).access.unwrap().kind;
        assert_eq!(kind(0), AccessKind::Write);
        assert_eq!(kind(1 << 35), AccessKind::Read);
        assert_eq!(kind(1 << 35 | 1 << 34), AccessKind::Execute);
        assert_eq!(kind(1 << 34), AccessKind::Write);
    }

    #[test]
    fn a_configuration_error_has_no_address_and_no_access() {
        let record = decode(&[0x0000_0007_0000_0004, u64::MAX, u64::MAX, u64::MAX]);
        assert_eq!((record.name, record.reason), ("C_BAD_STE", FaultReason::Configuration));
        assert_eq!((record.iova, record.access, record.pasid), (None, None, None));
        assert_eq!(record.source, Some(SourceId(7)));
    }

    #[test]
    fn a_bad_substream_is_told_without_its_valid_bit() {
        assert_eq!(decode(&[0x0000_0007_0000_9008, 0, 0, 0]).pasid, Pasid::new(9));
    }

    #[test]
    fn every_number_decodes_and_unknown_ones_are_kept_whole() {
        for id in 0..=0xff {
            let raw = [id | 0xffff_ffff_ffff_ff00, u64::MAX, u64::MAX, u64::MAX];
            let record = decode(&raw);
            assert_eq!(record.raw, raw);
            if record.name == "unknown" || record.name == "IMPDEF_EVENT" {
                assert_eq!((record.source, record.iova, record.access), (None, None, None), "{id:#x}");
            }
        }
        assert_eq!(decode(&[0x7f, 1, 2, 3]).reason, FaultReason::Other(0x7f));
        assert_eq!(decode(&[0xe3, 0, 0, 0]).name, "IMPDEF_EVENT");
    }
}
