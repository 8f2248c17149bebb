//! Tables and queues that lie, by somebody's mistake, on the unit's own registers: it gets nothing, and does not wait for itself.

use std::sync::{Arc, OnceLock, Weak};

use model_bus::{BusError, Clocked, Doorbell, Fabric, Mmio, Outcome, Request, Translator, Width, Write};
use model_vtd::{Memory, Vtd};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, Iova, Pa, SourceId};

use crate::harness::*;

/// Every access to memory is one to a register of the unit that asks.
struct Mirror(OnceLock<Weak<Vtd>>);

impl Mirror {
    fn unit(&self) -> Arc<Vtd> {
        self.0.get().and_then(Weak::upgrade).unwrap()
    }
}

impl Fabric for Mirror {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        for (index, bytes) in into.chunks_mut(8).enumerate() {
            let word = self.unit().read((at.get() + 8 * index as u64) & 0xff8, Width::Bits64);
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
        Ok(())
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.unit().write(write.at.get() & 0xff8, Width::Bits32, 1);
        Ok(())
    }

    fn compare_exchange(&self, at: Pa, _: u64, _: u64) -> Result<u64, BusError> {
        Err(BusError { at })
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

#[test]
fn registers_that_tables_and_queues_lie_on_do_not_stop_the_model() {
    let mirror = Arc::new(Mirror(OnceLock::new()));
    let memory = Memory::uncached(mirror.clone());
    let unit = Arc::new(Vtd::new(plain(), memory, Arc::new(Ears::default()), 1, Arc::new(Silence)));
    mirror.0.set(Arc::downgrade(&unit)).unwrap();
    // Root table, interrupt table of two entries, queue: all of them, then remapping of both kinds.
    for (register, at) in [(0x20, ROOT), (0xb8, IRT), (0x90, QUEUE)] {
        unit.write(register, Width::Bits64, at);
    }
    for command in [1 << 30, 1 << 24, 1 << 31, 1 << 31 | 1 << 25, 1 << 31 | 1 << 26 | 1 << 25] {
        unit.write(0x18, Width::Bits32, command);
    }
    assert_eq!(unit.read(0x1c, Width::Bits32), 0xc700_0000);
    let request = Request {
        source: SourceId(DEVICE.into()),
        pasid: None,
        iova: Iova::new(0x1000),
        len_bytes: 8,
        access: Access::READ,
    };
    assert_eq!(unit.access(&request, &mut |_| Ok(())), Outcome::Aborted);
    assert_eq!(unit.read(FRCD + 8, Width::Bits64) >> 32 & 0xff, 1, "the root entry is not present");
    // Remappable format, index 0.
    let refused = BusError { at: Pa::new(0xfee0_0010) };
    assert_eq!(unit.ring(0x10, &[0; 4], Some(SourceId(DEVICE.into()))), Err(refused));
    assert_eq!(unit.read(FRCD + 24, Width::Bits64) >> 32 & 0xff, 0x22, "nor is the interrupt entry");
    unit.write(0x88, Width::Bits64, 0x10);
    unit.step(0);
    assert_eq!(unit.read(0x34, Width::Bits32) & 0x10, 0x10, "a descriptor of zeroes is none");
}
