//! Parts 23 to 25: ATS, page requests and PASIDs, found, turned on and off, and of devices that lie.
//!
//! Words and bits are written by hand from PCIe 6.0, 10.5 and 7.8.9.

extern crate std;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use portcullis_core::sva::{DeviceSvaFacts, DeviceSwitches};
use portcullis_hal::Clock;
use portcullis_spec::pcie::Bdf;
use portcullis_types::SizeLg2;

use super::{bdf, host};
use crate::fake::{ACS_FULL, DOWNSTREAM, Fake, FakeFunction, ROOT_PORT, TO_PCI, UPSTREAM};
use crate::{
    AddressServices, ConfigAccess, HostTrust, Missing, PasidPermissions, ServiceError, Topology, enumerate,
};

const ATS: u16 = 0x100;
const PRI: u16 = 0x110;
const PASID: u16 = 0x120;
/// Where control and status lie in a capability.
const WORD: u16 = 4;
/// Everything that a port or function knows of prefixes: Device Capabilities 2, bit 21.
const PREFIXES: u32 = 1 << 21;
const TRUST: HostTrust<'static> =
    HostTrust { ats_supported: true, all_external: false, external_facing: &[] };
const NONE: PasidPermissions = PasidPermissions { execute: false, privileged: false };

fn requests(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

/// An endpoint with all three: a queue of 5 invalidations, 16-bit PASIDs with execute permission, 64 requests, PASIDs on responses.
fn endpoint() -> FakeFunction {
    FakeFunction::endpoint()
        .express(0)
        .word(0x64, PREFIXES)
        .word(0x100, 0x1101_000f)
        .word(0x104, 0x0000_0065)
        .writable(0x104, 0x801f_0000)
        .word(0x110, 0x1201_0013)
        .word(0x114, 0x8100_0000)
        .writable(0x114, 0x0000_0001)
        .clearing(0x114, 0x0003_0000)
        .word(0x118, 64)
        .word(0x11c, 0)
        .writable(0x11c, u32::MAX)
        .word(0x120, 0x0001_001b)
        .word(0x124, 0x0000_1002)
        .writable(0x124, 0x0007_0000)
}

fn port(kind: u32) -> FakeFunction {
    FakeFunction::bridge().express(kind).word(0x64, PREFIXES).writable(0x68, 0x8000).acs(ACS_FULL)
}

/// What a function does by itself, and everything that is written to it.
struct Live {
    fake: Fake,
    writes: Mutex<Vec<(u16, u32)>>,
    /// Whether requests come to an end when they are turned off.
    stops: AtomicBool,
    now_ns: AtomicU64,
}

impl ConfigAccess for Live {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        self.fake.read32(at, offset)
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        self.writes.lock().unwrap().push((offset, value));
        let before = self.fake.read32(at, offset);
        self.fake.write32(at, offset, value);
        if offset == PRI + WORD {
            let word = self.fake.read32(at, offset);
            match (before & 1, word & 1) {
                (0, 1) => self.fake.poke(0, offset.into(), word & !0x0103_0000),
                (1, 0) if self.stops.load(Relaxed) => self.fake.poke(0, offset.into(), word | 0x0100_0000),
                _ => {}
            }
        }
    }
}

impl Clock for Live {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(10, Relaxed);
    }
}

impl Live {
    fn new(function: FakeFunction) -> (Arc<Self>, AddressServices) {
        let fake = Fake::new(0);
        fake.root(0, function);
        let topology = enumerate(&fake, &host());
        let services = AddressServices::find(&fake, &topology, 0, &TRUST);
        let live = Self { fake, writes: Mutex::default(), stops: true.into(), now_ns: 0.into() };
        (Arc::new(live), services)
    }

    fn word(&self, capability: u16) -> u32 {
        self.fake.raw(0, (capability + WORD).into())
    }

    /// What was written since the last call.
    fn written(&self) -> Vec<(u16, u32)> {
        core::mem::take(&mut *self.writes.lock().unwrap())
    }
}

fn found(function: FakeFunction) -> AddressServices {
    Live::new(function).1
}

