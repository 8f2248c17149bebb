//! On a bus, with the CPUs' store buffers between: what a driver's barriers are for, and how the pieces are wired.

use std::sync::Arc;

use model_bus::{Bus, BusOptions, Fabric, Port, Width};
use model_ioda2::{Config, Phb3, Policy};
use portcullis_types::trace::{Event, Silence, Sink};
use portcullis_types::{Iova, Pa, PaRange, SourceId};
use std::sync::Mutex;

use crate::harness::{IVT, KILL_ALL, RTT, TABLE, TVE};

const REGISTERS: u64 = 0x3_fffe_4000_0000;
const DOORBELL: u64 = 0x3_fffe_5000_0000;

struct Wired {
    bus: Arc<Bus>,
    phb: Arc<Phb3>,
    port: Port,
}

impl Wired {
    fn new(policy: Policy, sink: Arc<dyn Sink>) -> Self {
        let ram = PaRange::new(Pa::new(0), 0x1000_0000).unwrap();
        let bus = Bus::new(&BusOptions { heap: vec![], ..BusOptions::new(ram, 7) });
        let config = Config { policy, verbose: true, ..Config::new(Pa::new(DOORBELL)) };
        let fabric: Arc<dyn Fabric> = bus.clone();
        let phb = Arc::new(Phb3::new(config, fabric.clone(), 1, sink));
        phb.connect(&bus, Pa::new(REGISTERS)).unwrap();
        let port = Port::new(SourceId(0x100), phb.clone(), fabric);
        let wired = Self { bus, phb, port };
        wired.put(RTT + 0x200, 1 << 48);
        wired.put(TABLE, 0x700_0003);
        wired.bus.cpu().full_barrier();
        wired.store(0x168, RTT | 1 << 63);
        wired.store(0x150, IVT | 0x800 | 1 << 63);
        wired.store(0x160, 0x0082_8000_0000_0000);
        wired.store(0x220, 9 << 48 | 2);
        wired.store(0x228, TVE);
        wired
    }

    /// Stores a big-endian word as a little-endian CPU does.
    fn put(&self, at: u64, word: u64) {
        self.bus.cpu().store64(Pa::new(at), word.swap_bytes()).unwrap();
    }

    fn store(&self, offset: u64, value: u64) {
        self.bus.write_register(Pa::new(REGISTERS + offset), Width::Bits64, value).unwrap();
    }

    fn load(&self, offset: u64) -> u64 {
        self.bus.read_register(Pa::new(REGISTERS + offset), Width::Bits64).unwrap()
    }

    fn kill(&self) {
        self.store(0x210, KILL_ALL);
        assert_eq!(self.load(0x210), 0);
    }
}

#[test]
fn bytes_move_through_a_port_and_messages_arrive() {
    let wired = Wired::new(Policy::stale(), Arc::new(Silence));
    wired.port.write(None, Iova::new(0x10), b"portcullis").unwrap();
    let mut bytes = [0; 10];
    wired.bus.read(Pa::new(0x700_0010), &mut bytes).unwrap();
    assert_eq!(&bytes, b"portcullis");
    // Source 0x21, entries of 16 bytes: server 1, priority 2, PE 1.
    wired.put(IVT + 0x210, 0x0000_0402_0000_0001);
    wired.bus.cpu().full_barrier();
    wired.port.message(Iova::new(0x1000_0000_0000_0200), 1).unwrap();
    let [interrupt] = wired.phb.take_interrupts()[..] else { panic!("one") };
    assert_eq!((interrupt.source, interrupt.server, interrupt.priority), (0x21, 1, 2));
    assert_eq!(wired.port.traffic().messages, 1);
    wired.bus.dismantle();
}

#[test]
fn a_kill_without_a_barrier_before_it_may_fetch_what_was() {
    let stale = (0..64).any(|_| {
        let wired = Wired::new(Policy::eager(), Arc::new(Silence));
        wired.port.write(None, Iova::new(0), &[1]).unwrap();
        wired.put(TABLE, 0);
        wired.kill();
        let reached = wired.port.write(None, Iova::new(0), &[2]).is_ok();
        wired.bus.dismantle();
        reached
    });
    assert!(stale);
    let wired = Wired::new(Policy::eager(), Arc::new(Silence));
    wired.port.write(None, Iova::new(0), &[1]).unwrap();
    wired.put(TABLE, 0);
    wired.bus.cpu().full_barrier();
    wired.kill();
    assert!(wired.port.write(None, Iova::new(0), &[2]).is_err());
    wired.bus.dismantle();
}

/// By somebody's mistake: nobody waits for ever, and nobody gets anything.
#[test]
fn tables_on_the_bridges_own_registers_are_no_tables() {
    let wired = Wired::new(Policy::eager(), Arc::new(Silence));
    // The table of TCEs.
    wired.store(0x220, 9 << 48 | 2);
    wired.store(0x228, REGISTERS << 4 | 0x101);
    wired.kill();
    // All ones: a TCE beyond everything, with both permissions.
    assert!(wired.port.write(None, Iova::new(0x1000), &[1]).is_err());
    // The RTT.
    wired.store(0x168, REGISTERS | 1 << 63);
    wired.store(0x208, 1 << 63);
    wired.load(0x208);
    assert!(wired.port.write(None, Iova::new(0), &[1]).is_err());
    // The IVT, which is written, too.
    wired.store(0x168, RTT | 1 << 63);
    wired.store(0x150, REGISTERS | 0x800 | 1 << 63);
    assert!(wired.port.message(Iova::new(0x1000_0000_0000_0000), 1).is_err());
    assert_eq!(wired.phb.take_interrupts(), []);
    wired.bus.dismantle();
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Sink for Lines {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        assert_eq!(event.source, "model.ioda2");
        self.0.lock().unwrap().push(event.to_string());
    }
}

#[test]
fn what_happens_is_told() {
    let lines = Arc::new(Lines::default());
    let wired = Wired::new(Policy::eager(), lines.clone());
    wired.port.write(None, Iova::new(8), &[1]).unwrap();
    assert!(wired.port.write(None, Iova::new(0x1008), &[1]).is_err());
    wired.kill();
    let told = lines.0.lock().unwrap().join("\n");
    let expected = "\
tce_walk: rid=0x100 addr=0x0000000000000008 result=granted pa=0x0000000007000008
unpredictable: clause=skiboot phb3.h: PELT-V must exist before errors do, or the whole PHB goes into Fatal error state detail=PE 0x1: tce_page_fault
unpredictable: clause=skiboot phb3_read_phb_status: an error with no PEST in memory to tell of it detail=PE 0x1: tce_page_fault
pe_freeze: pe=0x1 cause=tce_page_fault rid=0x100 addr=0x0000000000001008
tce_walk: rid=0x100 addr=0x0000000000001008 result=tce_page_fault pa=0x0000000000000000
tce_kill: what=all pe=0x0 addr=0x0000000000000000";
    assert_eq!(told, expected);
    wired.bus.dismantle();
}
