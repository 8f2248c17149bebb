//! VT-d: registers of events, queues and protected memory, what a device writes for an interrupt, and the values that fields take, against what was read in the
//! book by hand.

use portcullis_checks::accessors;
use portcullis_checks::golden::vtd as golden;
use portcullis_checks::golden::{Accessor, Table, hold};
use portcullis_spec::vtd::{
    AW_39, AW_48, AW_57, INTERRUPT_WINDOW_FIRST, INTERRUPT_WINDOW_LAST, address_width_bits, capability,
    context, fault, interrupt, invalidation, page_request, pasid, queue, registers,
};

/// All bits of a register of 32.
const NARROW: u64 = 0xffff_ffff;

#[test]
fn the_version_lies_where_the_book_says() {
    let accessors = accessors! {capability::Version; "MIN" => min with_min, "MAX" => max with_max,};
    hold(&golden::VER, 0, NARROW, accessors, &[]);
    // Version 6.0.
    assert_eq!(capability::Version::from_bits(0x60).max(), 6);
}

#[test]
fn registers_of_events_lie_where_the_book_says() {
    let control = accessors! {registers::EventControl; "IP" => ip with_ip, "IM" => im with_im,};
    let data = accessors! {registers::EventData; "IMD" => imd with_imd,};
    let address = accessors! {registers::EventAddress; "MA" => ma with_ma,};
    let kinds: [(&[Table], &[Accessor]); 3] =
        [(golden::EVENT_CONTROL, control), (golden::EVENT_DATA, data), (golden::EVENT_ADDRESS, address)];
    for (tables, accessors) in kinds {
        assert_eq!(tables.len(), 3, "faults, invalidations, page requests");
        tables.iter().for_each(|table| hold(table, 0, NARROW, accessors, &[]));
    }
    // Held back. Vector 41h at fee0_1004h.
    assert_eq!(registers::EventControl::new().with_im(true).into_bits(), 0x8000_0000);
    assert_eq!(registers::EventData::new().with_imd(0x41).into_bits(), 0x41);
    assert_eq!(registers::EventAddress::new().with_ma(0x3fb8_0401).into_bits(), 0xfee0_1004);
}

#[test]
fn protected_memory_is_enabled_where_the_book_says() {
    let accessors =
        accessors! {registers::ProtectedMemoryEnable; "PRS" => prs with_prs, "EPM" => epm with_epm,};
    hold(&golden::PMEN, 0, NARROW, accessors, &[]);
    let firmwares = registers::ProtectedMemoryEnable::from_bits(0x8000_0001);
    assert_eq!((firmwares.epm(), firmwares.prs()), (true, true));
}

#[test]
fn registers_of_the_queues_lie_where_the_book_says() {
    let head = accessors! {queue::InvalidationQueueIndex; "QH" => offset with_offset,};
    hold(&golden::IQH, 0, !0, head, &[]);
    let tail = accessors! {queue::InvalidationQueueIndex; "QT" => offset with_offset,};
    hold(&golden::IQT, 0, !0, tail, &[]);
    let status = accessors! {queue::InvalidationCompletionStatus; "IWC" => iwc with_iwc,};
    hold(&golden::ICS, 0, NARROW, status, &[]);
    let head = accessors! {queue::PageRequestQueueIndex; "PQH" => offset with_offset,};
    hold(&golden::PQH, 0, !0, head, &[]);
    let tail = accessors! {queue::PageRequestQueueIndex; "PQT" => offset with_offset,};
    hold(&golden::PQT, 0, !0, tail, &[]);
}