#[test]
fn part_23_services_are_found_where_their_words_say() {
    let services = found(endpoint());
    let (ats, pri, pasids) = (services.ats.unwrap(), services.pri.unwrap(), services.pasids.unwrap());
    assert_eq!((ats.queue_depth(), ats.page_aligned_request(), ats.global_invalidate()), (5, true, true));
    assert_eq!((pri.capacity().get(), pri.response_pasid_required()), (64, true));
    assert_eq!(pasids.bits(), 16);
    assert_eq!(pasids.permissions(), PasidPermissions { execute: true, privileged: false });
    let facts =
        DeviceSvaFacts { ats: true, pri: true, response_pasid: true, pasid_bits: 16, can_stall: false };
    assert_eq!(services.sva_facts(), facts);
    let plain = found(endpoint().word(0x104, 0).word(0x114, 0x0100_0000));
    assert_eq!((plain.ats.unwrap().queue_depth(), plain.sva_facts().response_pasid), (32, false));
}

#[test]
fn part_23_a_function_without_capabilities_has_no_services_and_says_so() {
    let services = found(FakeFunction::endpoint().express(0).word(0x64, PREFIXES));
    assert_eq!(services.ats, Err(Missing::NoCapability));
    assert_eq!(services.pri, Err(Missing::NoAts));
    assert_eq!(services.pasids, Err(Missing::NoCapability));
    assert_eq!(services.sva_facts(), DeviceSvaFacts::default());
    let fake = Fake::new(0);
    assert_eq!(
        AddressServices::find(&fake, &Topology::default(), 0, &TRUST).pasids,
        Err(Missing::Gone),
        "there is no such function"
    );
}

#[test]
fn part_23_pasids_come_first_then_page_requests_then_ats() {
    let (live, services) = Live::new(endpoint());
    let permissions = PasidPermissions { execute: true, privileged: false };
    assert_eq!(services.enable(&*live, permissions, requests(32)), Ok(32));
    let switch = services.ats.unwrap().switch(live.clone(), SizeLg2::KIB_64).unwrap();
    assert!(!switch.is_on());
    switch.set_ats(true);
    assert!(switch.is_on());
    let expected = [
        (PASID + WORD, 0x0003_1002),
        (PRI + WORD, 2),
        (PRI + 0xc, 32),
        (PRI + WORD, 1),
        (ATS + WORD, 0x8004_0065),
    ];
    assert_eq!(live.written(), expected);
    assert_eq!(services.disable(&*live, &*live, 1000), Ok(()));
    assert_eq!(live.written(), [(PRI + WORD, 0), (ATS + WORD, 0x0004_0065), (PASID + WORD, 0x0000_1002)]);
    assert!(!switch.is_on());
}

#[test]
fn part_23_pasids_do_not_change_while_ats_is_on() {
    let (live, services) = Live::new(endpoint());
    let (ats, pasids) = (services.ats.unwrap(), services.pasids.unwrap());
    ats.enable(&*live, SizeLg2::KIB_4).unwrap();
    live.written();
    assert_eq!(pasids.enable(&*live, NONE), Err(ServiceError::AtsEnabled));
    assert_eq!(services.enable(&*live, NONE, requests(1)), Err(ServiceError::AtsEnabled));
    ats.disable(&*live);
    pasids.enable(&*live, NONE).unwrap();
    ats.enable(&*live, SizeLg2::KIB_4).unwrap();
    assert_eq!(pasids.disable(&*live), Err(ServiceError::AtsEnabled));
    assert_eq!(live.word(PASID), 0x0001_1002, "still on");
    // That ATS is not to be used here does not mean that nobody left it on.
    let fake = Fake::new(0);
    fake.root(0, endpoint().word(0x104, 0x8000_0000));
    let topology = enumerate(&fake, &host());
    let services = AddressServices::find(&fake, &topology, 0, &HostTrust::default());
    assert_eq!(services.ats, Err(Missing::HostBridge));
    assert_eq!(services.pasids.unwrap().enable(&fake, NONE), Err(ServiceError::AtsEnabled));
}

