//! IODA2: the layouts in `portcullis-spec`, the words of the driver and of the tables, and what the model makes of such words, against words typed by hand.

use std::sync::Arc;

use model_bus::{Bus, BusOptions, Mmio, Outcome, Request, Stores, Translator, Width};
use model_ioda2::{Config, Phb3, Policy};
use portcullis::ioda2::{decode_freeze, tve};
use portcullis_checks::accessors;
use portcullis_checks::golden::hold;
use portcullis_checks::golden::ioda2::{
    BYPASS, BYPASS_WORDS, IODA_ADDR, M32DT, Meets, PEST_0, PEST_1, SCENES, Scene, TCE_BYTES, TCE_KILL, TVE,
    TVE_WORDS,
};
use portcullis_pgtable::tce::{TceRaw, TceShape};
use portcullis_spec::ioda2::registers::{self, IodaAddress, TceKill};
use portcullis_spec::ioda2::tables::{self, BypassTve, M32Domain, PestA, PestB, Tve};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, Iova, Pa, PaRange, Perms, SizeLg2, SourceId};

#[test]
fn entries_lie_where_the_headers_say() {
    let accessors = accessors! {Tve;
        "IO_PSIZE" => page with_page,
        "TCE_TABLE_SIZE" => size with_size,
        "NUM_LEVELS" => levels with_levels,
        "TABLE_ADDR" => address with_address,
    };
    hold(&TVE, 0, !0, accessors, &[]);
    let accessors = accessors! {BypassTve;
        "IO_PSIZE" => page with_page,
        "END_49_48" => end_high with_end_high,
        "START_49_48" => first_high with_first_high,
        "UNTRANSLATED" => untranslated with_untranslated,
        "END_47_24" => end_low with_end_low,
        "START_47_24" => first_low with_first_low,
    };
    hold(&BYPASS, 0, !0, accessors, &[]);
    hold(&M32DT, 0, !0, accessors! {M32Domain; "PE" => pe with_pe,}, &[]);
}

#[test]
fn states_of_pes_lie_where_the_headers_say() {
    let accessors = accessors! {PestA;
        "MSI_DATA" => msi_data with_msi_data,
        "RID" => rid with_rid,
        "LEM_BIT" => lem_bit with_lem_bit,
        "TCE_ACCESS_FAULT" => access_fault with_access_fault,
        "TCE_PAGE_FAULT" => page_fault with_page_fault,
        "IODA2_ERROR" => ioda_error with_ioda_error,
        "TTYPE" => transaction with_transaction,
        "MMIO_FROZEN" => frozen with_frozen,
    };
    hold(&PEST_0, 0, !0, accessors, &[]);
    let accessors = accessors! {PestB;
        "FAIL_ADDR" => address with_address,
        "DMA_STOPPED" => stopped with_stopped,
    };
    hold(&PEST_1, 0, !0, accessors, &[]);
}

