//! Registers that are written, or read, as they should not be.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model_bus::Width;
use portcullis::types::Pa;
use portcullis_lab::tamper::{Hands, Tamper};

use super::view::{Place, SMMU_BASE, View, offset, register};

/// One register is written with another value; none: not at all.
pub struct Written<F> {
    at: u64,
    change: F,
}

impl<F: Fn(u64) -> Option<u64> + Send + Sync> Written<F> {
    /// `change` answers what is written to the SMMU's register at `offset`.
    pub fn new(offset: u64, change: F) -> Self {
        Self::at(SMMU_BASE + offset, change)
    }

    /// `change` answers what is written to the register at this address.
    pub fn at(at: u64, change: F) -> Self {
        Self { at, change }
    }
}

impl<F: Fn(u64) -> Option<u64> + Send + Sync> Tamper for Written<F> {
    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        let value = if at.get() == self.at { (self.change)(value) } else { Some(value) };
        if let Some(value) = value {
            hands.write_register(at, width, value);
        }
    }
}

/// A driver that believes every command consumed as soon as it is queued.
#[derive(Debug, Default)]
pub struct SyncIgnored {
    prod: AtomicU64,
}

impl Tamper for SyncIgnored {
    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        if register(at) == Some(offset::CMDQ_PROD) {
            self.prod.store(value, Relaxed);
        }
        hands.write_register(at, width, value);
    }

    fn read_register(&self, hands: Hands<'_>, at: Pa, width: Width) -> u64 {
        match register(at) {
            Some(offset::CMDQ_CONS) => self.prod.load(Relaxed),
            _ => hands.read_register(at, width),
        }
    }
}

/// The command queue begins 64 bytes into memory that is aligned for it, and the driver uses it there.
#[derive(Debug, Default)]
pub struct MisalignedRing {
    view: View,
}

const OFF: u64 = 64;

impl Tamper for MisalignedRing {
    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        self.view.register_written(at, value);
        let value = if register(at) == Some(offset::CMDQ_BASE) { value + OFF } else { value };
        hands.write_register(at, width, value);
    }

    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        let moved = self.view.place(at) == Place::Command;
        hands.store(if moved { Pa::new(at.get() + OFF) } else { at }, word);
    }
}