#[test]
fn part_23_nothing_is_turned_on_twice() {
    let (live, services) = Live::new(endpoint());
    services.enable(&*live, NONE, requests(8)).unwrap();
    let ats = services.ats.unwrap();
    ats.enable(&*live, SizeLg2::KIB_4).unwrap();
    live.written();
    assert_eq!(ats.enable(&*live, SizeLg2::KIB_4), Err(ServiceError::Enabled));
    ats.switch(live.clone(), SizeLg2::KIB_4).unwrap().set(true).unwrap();
    let pri = services.pri.unwrap();
    assert_eq!(pri.enable(&*live, requests(1)), Err(ServiceError::Enabled));
    assert_eq!(pri.reset(&*live), Err(ServiceError::Enabled));
    assert_eq!(pri.wait_stopped(&*live, &*live, 100), Err(ServiceError::Enabled));
    ats.disable(&*live);
    live.written();
    assert_eq!(services.pasids.unwrap().enable(&*live, NONE), Err(ServiceError::Enabled));
    assert_eq!(live.written(), []);
}

#[test]
fn part_23_the_credit_is_what_is_wanted_or_what_there_is() {
    for (wanted, given) in [(1, 1), (63, 63), (64, 64), (65, 64), (u32::MAX, 64)] {
        let (live, services) = Live::new(endpoint());
        assert_eq!(services.enable(&*live, NONE, requests(wanted)), Ok(given));
        assert_eq!(live.fake.raw(0, 0x11c), given);
    }
}

#[test]
fn part_23_page_requests_under_way_must_end_first() {
    let (live, services) = Live::new(endpoint());
    let pri = services.pri.unwrap();
    pri.enable(&*live, requests(4)).unwrap();
    assert_eq!(live.word(PRI) & 0x0100_0000, 0, "running");
    live.stops.store(false, Relaxed);
    pri.disable(&*live);
    let busy = Err(ServiceError::NotStopped { waited_ns: 0, status: 0x8000 });
    assert_eq!(pri.enable(&*live, requests(4)), busy);
    let late = ServiceError::NotStopped { waited_ns: 510, status: 0x8000 };
    assert_eq!(pri.wait_stopped(&*live, &*live, 500), Err(late));
    live.fake.poke(0, 0x114, 0x8100_0000);
    assert_eq!(pri.wait_stopped(&*live, &*live, 500), Ok(()));
    assert_eq!(pri.enable(&*live, requests(4)).map(NonZeroU32::get), Ok(4));
}

#[test]
fn part_23_a_function_that_never_stops_keeps_its_pasids_and_asks_for_nothing_more() {
    let (live, services) = Live::new(endpoint());
    services.enable(&*live, NONE, requests(4)).unwrap();
    services.ats.unwrap().enable(&*live, SizeLg2::KIB_4).unwrap();
    live.stops.store(false, Relaxed);
    let late = ServiceError::NotStopped { waited_ns: 110, status: 0x8000 };
    assert_eq!(services.disable(&*live, &*live, 100), Err(late));
    assert_eq!((live.word(PRI) & 1, live.word(PASID), live.word(ATS)), (0, 0x0001_1002, 0x8000_0065));
    live.fake.poke(0, 0x114, 0x8100_0000);
    assert_eq!(services.disable(&*live, &*live, 100), Ok(()));
    assert_eq!((live.word(PASID), live.word(ATS)), (0x0000_1002, 0x0000_0065));
}

#[test]
fn part_23_errors_in_the_status_stay_until_they_are_cleared() {
    let (live, services) = Live::new(endpoint());
    let pri = services.pri.unwrap();
    pri.enable(&*live, requests(4)).unwrap();
    live.fake.poke(0, 0x114, 0x8003_0001);
    assert!(pri.status(&*live).response_failure() && pri.status(&*live).unexpected_group());
    pri.disable(&*live);
    assert!(pri.status(&*live).response_failure(), "turning off clears nothing");
    pri.enable(&*live, requests(4)).unwrap();
    live.fake.poke(0, 0x114, 0x8003_0001);
    pri.clear_errors(&*live);
    assert_eq!(live.word(PRI), 0x8000_0001, "cleared, and still on");
}

