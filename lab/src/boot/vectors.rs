//! Messages to the CPUs of a PC: which vector stands for which event of which device.
//!
//! All go to the first CPU. Where a VT-d unit remaps interrupts, a device writes the handle of an entry instead, which names the vector.
//!
//! Spec: Intel SDM volume 3A, 11.11 "Message Signalled Interrupts".
//! Not here: which line is which (`irq`), the entries (`vtd`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_devices::apic::{LocalApics, Vector};
use portcullis::types::Pa;

/// Vectors that a kernel gives to devices: those below are exceptions and its own, and so is the last.
const VECTORS: core::ops::Range<u8> = 0x30..0xff;

/// The first CPU's place in the interrupt address range.
const FIRST_CPU: u64 = 0xfee0_0000;

/// The vectors of the first CPU.
#[derive(Debug)]
pub(super) struct Vectors {
    apics: Arc<LocalApics>,
    given: Mutex<BTreeMap<u8, Given>>,
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
    pub(super) fn new(apics: Arc<LocalApics>) -> Self {
        Self { apics, given: Mutex::default() }
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
        given.insert(vector, Given { device, event, number });
        Ok((Pa::new(FIRST_CPU), vector.into()))
    }

    pub(super) fn discard(&self, device: u32, event: u32) {
        self.given().retain(|&vector, given| {
            let gone = (given.device, given.event) == (device, event);
            if gone {
                self.apics.discard(Vector { cpu: 0, vector });
            }
            !gone
        });
    }

    /// Takes an interrupt that has come. Vectors that stand for nothing are taken and forgotten, as a kernel does.
    pub(super) fn take_pending(&self) -> Option<u32> {
        while let Some(taken) = self.apics.take_pending() {
            let given = self.given().get(&taken.vector).filter(|_| taken.cpu == 0).map(|given| given.number);
            if given.is_some() {
                return given;
            }
        }
        None
    }
}