#[test]
fn registers_lie_where_the_headers_say() {
    let accessors = accessors! {IodaAddress;
        "TADR" => index with_index,
        "TSEL" => table with_table,
        "AUTOINC" => auto_increment with_auto_increment,
    };
    hold(&IODA_ADDR, 0, !0, accessors, &[]);
    let accessors = accessors! {TceKill;
        "PE" => pe_number with_pe_number,
        "ADDRESS" => address with_address,
        "ONE" => one with_one,
        "BY_PE" => pe with_pe,
        "ALL" => all with_all,
    };
    hold(&TCE_KILL, 0, !0, accessors, &[]);
    let kill = TceKill::new().with_one(true).with_pe_number(0x12).with_dma_address(0x0800_0012_3456_7abc);
    assert_eq!(kill.into_bits(), 0x2800_0012_3456_7012);

    let places = [
        (registers::PHB3_CONFIG, 0x160),
        (registers::RTT_BAR, 0x168),
        (registers::PELTV_BAR, 0x188),
        (registers::M32_BASE_ADDR, 0x190),
        (registers::M32_BASE_MASK, 0x198),
        (registers::M32_START_ADDR, 0x1a0),
        (registers::PEST_BAR, 0x1a8),
        (registers::RTC_INVALIDATE, 0x208),
        (registers::TCE_KILL, 0x210),
        (registers::IODA_ADDR, 0x220),
        (registers::IODA_DATA0, 0x228),
        (registers::ERR_INJ_CTL, 0x2b0),
        (registers::ERR_INJ_ADDR, 0x2b8),
        (registers::ERR_INJ_MASK, 0x2c0),
        (registers::TRAIN_CTL, 0x640),
        (registers::VERSION, 0x800),
        (registers::RESET, 0x808),
    ];
    places.iter().for_each(|&(ours, headers)| assert_eq!(ours, headers, "{headers:#x}"));
    let bits = [
        // PPC bits 2, 8, 14, 16 of PHB3_CONFIG.
        (registers::CONFIG_64B_TCE, 0x2000_0000_0000_0000),
        (registers::CONFIG_MSI32, 0x0080_0000_0000_0000),
        (registers::CONFIG_MSI64, 0x0002_0000_0000_0000),
        (registers::CONFIG_M32, 0x0000_8000_0000_0000),
        // PPC bit 0.
        (registers::BAR_ENABLE, 0x8000_0000_0000_0000),
        (registers::RTC_INVALIDATE_ALL, 0x8000_0000_0000_0000),
        // PPC bits 0, 1, 3, 4, 5 of PAPR_ERR_INJ_CTL; 16:63 and 4:19 of address and mask.
        (registers::ERR_INJ_INBOUND, 0x8000_0000_0000_0000),
        (registers::ERR_INJ_OUTBOUND, 0x4000_0000_0000_0000),
        (registers::ERR_INJ_CONFIG, 0x1000_0000_0000_0000),
        (registers::ERR_INJ_READ, 0x0800_0000_0000_0000),
        (registers::ERR_INJ_WRITE, 0x0400_0000_0000_0000),
        (registers::ERR_INJ_MMIO_BITS, 0x0000_ffff_ffff_ffff),
        (registers::ERR_INJ_FUNCTION_BITS, 0x0fff_f000_0000_0000),
        (0xffff << registers::ERR_INJ_FUNCTION_SHIFT, 0x0fff_f000_0000_0000),
        // PPC bit 23 of PCIE_DLP_TRAIN_CTL, PPC bit 2 of RESET.
        (registers::TRAIN_LINK_ACTIVE, 0x0000_0100_0000_0000),
        (registers::RESET_RELEASED, 0x2000_0000_0000_0000),
    ];
    bits.iter().for_each(|&(ours, headers)| assert_eq!(ours, headers, "{headers:#x}"));
    let numbers = [
        (tables::TABLE_PESTA, 7),
        (tables::TABLE_PESTB, 8),
        (tables::TABLE_TVT, 9),
        (tables::TABLE_M32DT, 17),
        (tables::TABLE_PEEV, 20),
        (tables::TRANSACTION_DMA_WRITE, 0),
        (tables::TRANSACTION_MSI, 1),
        (tables::TRANSACTION_DMA_READ, 2),
    ];
    numbers.iter().for_each(|&(ours, headers)| assert_eq!(ours, headers));
}

#[test]
fn the_driver_writes_the_tves_that_firmware_does() {
    for golden in TVE_WORDS {
        let page = SizeLg2::new(golden.page_lg2).unwrap();
        let shape = TceShape::new(page, golden.window_bytes, golden.levels, SizeLg2::KIB_4).unwrap();
        assert_eq!(tve::translated(Pa::new(golden.root), shape), golden.word, "{golden:x?}");
    }
    for &(end, word) in BYPASS_WORDS {
        assert_eq!(tve::bypass(Pa::new(end)), word, "{end:#x}");
    }
    assert_eq!(tve::DISABLED, 0);
}

#[test]
fn tces_are_the_bytes_that_kernels_write() {
    for &(pa, read, write, bytes) in TCE_BYTES {
        let mut perms = Perms::empty();
        perms.set(Perms::READ, read);
        perms.set(Perms::WRITE, write);
        assert_eq!(TceRaw::leaf(Pa::new(pa), perms).0, bytes, "{pa:#x}");
        assert_eq!(TceRaw(bytes).decode(), Some((Pa::new(pa), perms)), "{pa:#x}");
    }
    assert_eq!(TceRaw::level(Pa::new(0x0012_0000)).0, [0, 0, 0, 0, 0x00, 0x12, 0x00, 0x03]);
    assert_eq!(TceRaw([0, 0, 0, 0, 0x00, 0x23, 0x00, 0x00]).decode(), None);
    assert_eq!(TceRaw::ABSENT.0, [0; 8]);
}

const RTT: u64 = 0x2_0000;
const PELTV: u64 = 0x4_0000;
const PEST: u64 = 0x4_2000;
const DISK: u16 = 0x0110;

/// A model that knows request id 0x0110 as PE 5, set up by literal words.
struct Stage {
    bus: Arc<Bus>,
    phb: Phb3,
}

