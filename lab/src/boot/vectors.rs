//! Messages to the CPUs of a PC: which vector stands for which event of which device.
//!
//! All go to the first CPU, whose local APIC is a model, or QEMU's: there a program on the CPU counts what arrives, in memory. Where a VT-d unit remaps interrupts, a device writes the handle of an entry instead, which names the vector.
//!
//! Spec: Intel SDM volume 3A, 11.11 "Message Signalled Interrupts".
//! Not here: which line is which (`irq`), the entries (`vtd`).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_devices::apic::{LocalApics, Vector};
use portcullis::hal::{Barriers, DmaMemory};
use portcullis::types::Pa;
use portcullis::vtd::{Destination, Interrupt, InterruptBlock, InterruptMessage, Requester, Vtd};

use crate::platform::{LabPlatform, RegisterWindow};

/// Vectors that a kernel gives to devices: those below are exceptions and its own, and so is the last.
const VECTORS: core::ops::Range<u8> = 0x30..0xff;

/// The first CPU's place in the interrupt address range.
const FIRST_CPU: u64 = 0xfee0_0000;

/// Who VT-d units are for the CPUs' vectors, by their place in the firmware's list from this on: none of the functions, whose ids have 16 bits, and their segments' 16 bits
/// above these, of which a machine here has few.
pub(super) const UNITS: u32 = 1 << 31;

/// The vectors of the first CPU.
#[derive(Debug)]
pub(super) struct Vectors {
    cpu: FirstCpu,
    given: Mutex<BTreeMap<u8, Given>>,
    /// Devices whose messages a unit remaps, and as whom they arrive there.
    remapped: Mutex<BTreeMap<u32, (Arc<Unit>, Requester)>>,
    /// How many messages of devices were taken.
    taken: AtomicU64,
}

type Unit = Vtd<LabPlatform, RegisterWindow>;

/// Where interrupts of the first CPU arrive.
#[derive(Debug)]
pub(super) enum FirstCpu {
    /// The APICs of models.
    Model(Arc<LocalApics>),
    /// A CPU that counts.
    Counting(Counting),
}

/// A CPU that counts its interrupts: for each vector a word of 32 bits.
#[derive(Debug)]
pub(super) struct Counting {
    platform: Arc<LabPlatform>,
    counters: Pa,
    /// What was taken of each.
    taken: Mutex<BTreeMap<u8, u32>>,
}

impl Counting {
    pub(super) fn new(platform: Arc<LabPlatform>, counters: Pa) -> Self {
        Self { platform, counters, taken: Mutex::default() }
    }

    fn count(&self, vector: u8) -> u32 {
        self.platform.read32(Pa::new(self.counters.get() + 4 * u64::from(vector)))
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u8, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a vector has come since this was last asked.
    fn take(&self, vector: u8) -> bool {
        let now = self.count(vector);
        let before = self.taken().insert(vector, now).unwrap_or(0);
        if now == before {
            return false;
        }
        // What the device wrote before its message is read after it.
        self.platform.read_barrier();
        true
    }
}

impl FirstCpu {
    /// Takes the next of these vectors that has come.
    fn take(&self, vectors: impl Iterator<Item = u8>) -> Option<u8> {
        match self {
            Self::Model(apics) => {
                let mut others = core::iter::from_fn(|| apics.take_pending());
                others.find(|taken| taken.cpu == 0).map(|taken| taken.vector)
            }
            Self::Counting(counting) => { vectors }.find(|&vector| counting.take(vector)),
        }
    }

    /// What has come of this vector means nothing.
    fn discard(&self, vector: u8) {
        match self {
            Self::Model(apics) => apics.discard(Vector { cpu: 0, vector }),
            Self::Counting(counting) => drop(counting.take(vector)),
        }
    }
}

/// What a vector stands for.
#[derive(Debug)]
struct Given {
    device: u32,
    event: u32,
    /// The interrupt's number.
    number: u32,
    /// The entry that names the vector, and whose table it is in.
    entry: Option<(Arc<Unit>, InterruptBlock)>,
}

impl Vectors {
    pub(super) fn new(cpu: FirstCpu) -> Self {
        Self { cpu, given: Mutex::default(), remapped: Mutex::default(), taken: AtomicU64::new(0) }
    }

