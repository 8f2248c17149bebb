//! Messages of a PHB3: the table of its interrupts (IVT), and what a kernel does when one arrives.
//!
//! An entry says for which PE a source is, and remembers in P that it was presented and in Q that it came again meanwhile. The bridge keeps entries in a
//! cache (IVC). Served, an interrupt is ended: P is cleared in memory and in the cache, with a generation that keeps an entry that was just fetched from being
//! cleared by mistake; and if Q is set by then, the interrupt is sent once more.
//!
//! Observed: skiboot hw/phb3.c, `phb3_pci_msi_eoi`, `phb3_pci_msi_check_q`, `phb3_msi_set_xive`, `phb3_get_msi_64`; include/phb3-regs.h.
//! Choice: all are served by one CPU (`presenter`).
//! Not here: lines (LSIs).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::hal::{Barriers, BlockLayout, Registers, TableMemory};
use portcullis::ioda2::{NOBODY, Phb3};
use portcullis::types::{Pa, SourceId};

use super::presenter::Presenter;
use crate::platform::{LabPlatform, RegisterWindow};

const IVT_BAR: usize = 0x150;
const FFI_REQUEST: usize = 0x238;
const FFI_LOCK: usize = 0x240;
const IVC_INVALIDATE: usize = 0x2a0;
const IVC_UPDATE: usize = 0x2a8;

/// PPC bit 0 of a BAR: the table is there.
const ENABLE: u64 = 1 << 63;
/// How many entries the table has; the last eight are lines.
const ENTRIES: u16 = 0x800;
const SOURCES: u16 = 0x7f8;
/// Bytes of an entry.
const STRIDE: u64 = 128;
/// The table: 2048 entries of 128 bytes.
const TABLE: BlockLayout = BlockLayout::naturally_aligned(18);

/// PPC bits 8 to 23 of an entry: a CPU's number, and two bits more.
const SERVER_SHIFT: u32 = 42;
/// PPC bits 24 to 31 of an entry.
const PRIORITY_SHIFT: u32 = 32;
const MASKED: u64 = 0xff;
/// Observed: Linux 6.x, arch/powerpc/sysdev/xics, `DEFAULT_PRIORITY`.
const PRIORITY: u64 = 5;
/// Bytes of an entry: P with its generation, and Q.
const P_BYTE: usize = 4;
const Q_BYTE: usize = 5;

/// IVC_UPDATE: P, Q and generation are changed, if the generation matches.
const UPDATE_P: u64 = 1 << 63;
const UPDATE_Q: u64 = 1 << 62;
const UPDATE_GENERATION: u64 = 1 << 59;
const UPDATE_CONDITION: u64 = 1 << 58;
const MATCH_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 30;
/// IVC_INVALIDATE: which source.
const INVALIDATE_SHIFT: u32 = 32;
/// FFI_REQUEST: the lock is given back; which source.
const FFI_UNLOCK: u64 = 1 << 60;
const FFI_SHIFT: u32 = 4;
/// So often the lock is looked at.
const FFI_TRIES: usize = 1000;

/// Where messages of 64 bits go. Observed: skiboot hw/phb3.c, `phb3_get_msi_64`: all of a source's number but its lowest five bits lies above bit 4 of the
/// address, those are the data.
const MSI64: u64 = 1 << 60;
const DATA_BITS: u16 = 0x1f;

/// The messages of one bridge.
pub struct Messages {
    platform: Arc<LabPlatform>,
    registers: RegisterWindow,
    presenter: Presenter,
    driver: Arc<Phb3<LabPlatform, RegisterWindow>>,
    state: Mutex<State>,
    taken: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// The table; none once it was given back.
    ivt: Option<Pa>,
    /// Sources by device and event.
    sources: BTreeMap<(u32, u32), u16>,
    /// What a source means.
    numbers: BTreeMap<u16, u32>,
    arrived: VecDeque<u32>,
}