#[test]
fn part_23_translation_units_are_counted_from_4_kib() {
    for (lg2, word) in [(12, 0x8000_0065), (16, 0x8004_0065), (43, 0x801f_0065)] {
        let (live, services) = Live::new(endpoint());
        let unit = SizeLg2::new(lg2).unwrap();
        services.ats.unwrap().enable(&*live, unit).unwrap();
        assert_eq!((live.word(ATS), services.ats.unwrap().enabled(&*live)), (word, Some(unit)));
    }
    for unit in [11, 44, 63].map(|lg2| SizeLg2::new(lg2).unwrap()) {
        let (live, services) = Live::new(endpoint());
        let ats = services.ats.unwrap();
        assert_eq!(ats.enable(&*live, unit), Err(ServiceError::TranslationUnit(unit)));
        assert_eq!(ats.switch(live.clone(), unit).unwrap_err(), ServiceError::TranslationUnit(unit));
        assert_eq!(live.word(ATS), 0x0000_0065);
    }
}

#[test]
fn part_23_permissions_that_a_function_has_not_are_refused() {
    let (live, services) = Live::new(endpoint());
    let can = PasidPermissions { execute: true, privileged: false };
    for wanted in
        [PasidPermissions { execute: false, privileged: true }, PasidPermissions { privileged: true, ..can }]
    {
        let error = ServiceError::Permissions { wanted, can };
        assert_eq!(services.pasids.unwrap().enable(&*live, wanted), Err(error));
    }
    assert_eq!(live.written(), []);
}

#[test]
fn part_23_capabilities_without_room_are_not_used() {
    let at_the_end = endpoint().word(0x100, 0xff81_000f).word(0xff8, 0x0001_0013);
    assert_eq!(found(at_the_end).pri, Err(Missing::Misplaced { offset: 0xff8 }));
    let last = endpoint().word(0x100, 0xff01_000f).word(0xff0, 0x0001_0013).word(0xff8, 1);
    assert!(found(last).pri.is_ok(), "the last place where there is room");
    let in_another = endpoint().word(0x110, 0x1181_0013).word(0x118, 0x1201_0001);
    assert_eq!(found(in_another).pri, Err(Missing::Misplaced { offset: PRI }));
    let pasid = endpoint().word(0x110, 0xffc1_0013).word(0xffc, 0x0001_001b);
    assert_eq!(found(pasid).pasids, Err(Missing::Misplaced { offset: 0xffc }));
}

#[test]
fn part_23_numbers_that_cannot_be_are_not_believed() {
    assert_eq!(found(endpoint().word(0x118, 0)).pri, Err(Missing::NoCapacity));
    assert_eq!(found(endpoint().word(0x118, u32::MAX)).pri, Err(Missing::Gone));
    for width in [0, 21, 31] {
        let services = found(endpoint().word(0x124, width << 8));
        assert_eq!(services.pasids, Err(Missing::PasidWidth(width as u8)));
        assert_eq!(services.sva_facts().pasid_bits, 0);
    }
    for width in [1, 20] {
        assert_eq!(u32::from(found(endpoint().word(0x124, width << 8)).sva_facts().pasid_bits), width);
    }
    for (offset, service) in [(0x104, 0), (0x114, 1), (0x124, 2)] {
        let services = found(endpoint().word(offset, u32::MAX));
        let missing = [services.ats.err(), services.pri.err(), services.pasids.err()];
        assert_eq!(missing[service], Some(Missing::Gone), "all ones at {offset:#x}");
    }
}

#[test]
fn part_23_a_function_that_does_not_keep_what_is_written_stays_off() {
    let (live, services) = Live::new(endpoint().writable(0x104, 0x001f_0000));
    let error = ServiceError::NotKept { wrote: 0x8000, read: 0 };
    assert_eq!(services.ats.unwrap().enable(&*live, SizeLg2::KIB_4), Err(error));
    let (live, services) = Live::new(endpoint().writable(0x104, 0x8000_0000));
    let error = ServiceError::NotKept { wrote: 0x8004, read: 0x8000 };
    assert_eq!(services.ats.unwrap().enable(&*live, SizeLg2::KIB_64), Err(error));
    assert_eq!(live.word(ATS), 0x0000_0065, "not on with another unit");
    let (live, services) = Live::new(endpoint().writable(0x124, 0x0002_0000));
    let error = ServiceError::NotKept { wrote: 1, read: 0 };
    assert_eq!(services.enable(&*live, NONE, requests(1)), Err(error));
}

