//! CPU accesses to devices: which PE they are of, and whether it is frozen.
//!
//! The bridge tells PEs apart by address: 16 M64 BARs, the first that matches wins, then the M32 window in 256 segments. Loads from a frozen PE answer all ones, stores to it
//! are gone. Configuration space is reached through CONFIG_ADDRESS, which names the PE.
//!
//! Observed: skiboot hw/phb3.c, phb3_map_pe_mmio_window, phb3_err_inject_mem32; QEMU 7.2, hw/pci-host/pnv_phb3.c, pnv_phb3_check_m32.
//! Choice: the PE in CONFIG_ADDRESS is believed, and a frozen one's configuration space is out of reach.

use std::sync::Arc;

use model_bus::{Mmio, Width};
use portcullis_types::Pa;

use crate::cause::{Cause, FirstError, Transaction};
use crate::phb::{Phb3, ones};
use crate::registers::{
    CONFIG_M32, INJECT_ADDR, INJECT_CTL, INJECT_INBOUND, INJECT_MASK, INJECT_MMIO, INJECT_OUTBOUND,
    INJECT_READ, INJECT_WRITE, M32_BASE_ADDR, M32_BASE_MASK, PHB3_CONFIG,
};
use crate::state::{Around, State};
use crate::tables::{M32DT, M32DT_PE};

/// Configuration space below the bridge, wherever the machine has it.
pub trait ConfigTarget: Send + Sync {
    /// Reads a register of a function, aligned to `width`, as a little-endian number; all ones if nobody answers.
    fn read(&self, rid: u16, offset: u16, width: Width) -> u64;
    /// Writes a register of a function.
    fn write(&self, rid: u16, offset: u16, width: Width, value: u64);
}

impl State {
    /// The PE to which an address of a CPU belongs.
    pub(crate) fn mmio_pe(&self, at: u64) -> Option<u8> {
        if let Some(pe) = self.tables.m64_pe(at) {
            return u8::try_from(pe).ok();
        }
        let base = self.registers.get(M32_BASE_ADDR);
        let size = (!self.registers.get(M32_BASE_MASK) & (u64::MAX >> 14)).wrapping_add(1);
        let offset = at.checked_sub(base).filter(|&offset| offset < size)?;
        if self.registers.get(PHB3_CONFIG) & CONFIG_M32 == 0 || size < 256 {
            return None;
        }
        let segment = (offset / (size / 256)) as usize;
        Some(M32DT_PE.get(self.tables.get(M32DT, segment)) as u8)
    }

    /// Whether software asked for an error of such an access. Observed: skiboot hw/phb3.c, phb3_papr_errinjct_reset: it stands until it is cleared.
    pub(crate) fn injects(&self, inbound: bool, address: u64, write: bool) -> bool {
        let needed = if inbound { INJECT_INBOUND } else { INJECT_OUTBOUND }
            | if write { INJECT_WRITE } else { INJECT_READ };
        let bits = if inbound { u64::MAX } else { INJECT_MMIO };
        let differ = (address ^ self.registers.get(INJECT_ADDR)) & self.registers.get(INJECT_MASK) & bits;
        self.registers.get(INJECT_CTL) & needed == needed && differ == 0
    }

    /// Whether a CPU's access goes through.
    pub(crate) fn admits(&mut self, at: u64, write: bool, around: Around<'_>) -> bool {
        if !self.is_open() {
            self.counters.mmio_blocked += 1;
            return false;
        }
        let Some(pe) = self.mmio_pe(at) else { return true };
        if !self.freezes.mmio(pe) && self.injects(false, at, write) {
            let transaction = if write { Transaction::MmioStore } else { Transaction::MmioLoad };
            let error = FirstError { cause: Cause::Injected, transaction, rid: 0, address: at, data: 0 };
            self.report(Some(pe), error, around);
        }
        let admitted = !self.freezes.mmio(pe);
        self.counters.mmio_blocked += u64::from(!admitted);
        admitted
    }
}

/// Registers below the bridge, out of reach while their PE is frozen.
struct Guarded {
    phb: Arc<Phb3>,
    first: Pa,
    inner: Arc<dyn Mmio>,
}

impl Guarded {
    fn admits(&self, offset: u64, write: bool) -> bool {
        self.phb.admits(Pa::new(self.first.get().wrapping_add(offset)), write)
    }
}

impl Mmio for Guarded {
    fn read(&self, offset: u64, width: Width) -> u64 {
        if self.admits(offset, false) { self.inner.read(offset, width) } else { ones(width) }
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        if self.admits(offset, true) {
            self.inner.write(offset, width, value);
        }
    }
}

/// See [`Phb3::guard`].
pub(crate) fn guard(phb: Arc<Phb3>, first: Pa, inner: Arc<dyn Mmio>) -> Arc<dyn Mmio> {
    Arc::new(Guarded { phb, first, inner })
}
