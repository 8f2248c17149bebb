//! Who else hears TLB maintenance.

use std::sync::{Arc, Mutex};

use model_cpu::{BroadcastListener, CpuFeatures, Message, Regime, TlbPolicy, Tlbi};

use crate::bench::Bench;

#[derive(Default)]
struct Ear(Mutex<Vec<Option<Message>>>);

impl BroadcastListener for Ear {
    fn invalidate(&self, message: &Message) {
        self.0.lock().unwrap().push(Some(*message));
    }

    fn sync(&self) {
        self.0.lock().unwrap().push(None);
    }
}

#[test]
fn a_listener_hears_each_operation_and_then_the_barrier() {
    for (features, regime) in [(CpuFeatures::COMMON, Regime::El1), (CpuFeatures::LARGE, Regime::El2Host)] {
        let bench = Bench::new(features, TlbPolicy::holding(1));
        let ear = Arc::new(Ear::default());
        bench.cpus.add_listener(ear.clone());
        let page = Tlbi::Va { asid: 7, va: 0x1000, last_level_only: false };
        bench.cpu(0).tlbi(page);
        bench.cpu(1).tlbi(Tlbi::Asid { asid: 9 });
        bench.cpu(0).barrier();
        let heard = ear.0.lock().unwrap().clone();
        let message = |operation| Some(Message { regime, operation });
        assert_eq!(heard, [message(page), message(Tlbi::Asid { asid: 9 }), None]);
        bench.cpus.dismantle();
        bench.cpu(0).tlbi(Tlbi::All);
        assert_eq!(ear.0.lock().unwrap().len(), 3);
    }
}