#[test]
fn part_23_what_was_turned_on_before_a_failure_is_off_again() {
    for function in
        [endpoint().writable(0x11c, 0), endpoint().writable(0x114, 0), endpoint().word(0x114, 0x8000_0000)]
    {
        let (live, services) = Live::new(function);
        let error = services.enable(&*live, NONE, requests(7)).unwrap_err();
        assert!(matches!(error, ServiceError::NotKept { .. } | ServiceError::NotStopped { .. }), "{error}");
        assert_eq!((live.word(PASID), live.word(PRI) & 1), (0x0000_1002, 0));
    }
}

#[test]
fn part_23_what_a_reset_turned_off_is_restored() {
    let (live, services) = Live::new(endpoint());
    let permissions = PasidPermissions { execute: true, privileged: false };
    services.enable(&*live, permissions, requests(9)).unwrap();
    services.ats.unwrap().enable(&*live, SizeLg2::KIB_16).unwrap();
    let saved = services.save(&*live);
    let on = [ATS, PRI, PASID].map(|capability| live.word(capability));
    let reset = || {
        for (offset, word) in [(0x104, 0x65), (0x114, 0x8100_0000), (0x11c, 0), (0x124, 0x1002)] {
            live.fake.poke(0, offset, word);
        }
        live.written();
    };
    reset();
    assert_eq!(services.save(&*live), Default::default(), "all off");
    services.restore(&*live, &saved).unwrap();
    assert_eq!([ATS, PRI, PASID].map(|capability| live.word(capability)), on);
    let order: Vec<u16> = live.written().into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(order, [PASID + WORD, PRI + 0xc, PRI + WORD, ATS + WORD]);
    reset();
    services.restore(&*live, &Default::default()).unwrap();
    assert_eq!(live.written(), [], "what was off stays off");
}

/// A root port, a switch, and an endpoint below: 00:00.0, 01:00.0, 02:00.0, 03:00.0.
fn below_a_switch(ports: [FakeFunction; 3], endpoint: FakeFunction) -> (Fake, Topology) {
    let fake = Fake::new(0);
    let above = ports.into_iter().fold(None, |above, port| {
        Some(above.map_or_else(|| fake.root(0, port.clone()), |above| fake.below(above, 0, port.clone())))
    });
    fake.below(above.unwrap(), 0, endpoint);
    let topology = enumerate(&fake, &host());
    (fake, topology)
}

fn ports() -> [FakeFunction; 3] {
    [port(ROOT_PORT), port(UPSTREAM), port(DOWNSTREAM)]
}

fn with_port(index: usize, port: FakeFunction) -> AddressServices {
    let mut ports = ports();
    ports[index] = port;
    let (fake, topology) = below_a_switch(ports, endpoint());
    AddressServices::find(&fake, &topology, 3, &TRUST)
}

#[test]
fn part_23_services_go_through_root_ports_and_switches() {
    let (fake, topology) = below_a_switch(ports(), endpoint());
    let services = AddressServices::find(&fake, &topology, 3, &TRUST);
    assert_eq!((services.ats.err(), services.pri.err(), services.pasids.err()), (None, None, None));
}

#[test]
fn part_23_ats_is_for_the_inside_of_the_machine_only() {
    let (fake, topology) = below_a_switch(ports(), endpoint());
    let find = |trust: HostTrust<'_>| AddressServices::find(&fake, &topology, 3, &trust);
    assert_eq!(find(HostTrust::default()).ats, Err(Missing::HostBridge));
    assert_eq!(find(HostTrust { ats_supported: false, ..TRUST }).pri, Err(Missing::NoAts));
    for at in [bdf(0, 0, 0), bdf(2, 0, 0), bdf(3, 0, 0)] {
        let services = find(HostTrust { external_facing: &[bdf(0, 5, 0), at], ..TRUST });
        assert_eq!(services.ats, Err(Missing::External { port: at }));
        assert_eq!((services.sva_facts().ats, services.sva_facts().pri), (false, false));
        assert!(services.pasids.is_ok(), "PASIDs give nothing away");
    }
    let all = find(HostTrust { all_external: true, ..TRUST });
    assert_eq!(all.ats, Err(Missing::External { port: bdf(3, 0, 0) }));
    let other = find(HostTrust { external_facing: &[bdf(0, 5, 0)], ..TRUST });
    assert_eq!(other.ats.err(), None, "another port");
}

