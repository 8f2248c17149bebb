//! What the model tells the trace, and what it shows besides.

use std::sync::{Arc, Mutex};

use model_bus::{Clocked, Fabric, Mmio, TranslationRequest, Translator, Width};
use model_smmuv3::{Broadcast, BroadcastRegime, BroadcastScope, Config, Smmu, StallModel};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Access, SourceId};

use crate::endpoint::{enable, given, last, wish, with_ats};
use crate::harness::{CD, CD_39, Got, Machine, STE_ABORT, STE_BYPASS, STE_S1, plain};

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Sink for Lines {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        assert_eq!(event.source, "model.smmuv3");
        self.0.lock().unwrap().push(event.to_string());
    }
}

#[test]
fn commands_events_messages_and_translations_are_told() {
    let lines = Arc::new(Lines::default());
    let ram = Machine::bare(plain()).ram;
    let config = Config { verbose: true, ..plain() };
    let smmu = Smmu::new(config, Arc::clone(&ram) as Arc<dyn Fabric>, 1, Arc::clone(&lines) as Arc<dyn Sink>);
    let machine = Machine { ram, smmu: Arc::new(smmu) };
    machine.set_up();
    machine.enable();
    machine.command(0x0000_0042_0fc0_1046, 0x3000);
    machine.ste(2, &STE_BYPASS);
    assert_eq!(machine.read(2, 0x1000), Got::At(0x1000));
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    machine.command(0, 0);
    let lines = lines.0.lock().unwrap();
    for expected in [
        "cmd: op=CMD_CFGI_STE_RANGE w0=0x4 w1=0x1f",
        "cmd: op=CMD_SYNC w0=0x420fc01046 w1=0x3000",
        "msi: addr=0x0000000000003000 data=0x42",
        "translate: sid=0x2 addr=0x0000000000001000 result=granted pa=0x0000000000001000",
        "event_record: kind=C_BAD_STE sid=0x1 addr=0x0000000000001000 w0=0x100000004 w1=0x0 w3=0x0",
        "translate: sid=0x1 addr=0x0000000000001000 result=refused pa=0x0000000000000000",
        "gerror: error=0x1 gerror=0x1",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected}\nin {lines:#?}");
    }
    assert!(lines.iter().any(|line| line.starts_with("unpredictable: clause=4.1.3")));
}

#[test]
fn what_goes_to_and_comes_from_devices_is_told() {
    let lines = Arc::new(Lines::default());
    let ram = Machine::bare(plain()).ram;
    let config = Config { verbose: true, ..with_ats() };
    let smmu = Smmu::new(config, Arc::clone(&ram) as Arc<dyn Fabric>, 1, Arc::clone(&lines) as Arc<dyn Sink>);
    let machine = Machine { ram, smmu: Arc::new(smmu) };
    machine.set_up();
    enable(&machine, 0b1_1111);
    machine.ste(1, &[0x5_000b, 1 << 28, 0, 0, 0, 0, 0, 0]);
    machine.words(CD, &CD_39);
    machine.tables();
    given(&machine, &wish(0x1234));
    let elsewhere = |stream| TranslationRequest { source: SourceId(stream), ..wish(0x1234) };
    let _ = machine.smmu.translate(&elsewhere(9));
    machine.ste(2, &STE_BYPASS);
    let _ = machine.smmu.translate(&elsewhere(2));
    machine.smmu.request_page(&last(3, Some(5)));
    machine.command(0x0000_0001_0000_5841, 0x2003);
    machine.command(0x0000_0001_0000_5840, 0x1234_5004);
    let lines = lines.0.lock().unwrap();
    for expected in [
        "ats_translate: sid=0x1 addr=0x0000000000001234 result=translated pa=0x0000000000300000 size_lg2=12 rights=0x3",
        "ats_translate: sid=0x9 addr=0x0000000000001234 result=aborted",
        "ats_translate: sid=0x2 addr=0x0000000000001234 result=unsupported",
        "page_request: sid=0x1 addr=0x0000000000007000 prgi=0x3 last=1 result=queued",
        "page_response: sid=0x1 ssid=0x5 prgi=0x3 code=0x0",
        "atc_invalidate: sid=0x1 ssid=0x5 addr=0x0000000012340000 size_lg2=16 tag=0",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected}\nin {lines:#?}");
    }
}