impl core::fmt::Debug for Messages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Messages").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Messages {
    /// Gives the bridge a table in which every source is masked; none if there is no memory for it.
    pub(super) fn new(
        platform: Arc<LabPlatform>,
        registers: RegisterWindow,
        presenter: Presenter,
        driver: Arc<Phb3<LabPlatform, RegisterWindow>>,
    ) -> Option<Arc<Self>> {
        let ivt = platform.alloc(TABLE)?;
        (0..ENTRIES).for_each(|source| store(&platform, entry_at(ivt, source), idle()));
        platform.write_barrier();
        registers.write64(IVT_BAR, ivt.get() | u64::from(ENTRIES) | ENABLE);
        let (sources, numbers, arrived) = Default::default();
        let state = Mutex::new(State { ivt: Some(ivt), sources, numbers, arrived });
        presenter.open(&platform);
        Some(Arc::new(Self { platform, registers, presenter, driver, state, taken: AtomicU64::new(0) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `event` of the device with this request id is interrupt `number`. Answers where the device is to write, and what.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub(super) fn map(&self, device: u32, event: u32, number: u32) -> Result<(Pa, u32), &'static str> {
        let pe = self.driver.pe_of(SourceId(device)).ok_or("the host bridge does not know it")?;
        let mut state = self.state();
        let ivt = state.ivt.ok_or("the host bridge is shut down")?;
        let known = state.sources.get(&(device, event)).copied();
        let free = |state: &State| (0..SOURCES).find(|source| !state.numbers.contains_key(source));
        let source = known.or_else(|| free(&state)).ok_or("all messages of the host bridge are in use")?;
        state.sources.insert((device, event), source);
        state.numbers.insert(source, number);
        let server = u64::from(self.presenter.server()) << SERVER_SHIFT;
        self.set(ivt, source, server | PRIORITY << PRIORITY_SHIFT | u64::from(pe));
        let address = MSI64 | u64::from(source & !DATA_BITS) << 4;
        Ok((Pa::new(address), u32::from(source & DATA_BITS)))
    }

    /// From now on it means nothing.
    pub(super) fn discard(&self, device: u32, event: u32) {
        let mut state = self.state();
        let Some(source) = state.sources.remove(&(device, event)) else { return };
        state.numbers.remove(&source);
        if let Some(ivt) = state.ivt {
            self.set(ivt, source, idle());
        }
    }

    /// The next interrupt that has arrived, ended.
    pub(super) fn take_pending(&self) -> Option<u32> {
        let mut state = self.state();
        for presented in self.presenter.take(&self.platform) {
            let Some(ivt) = state.ivt else { break };
            self.taken.fetch_add(1, Relaxed);
            self.end(ivt, presented.source);
            self.presenter.end(&self.platform, presented);
            let number = state.numbers.get(&presented.source).copied();
            state.arrived.extend(number);
        }
        state.arrived.pop_front()
    }

    /// How many interrupts were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// The bridge has no table any more.
    pub(super) fn shut_down(&self) {
        if let Some(ivt) = self.state().ivt.take() {
            self.registers.write64(IVT_BAR, 0);
            // What is under way has arrived when this is answered.
            self.registers.read64(IVT_BAR);
            self.platform.free(ivt, TABLE);
        }
    }

    fn set(&self, ivt: Pa, source: u16, entry: u64) {
        store(&self.platform, entry_at(ivt, source), entry);
        self.platform.write_barrier();
        self.registers.write64(IVC_INVALIDATE, u64::from(source) << INVALIDATE_SHIFT);
    }

    /// Ends an interrupt.
    fn end(&self, ivt: Pa, source: u16) {
        let at = entry_at(ivt, source);
        let before = self.change(at, |entry| entry[P_BYTE] = ((entry[P_BYTE] >> 1) + 1) % 4 * 2);
        let generation = u64::from(before[P_BYTE] >> 1 & 3);
        self.platform.write_barrier();
        let update = UPDATE_P | UPDATE_GENERATION | UPDATE_CONDITION | u64::from(source);
        let next = (generation + 1) % 4;
        self.registers.write64(IVC_UPDATE, update | generation << MATCH_SHIFT | next << GENERATION_SHIFT);
        // The load makes what came before it show in memory.
        self.registers.read64(IVC_UPDATE);
        self.platform.read_barrier();
        if self.platform.load(at).to_le_bytes()[Q_BYTE] & 1 == 0 {
            return;
        }
        if (0..FFI_TRIES).all(|_| self.registers.read64(FFI_LOCK) != 0) {
            return;
        }
        self.change(at, |entry| entry[Q_BYTE] = 0);
        self.platform.write_barrier();
        self.registers.write64(IVC_UPDATE, UPDATE_Q | u64::from(source));
        self.registers.write64(FFI_REQUEST, FFI_UNLOCK | u64::from(source) << FFI_SHIFT);
    }

    /// Changes bytes of an entry while the bridge may change others. Answers what was there.
    fn change(&self, at: Pa, change: impl Fn(&mut [u8; 8])) -> [u8; 8] {
        let mut found = self.platform.load(at);
        loop {
            let mut entry = found.to_le_bytes();
            change(&mut entry);
            match self.platform.compare_exchange(at, found, u64::from_le_bytes(entry)) {
                Ok(before) => return before.to_le_bytes(),
                Err(other) => found = other,
            }
        }
    }
}

/// The entry of a source that means nothing.
fn idle() -> u64 {
    MASKED << PRIORITY_SHIFT | u64::from(NOBODY)
}

fn entry_at(ivt: Pa, source: u16) -> Pa {
    Pa::new(ivt.get() + STRIDE * u64::from(source))
}

/// Entries are big-endian.
fn store(platform: &LabPlatform, at: Pa, entry: u64) {
    platform.store(at, u64::from_le_bytes(entry.to_be_bytes()));
}
