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

use crate::platform::LabPlatform;

/// Vectors that a kernel gives to devices: those below are exceptions and its own, and so is the last.
const VECTORS: core::ops::Range<u8> = 0x30..0xff;

/// The first CPU's place in the interrupt address range.
const FIRST_CPU: u64 = 0xfee0_0000;

/// The vectors of the first CPU.
#[derive(Debug)]
pub(super) struct Vectors {
    cpu: FirstCpu,
    given: Mutex<BTreeMap<u8, Given>>,
}

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
    total: AtomicU64,
}

impl Counting {
    pub(super) fn new(platform: Arc<LabPlatform>, counters: Pa) -> Self {
        Self { platform, counters, taken: Mutex::default(), total: AtomicU64::new(0) }
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
        self.total.fetch_add(now.wrapping_sub(before).into(), Relaxed);
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
#[derive(Clone, Copy, Debug)]
struct Given {
    device: u32,
    event: u32,
    /// The interrupt's number.
    number: u32,
}

impl Vectors {
    pub(super) fn new(cpu: FirstCpu) -> Self {
        Self { cpu, given: Mutex::default() }
    }

    /// How many messages were taken, where no model counts them.
    pub(super) fn taken(&self) -> u64 {
        match &self.cpu {
            FirstCpu::Model(_) => 0,
            FirstCpu::Counting(counting) => counting.total.load(Relaxed),
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
    pub(super) fn map(&self, device: u32, event: u32, number: u32) -> Result<(Pa, u32), &'static str> {
        let mut given = self.given();
        let mut free = VECTORS.filter(|vector| !given.contains_key(vector));
        let vector = free.next().ok_or("every vector of the first CPU is taken")?;
        // What came before means nothing to the new one.
        self.cpu.discard(vector);
        given.insert(vector, Given { device, event, number });
        Ok((Pa::new(FIRST_CPU), vector.into()))
    }

    pub(super) fn discard(&self, device: u32, event: u32) {
        self.given().retain(|&vector, given| {
            let gone = (given.device, given.event) == (device, event);
            if gone {
                self.cpu.discard(vector);
            }
            !gone
        });
    }

    /// Takes an interrupt that has come. Vectors that stand for nothing are taken and forgotten, as a kernel does.
    pub(super) fn take_pending(&self) -> Option<u32> {
        let vectors: Vec<u8> = self.given().keys().copied().collect();
        loop {
            let vector = self.cpu.take(vectors.iter().copied())?;
            let number = self.given().get(&vector).map(|given| given.number);
            if number.is_some() {
                return number;
            }
        }
    }
}