impl Stage {
    fn set(scene: &Scene) -> Self {
        let ram = PaRange::new(Pa::new(0), 0x100_0000).unwrap();
        let bus =
            Bus::new(&BusOptions { heap: Vec::new(), stores: Stores::Direct, ..BusOptions::new(ram, 1) });
        let config = Config { policy: Policy::eager(), ..Config::new(Pa::new(0xf000_0000)) };
        let stage = Self { phb: Phb3::new(config, bus.clone(), 1, Arc::new(Silence)), bus };
        stage.put(RTT, &[0, 255].repeat(0x1_0000));
        stage.put(RTT + 2 * u64::from(DISK), &[0, 5]);
        // PE 5 freezes itself: bit 5 of its 256, the first the most significant.
        stage.put(PELTV + 5 * 32, &[0x04]);
        stage.store(0x168, 0x8000_0000_0000_0000 | RTT);
        stage.store(0x188, 0x8000_0000_0000_0000 | PELTV);
        stage.store(0x1a8, 0x8000_0000_0000_0000 | PEST);
        stage.store(0x160, 0x0082_0000_0000_0000);
        scene.memory.iter().for_each(|(at, bytes)| stage.put(*at, bytes));
        // Entries 10 and 11 of table 9.
        stage.store(0x220, 0x8009_0000_0000_000a);
        scene.tves.into_iter().for_each(|tve| stage.store(0x228, tve));
        stage.forget();
        stage
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.bus.cpu().ram().write(Pa::new(at), bytes).unwrap();
    }

    fn store(&self, offset: u64, value: u64) {
        self.phb.write(offset, Width::Bits64, value);
    }

    fn load(&self, offset: u64) -> u64 {
        self.phb.read(offset, Width::Bits64)
    }

    /// All TCEs, all request ids; and a load, behind which that is done.
    fn forget(&self) {
        self.store(0x208, 0x8000_0000_0000_0000);
        self.store(0x210, 0x8000_0000_0000_0000);
        self.load(0x160);
    }

    fn access(&self, address: u64, write: bool) -> Option<u64> {
        let access = if write { Access::WRITE } else { Access::READ };
        let (source, iova) = (SourceId(DISK.into()), Iova::new(address));
        let request = Request { source, pasid: None, iova, len_bytes: 1, access };
        let mut to = None;
        let outcome = self.phb.access(&request, &mut |passage| {
            to = Some(passage.pa.get());
            Ok(())
        });
        assert_eq!(outcome == Outcome::Done, to.is_some());
        to
    }

    /// The state of PE 5: its bits in tables 7 and 8, with the words in memory; and they are cleared.
    fn take_state(&self) -> [u64; 2] {
        let mut state = [0; 2];
        for (half, (word, table)) in (0..).zip(state.iter_mut().zip([0x0007u64 << 48, 0x0008 << 48])) {
            let mut bytes = [0; 8];
            self.bus.cpu().ram().read(Pa::new(PEST + 5 * 16 + 8 * half), &mut bytes).unwrap();
            self.store(0x220, table | 5);
            *word = self.load(0x228) | u64::from_be_bytes(bytes);
            self.store(0x220, table | 5);
            self.store(0x228, 0);
        }
        state
    }
}

#[test]
fn the_model_makes_of_tves_and_tces_what_hardware_does() {
    for scene in SCENES {
        let stage = Stage::set(scene);
        for &(address, write, meets) in scene.accesses {
            let to = stage.access(address, write);
            let [first, second] = stage.take_state();
            let why = format!("{}: {address:#x}, state {first:#x} {second:#x}", scene.name);
            let Meets::Memory(wanted) = meets else {
                let causes: &[u64] = match meets {
                    Meets::NoWindow => &[0x0000_8000_0000_0000],
                    Meets::Beyond => &[0x0000_8000_0000_0000, 0x0000_2000_0000_0000],
                    Meets::NoEntry => &[0x0000_2000_0000_0000],
                    _ => &[0x0000_1000_0000_0000],
                };
                assert_eq!(to, None, "{why}");
                // Frozen; a read is transaction 2, a write 0; the cause alone; the request id.
                let transaction = if write { 0 } else { 0x0200_0000_0000_0000 };
                let frozen = 0x8000_0000_0000_0000 | transaction | 0x0110_0000;
                let said = first & 0x8700_b000_ffff_0000;
                assert!(causes.iter().any(|cause| said == frozen | cause), "{why}");
                assert_eq!(second, 0x8000_0000_0000_0000 | address, "{why}");
                // The driver reads the same out of it.
                let record = decode_freeze(5, first, second);
                assert_eq!((record.source, record.iova), (Some(SourceId(0x110)), Some(Iova::new(address))));
                continue;
            };
            assert_eq!((to, first >> 63, second >> 63), (Some(wanted), 0, 0), "{why}");
        }
        assert_eq!(stage.phb.take_unpredictable(), [], "{}", scene.name);
    }
}