#[test]
fn whole_registers_of_the_queues_are_as_worked_out_from_the_book() {
    // Two pages at 1_2345_6000h, 256-bit descriptors: 2^(1 + 7) of them, so that the last is at 1fe0h.
    let address =
        queue::InvalidationQueueAddress::new().with_qs(1).with_dw(true).with_iqa_address(0x1_2345_6000);
    assert_eq!(address.into_bits(), 0x1_2345_6801);
    let last = queue::InvalidationQueueIndex::from_bits(0x1fe0);
    assert_eq!(u64::from(last.offset()) * 16, 255 * 32);
    // The last 128-bit descriptor of the largest queue.
    assert_eq!(queue::InvalidationQueueIndex::new().with_offset(0x7fff).into_bits(), 0x7_fff0);
    // Four pages for page requests: 2^(2 + 7) of 32 bytes; the last one.
    let address = queue::PageRequestQueueAddress::new().with_pqs(2).with_pqa_address(0x8765_4000);
    assert_eq!(address.into_bits(), 0x8765_4002);
    let last = queue::PageRequestQueueIndex::from_bits(0x3fe0);
    assert_eq!(u64::from(last.offset()) * queue::PAGE_REQUEST_BYTES, 511 * 32);
    // 00:1f.3 did not answer an invalidation: FSTS_REG.ITE, and its name.
    assert!(fault::FaultStatus::from_bits(0x40).ite());
    assert_eq!(queue::InvalidationQueueErrorRecord::from_bits(0x0000_00fb_0000_0000).itesid(), 0x00fb);
    // Requests were lost, and there are some.
    let status = queue::PageRequestStatus::from_bits(0x3);
    assert_eq!((status.ppr(), status.pro()), (true, true));
}

#[test]
fn what_a_device_writes_for_an_interrupt_lies_where_the_book_says() {
    let accessors = accessors! {interrupt::RemappableAddress;
        "Handle[15]" => handle_15 with_handle_15,
        "SHV" => shv with_shv,
        "Interrupt Format" => format with_format,
        "Handle[14:0]" => handle_14_0 with_handle_14_0,
        "Interrupt Identifier" => identifier with_identifier,
    };
    hold(&golden::REMAPPABLE, 0, NARROW, accessors, &[]);
    assert_eq!(interrupt::RemappableAddress::new().into_bits(), 0xfee0_0010, "entry 0");
    assert_eq!((INTERRUPT_WINDOW_FIRST, INTERRUPT_WINDOW_LAST), (0xfee0_0000, 0xfeef_ffff));
}

#[test]
fn modes_of_translation_have_the_numbers_of_the_book() {
    // 11.4.5, TTM: legacy, scalable, abort. 9.3, TT: translate, with a device TLB, pass.
    assert_eq!([registers::TTM_LEGACY, registers::TTM_SCALABLE, registers::TTM_ABORT], [0, 1, 3]);
    assert_eq!([context::TT_UNTRANSLATED, context::TT_ATS, context::TT_PASS_THROUGH], [0, 1, 2]);
    // 9.6, PGTT: first stage, second stage, nested, pass; FSPM: 4 levels, 5 levels.
    let types =
        [pasid::PGTT_FIRST_STAGE, pasid::PGTT_SECOND_STAGE, pasid::PGTT_NESTED, pasid::PGTT_PASS_THROUGH];
    assert_eq!(types, [1, 2, 3, 4]);
    assert_eq!([pasid::FSPM_4_LEVELS, pasid::FSPM_5_LEVELS], [0, 1]);
    // 9.3 and 9.6, AW.
    assert_eq!([AW_39, AW_48, AW_57], [1, 2, 3]);
    let widths = [None, Some(39), Some(48), Some(57), None, None, None, None];
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(address_width_bits), widths);
    // 9.1 to 9.6: bytes of entries.
    let bytes = [context::ROOT_BYTES, context::CONTEXT_BYTES, context::SCALABLE_CONTEXT_BYTES];
    assert_eq!(bytes, [16, 16, 32]);
    assert_eq!([pasid::DIRECTORY_ENTRY_BYTES, pasid::PASID_ENTRY_BYTES], [8, 64]);
}