#[test]
fn every_preset_boots_and_lets_a_bypassed_stream_through() {
    let presets = [
        Config::default(),
        Config::small(),
        Config::no_range_invalidation(),
        Config::stage2_only(),
        Config::large(),
    ];
    for config in presets {
        let machine = Machine::new(config);
        machine.ste(1, &STE_BYPASS);
        assert_eq!(machine.read(1, 0x1000), Got::At(0x1000));
        machine.assert_clean();
    }
}

#[test]
fn interrupt_lines_are_raised_whether_there_are_messages_or_not() {
    for config in [plain(), Config { msi: false, ..plain() }] {
        let machine = Machine::new(config);
        machine.w32(0x50, 0b101);
        machine.settle();
        assert_eq!(machine.smmu.take_lines(), Default::default());
        assert_eq!(machine.read(1, 0), Got::Abort);
        let lines = machine.smmu.take_lines();
        assert!(lines.event && !lines.gerror && !lines.sync);
        machine.command(0x1046, 0);
        assert!(machine.smmu.take_lines().sync);
        machine.command(0x0046, 0);
        assert_eq!(machine.smmu.take_lines(), Default::default());
        machine.command(0, 0);
        assert!(machine.smmu.take_lines().gerror);
    }
}

#[test]
fn a_model_that_has_nothing_to_do_says_so() {
    let machine = Machine::new(plain());
    assert!(!machine.smmu.step(0));
    machine.put(3, 0x46, 0);
    machine.smmu.write(0x98, Width::Bits32, 4);
    assert!(machine.smmu.step(0));
    assert!(!machine.smmu.step(0));
}

#[test]
fn accesses_held_back_their_answers_and_broadcasts_are_told() {
    let lines = Arc::new(Lines::default());
    let ram = Machine::bare(plain()).ram;
    let config = Config { stall: StallModel::Configurable, broadcast: true, ..plain() };
    let smmu = Smmu::new(config, Arc::clone(&ram) as Arc<dyn Fabric>, 1, Arc::clone(&lines) as Arc<dyn Sink>);
    let machine = Machine { ram, smmu: Arc::new(smmu) };
    machine.set_up();
    machine.enable();
    machine.ste(1, &STE_S1);
    let mut stalling = CD_39;
    stalling[0] |= 1 << 44;
    machine.words(CD, &stalling);
    machine.held(1, 0x2000, Access::READ);
    machine.held(1, 0x3000, Access::READ);
    machine.command(0x0000_0001_0000_1044, 0);
    machine.command(0x0000_0001_0000_2044, 7);
    machine.ste(1, &STE_ABORT);
    machine.flush_ste(1);
    machine.command(0x0000_0001_0000_0045, 0);
    let scope = BroadcastScope::Asid { asid: 1 };
    machine.smmu.broadcast(&Broadcast { regime: BroadcastRegime::El2Host, scope });
    let lines = lines.0.lock().unwrap();
    for expected in [
        "event_record: kind=F_TRANSLATION sid=0x1 addr=0x0000000000002000 w0=0x100000010 w1=0x20880000000 w3=0x0",
        "stall: sid=0x1 stag=0x0 addr=0x0000000000002000",
        "stall: sid=0x1 stag=0x1 addr=0x0000000000003000",
        "cmd: op=CMD_RESUME w0=0x100001044 w1=0x0",
        "resume: sid=0x1 stag=0x0 action=retry",
        "resume: sid=0x1 stag=0x7 action=none",
        "cmd: op=CMD_STALL_TERM w0=0x100000045 w1=0x0",
        "resume: sid=0x1 action=all",
        "broadcast: what=Broadcast { regime: El2Host, scope: Asid { asid: 1 } }",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected}\nin {lines:#?}");
    }
}
