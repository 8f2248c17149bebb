//! CPU accesses to devices: which PE they are of, and whether it is frozen.
//!
//! The bridge tells PEs apart by address: 16 M64 BARs, the first that matches wins, then the M32 window in 256 segments. Loads from a frozen PE answer all ones, stores to it
//! are gone. Configuration space is reached through CONFIG_ADDRESS, which names the PE.
//!
//! An error that software asked for is made of the first access that fits: that access is refused, and its PE frozen.
//!
//! Observed: skiboot hw/phb3.c, phb3_map_pe_mmio_window; phb3_err_inject_mem32, phb3_err_inject_mem64: an address of the CPU's, and a mask of the bits that count;
//! phb3_err_inject_cfg: bus, device and function, in the place that they have in CONFIG_ADDRESS; phb3_err_inject_finalize: a load or a store. QEMU 7.2,
//! hw/pci-host/pnv_phb3.c, pnv_phb3_check_m32.
//! Choice: of an error in configuration space no more than the function is compared, as the header names no more; the FREEZE bit of the control register, which
//! nobody sets, is kept and does nothing.
//! Choice: the PE in CONFIG_ADDRESS is believed, and a frozen one's configuration space is out of reach.

use std::sync::Arc;

use model_bus::{Mmio, Width};
use portcullis_types::Pa;

use crate::cause::{Cause, FirstError, Transaction};
use crate::phb::{Phb3, ones};
use crate::registers::{
    CA_BDFN, CA_ENABLE, CA_PE, CA_REGISTER, CONFIG_ADDRESS, CONFIG_M32, INJECT_ADDR, INJECT_CONFIG,
    INJECT_CTL, INJECT_FUNCTION, INJECT_INBOUND, INJECT_MASK, INJECT_MMIO, INJECT_OUTBOUND, INJECT_READ,
    INJECT_WRITE, M32_BASE_ADDR, M32_BASE_MASK, PHB3_CONFIG,
};
use crate::state::{Around, State};
use crate::tables::{M32DT, M32DT_PE};

/// What is below the bridge, wherever the machine has it: configuration space, the slot's reset line, and its link.
pub trait ConfigTarget: Send + Sync {
    /// Reads a register of a function, aligned to `width`, as a little-endian number; all ones if nobody answers.
    fn read(&self, rid: u16, offset: u16, width: Width) -> u64;
    /// Writes a register of a function.
    fn write(&self, rid: u16, offset: u16, width: Width, value: u64);
    /// PERST was asserted, or let go: what is below the root port loses its state, and is out of reach while it is `held`.
    fn hold(&self, held: bool);
    /// Whether the link below is up. It must not come back to the bridge.
    fn has_link(&self) -> bool;
}

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// From a device.
    Inbound,
    /// From a CPU, to a device's memory.
    Outbound,
    /// From a CPU, to configuration space.
    Config,
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
    pub(crate) fn injects(&self, path: Path, address: u64, write: bool) -> bool {
        let (path, bits) = match path {
            Path::Inbound => (INJECT_INBOUND, u64::MAX),
            Path::Outbound => (INJECT_OUTBOUND, INJECT_MMIO),
            Path::Config => (INJECT_CONFIG, INJECT_FUNCTION),
        };
        let needed = path | if write { INJECT_WRITE } else { INJECT_READ };
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
        if self.freezes.mmio(pe) {
            self.counters.mmio_blocked += 1;
            return false;
        }
        let injected = self.injects(Path::Outbound, at, write);
        if injected {
            let transaction = if write { Transaction::MmioStore } else { Transaction::MmioLoad };
            let error = FirstError { cause: Cause::Injected, transaction, rid: 0, address: at, data: 0 };
            self.report(Some(pe), error, around);
            self.counters.mmio_blocked += 1;
        }
        !injected
    }

    /// Whether an access to the function that CONFIG_ADDRESS names goes through.
    pub(crate) fn admits_config(&mut self, write: bool, around: Around<'_>) -> bool {
        let address = self.registers.get(CONFIG_ADDRESS);
        let pe = CA_PE.get(address) as u8;
        if address & CA_ENABLE == 0 || !self.is_open() || self.freezes.mmio(pe) {
            return false;
        }
        let injected = self.injects(Path::Config, address, write);
        if injected {
            let transaction = if write { Transaction::ConfigWrite } else { Transaction::ConfigRead };
            let rid = CA_BDFN.get(address) as u16;
            let address = CA_REGISTER.get(address);
            let error = FirstError { cause: Cause::Injected, transaction, rid, address, data: 0 };
            self.report(Some(pe), error, around);
        }
        !injected
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