#[test]
fn granularities_have_the_numbers_of_the_book() {
    // 11.4.6.1, CIRG, and 6.5.2.1, G: global, domain, device. 11.4.6.3, IIRG, and 6.5.2.3, G: global, domain, pages.
    use registers::{
        CONTEXT_DEVICE, CONTEXT_DOMAIN, CONTEXT_GLOBAL, IOTLB_DOMAIN, IOTLB_FROM_IRO, IOTLB_GLOBAL,
        IOTLB_PAGES, IVA_FROM_IRO,
    };
    assert_eq!([CONTEXT_GLOBAL, CONTEXT_DOMAIN, CONTEXT_DEVICE], [1, 2, 3]);
    assert_eq!([IOTLB_GLOBAL, IOTLB_DOMAIN, IOTLB_PAGES], [1, 2, 3]);
    // 11.4.6.2: IVA_REG first, IOTLB_REG 8 further.
    assert_eq!([IVA_FROM_IRO, IOTLB_FROM_IRO], [0, 8]);
    // 6.5.2.2, G: domain, PASID, global. 6.5.2.4, G: PASID, pages of it.
    use invalidation::{
        PASID_CACHE_DOMAIN, PASID_CACHE_GLOBAL, PASID_CACHE_PASID, PASID_IOTLB_PAGES, PASID_IOTLB_PASID,
    };
    assert_eq!([PASID_CACHE_DOMAIN, PASID_CACHE_PASID, PASID_CACHE_GLOBAL], [0, 1, 3]);
    assert_eq!([PASID_IOTLB_PASID, PASID_IOTLB_PAGES], [2, 3]);
}

#[test]
fn interrupts_are_delivered_and_their_senders_judged_by_the_numbers_of_the_book() {
    // 9.9, DLM: fixed, lowest priority, SMI, NMI, INIT, ExtINT. SVT: nobody, requester, buses. SQ.
    use interrupt::*;
    let modes = [
        DELIVERY_FIXED,
        DELIVERY_LOWEST_PRIORITY,
        DELIVERY_SMI,
        DELIVERY_NMI,
        DELIVERY_INIT,
        DELIVERY_EXTINT,
    ];
    assert_eq!(modes, [0, 1, 2, 4, 5, 7]);
    assert_eq!([SVT_NONE, SVT_REQUESTER, SVT_BUSES], [0, 1, 2]);
    assert_eq!([SQ_ALL, SQ_NOT_BIT_2, SQ_NOT_BITS_2_1, SQ_NOT_BITS_2_0], [0, 1, 2, 3]);
    assert_eq!(IRTE_BYTES, 16);
}

#[test]
fn errors_requests_and_responses_have_the_numbers_of_the_book() {
    // 11.4.9.9, IQEI.
    use queue::*;
    let errors =
        [IQEI_NONE, IQEI_TAIL, IQEI_FETCH, IQEI_TYPE, IQEI_RESERVED, IQEI_WIDTH, IQEI_ALIGNMENT, IQEI_TTM];
    assert_eq!(errors, [0, 1, 2, 3, 4, 5, 6, 7]);
    // 11.4.7.6, AT: untranslated, translation, translated. A record has 128 bits.
    assert_eq!([fault::AT_UNTRANSLATED, fault::AT_TRANSLATION, fault::AT_TRANSLATED], [0, 1, 2]);
    assert_eq!(fault::FAULT_RECORD_BYTES, 16);
    // 7.6.1, Table 32: success, invalid request, response failure. 7.4.1.1, Type.
    use page_request::{RESPONSE_FAILURE, RESPONSE_INVALID, RESPONSE_SUCCESS, TYPE_PAGE_REQUEST};
    assert_eq!([RESPONSE_SUCCESS, RESPONSE_INVALID, RESPONSE_FAILURE, TYPE_PAGE_REQUEST], [0, 1, 15, 1]);
}

#[test]
fn what_capabilities_count_is_counted_as_the_book_says() {
    // 11.4.2: ND 2 is 8 bits, 6 is 16, 7 is reserved; MGAW 47 is 48 bits; FRO 22h is at 220h; NFR 7 is 8 records.
    let with_nd = |nd| capability::Capability::from_bits(nd).domain_id_bits();
    assert_eq!([0, 2, 6, 7].map(with_nd), [Some(4), Some(8), Some(16), None]);
    let capability = capability::Capability::from_bits(0x0000_0700_222f_0000);
    assert_eq!(capability.guest_address_bits(), 48);
    assert_eq!((capability.fault_record_offset(), capability.fault_records()), (0x220, 8));
    // 11.4.3: IRO 50h is at 500h; PSS 13h is 20 bits.
    let extended = capability::ExtendedCapability::from_bits(0x0000_0098_0000_5000);
    assert_eq!((extended.iotlb_offset(), extended.pasid_bits()), (0x500, 20));
}