#[test]
fn part_23_a_port_that_blocks_translated_requests_is_in_the_way_of_ats() {
    // Translation blocking cannot be turned off here.
    let mut ports = ports();
    ports[2] = port(DOWNSTREAM).word(0x104, 0x0002_001f).writable(0x104, 0x001d_0000);
    let (fake, topology) = below_a_switch(ports, endpoint());
    let services = AddressServices::find(&fake, &topology, 3, &TRUST);
    assert_eq!(services.ats, Err(Missing::TranslationsBlocked { port: bdf(2, 0, 0) }));
}

#[test]
fn part_23_nothing_of_it_goes_through_conventional_pci() {
    let services = with_port(2, port(TO_PCI));
    let missing = Missing::Conventional { bridge: bdf(2, 0, 0) };
    assert_eq!((services.ats, services.pasids), (Err(missing), Err(missing)));
}

#[test]
fn part_23_pasids_need_prefixes_all_the_way_up() {
    for (index, at) in [bdf(0, 0, 0), bdf(1, 0, 0), bdf(2, 0, 0)].into_iter().enumerate() {
        let without = [ROOT_PORT, UPSTREAM, DOWNSTREAM][index];
        let services = with_port(index, port(without).word(0x64, !PREFIXES));
        assert_eq!(services.pasids, Err(Missing::NoPrefixes { at }));
        assert!(services.ats.is_ok(), "ATS needs none");
        let old = port(without).word(0x40, (1 | without << 4) << 16 | 0x10);
        assert_eq!(with_port(index, old).pasids, Err(Missing::NoPrefixes { at }), "no second registers");
        let blocking = port(without).word(0x68, 0x8000);
        assert_eq!(with_port(index, blocking).pasids, Err(Missing::PrefixesBlocked { port: at }));
    }
    assert_eq!(found(endpoint().word(0x64, 0)).pasids, Err(Missing::NoPrefixes { at: bdf(0, 0, 0) }));
    let integrated = endpoint().express(9).word(0x64, 0);
    assert!(found(integrated).pasids.is_ok(), "inside the root complex nothing is between");
}

#[test]
fn part_23_pasids_need_a_path_that_turns_nothing_around() {
    let open = |kind| FakeFunction::bridge().express(kind).word(0x64, PREFIXES);
    assert_eq!(with_port(0, open(ROOT_PORT)).pasids, Err(Missing::NotApart { at: bdf(0, 0, 0) }));
    assert_eq!(with_port(2, open(DOWNSTREAM)).pasids, Err(Missing::NotApart { at: bdf(2, 0, 0) }));
    assert!(with_port(1, open(UPSTREAM)).pasids.is_ok(), "an upstream port has nothing to decide");
    let fake = Fake::new(0);
    fake.root(0, endpoint().multi_function());
    fake.root(1, FakeFunction::endpoint());
    let topology = enumerate(&fake, &host());
    let services = AddressServices::find(&fake, &topology, 0, &TRUST);
    assert_eq!(services.pasids, Err(Missing::NotApart { at: bdf(0, 0, 0) }), "its sibling may answer");
}

#[test]
fn part_23_a_reason_reads_as_a_clause() {
    let missing = [
        Missing::NoPrefixes { at: bdf(1, 0, 0) },
        Missing::Misplaced { offset: 0xff8 },
        Missing::PasidWidth(31),
    ];
    let texts = missing.map(|missing| std::format!("{missing}"));
    assert_eq!(
        texts,
        ["01:00.0 does not pass prefixes", "no room for the capability at 0xff8", "PASIDs of 31 bits"]
    );
    let error = ServiceError::NotStopped { waited_ns: 5, status: 0x8000 };
    assert_eq!(std::format!("{error}"), "page requests still under way after 5 ns, status 0x8000");
}