    /// How many messages were taken, where no model counts them.
    pub(super) fn taken(&self) -> u64 {
        match &self.cpu {
            FirstCpu::Model(_) => 0,
            FirstCpu::Counting(_) => self.taken.load(Relaxed),
        }
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<u8, Given>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `event` of a device means interrupt `number`: where the device is to write, and what.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub(super) fn map(&self, device: u32, event: u32, number: u32) -> Result<(Pa, u32), String> {
        let mut given = self.given();
        let mut free = VECTORS.filter(|vector| !given.contains_key(vector));
        let vector = free.next().ok_or("every vector of the first CPU is taken")?;
        let unit = self.remapped().get(&device).cloned();
        let (to, data, entry) = match unit {
            Some((unit, sender)) => {
                let (message, block) = remapped(&unit, sender, vector)?;
                (Pa::new(message.address), message.data, Some((unit, block)))
            }
            None => (Pa::new(FIRST_CPU), vector.into(), None),
        };
        // What came before means nothing to the new one.
        self.cpu.discard(vector);
        given.insert(vector, Given { device, event, number, entry });
        Ok((to, data))
    }

    /// From now on messages of a device name entries of a unit's table.
    pub(super) fn remap(&self, device: u32, unit: &Arc<Unit>, sender: Requester) {
        self.remapped().insert(device, (unit.clone(), sender));
    }

    fn remapped(&self) -> MutexGuard<'_, BTreeMap<u32, (Arc<Unit>, Requester)>> {
        self.remapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry goes first: a message that comes later is blocked, and what came before means nothing.
    pub(super) fn discard(&self, device: u32, event: u32) {
        let mut given = self.given();
        let own = given.iter().filter(|(_, given)| (given.device, given.event) == (device, event));
        for vector in own.map(|(&vector, _)| vector).collect::<Vec<_>>() {
            if let Some((unit, block)) = given.remove(&vector).and_then(|given| given.entry)
                && let Some(interrupts) = unit.interrupts()
            {
                // What hardware did not confirm is not given out again.
                let _ = interrupts.free_block(block);
            }
            self.cpu.discard(vector);
        }
    }

    /// Units are gone, and their tables with them.
    pub(super) fn shut_down(&self) {
        self.remapped().clear();
        self.given().clear();
    }

    /// Takes an interrupt that has come. Vectors that stand for nothing are taken and forgotten, as a kernel does.
    pub(super) fn take_pending(&self) -> Option<u32> {
        let vectors: Vec<u8> = self.given().keys().copied().collect();
        loop {
            let vector = self.cpu.take(vectors.iter().copied())?;
            let found = self.given().get(&vector).map(|given| (given.device, given.number));
            if let Some((device, number)) = found {
                // What units say of themselves is no message of a device's.
                self.taken.fetch_add(u64::from(device < UNITS), Relaxed);
                return Some(number);
            }
        }
    }
}

/// An entry of the unit's table that names this vector and that this device alone may use, or whoever shares its name, and what the device is to write for it.
fn remapped(
    unit: &Unit,
    requester: Requester,
    vector: u8,
) -> Result<(InterruptMessage, InterruptBlock), String> {
    let table = unit.interrupts().ok_or("its unit remaps nothing")?;
    let block = table.allocate(1).map_err(|error| format!("no entry for its interrupt: {error:?}"))?;
    let destination = Destination::Physical(0);
    let interrupt = Interrupt { vector, destination, level: false, requester };
    table.set(&block, 0, &interrupt).map_err(|error| format!("its interrupt was not set: {error:?}"))?;
    Ok((table.message(&block, 0), block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{DiskContent, Machine, builtin};
    use crate::trace;

    #[test]
    fn what_a_unit_says_of_itself_is_counted_as_no_devices_message() {
        const COUNTERS: Pa = Pa::new(0x20_0000);
        let spec = builtin::find("x86").unwrap();
        let machine = Machine::build(spec, DiskContent::Blank, 1, &trace::shared(None)).unwrap();
        let platform = Arc::new(LabPlatform::new(machine.bus.clone(), trace::shared(None), None));
        let vectors = Vectors::new(FirstCpu::Counting(Counting::new(platform.clone(), COUNTERS)));
        let arrives = |vector: u32| {
            let at = Pa::new(COUNTERS.get() + 4 * u64::from(vector));
            platform.write(at, &1u32.to_le_bytes());
        };
        let (_, disks) = vectors.map(8, 0, 40).unwrap();
        let (_, units) = vectors.map(UNITS, 0, 41).unwrap();
        arrives(units);
        assert_eq!((vectors.take_pending(), vectors.taken()), (Some(41), 0));
        arrives(disks);
        assert_eq!((vectors.take_pending(), vectors.taken()), (Some(40), 1));
        assert_eq!(vectors.take_pending(), None);
    }
}
