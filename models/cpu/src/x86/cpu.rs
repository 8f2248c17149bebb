//! One CPU: what it runs, its accesses, and what it is told to forget.

use core::fmt;
use std::sync::Arc;

use model_bus::Bus;
use portcullis_types::{AccessKind, Pa};

use super::{Context, CpuFeatures, Cpus, Fault, FaultKind, Invalidation};
use crate::registers::Memory;

/// One CPU.
#[derive(Clone)]
pub struct Cpu {
    cpus: Arc<Cpus>,
    index: usize,
}

/// Where an address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address.
    pub pa: Pa,
    /// Which entry of IA32_PAT has its memory type: PAT, PCD and PWT of the page's entry.
    pub memory_index: u8,
    /// The level of the entry: 1 for a page of 4 KiB, 2 of 2 MiB, 3 of 1 GiB.
    pub level: u8,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cpu").field(&self.index).finish()
    }
}

impl Cpu {
    pub(crate) fn new(cpus: Arc<Cpus>, index: usize) -> Self {
        Self { cpus, index }
    }

    /// Which one, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The CPUs it is one of.
    pub fn cpus(&self) -> &Arc<Cpus> {
        &self.cpus
    }

    /// What it can do.
    pub fn features(&self) -> CpuFeatures {
        self.cpus.state().cores[self.index].features
    }

    /// Translates by `context` from now on (MOV to CR3): what is held of its PCID is forgotten, unless its CR3 says [`Context::KEEP`]. With none, every access
    /// of user code is a fault, and what is held stays.
    ///
    /// A context that breaks a rule is noted as unpredictable, and translates nothing.
    pub fn switch_to(&self, context: Option<Context>) {
        // MOV to CR3 serializes.
        self.barrier();
        let state = &mut *self.cpus.state();
        state.cores[self.index].switch_to(context, &mut state.journal);
    }

    /// What it translates by, as the registers hold it: bit 63 of CR3 is clear.
    pub fn context(&self) -> Option<Context> {
        self.cpus.state().cores[self.index].context
    }

    /// User code loads bytes from `va` on.
    ///
    /// # Errors
    ///
    /// The fault that some byte meets; those before it have been loaded.
    pub fn load(&self, va: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut rest = into;
        self.each_piece(va, rest.len(), AccessKind::Read, |bus, pa, len| {
            let (now, later) = core::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            memory_at(pa, len, bus).load(bus, pa, now)
        })
    }

    /// User code stores bytes from `va` on.
    ///
    /// # Errors
    ///
    /// The fault that some byte meets; those before it have been stored.
    pub fn store(&self, va: u64, from: &[u8]) -> Result<(), Fault> {
        let mut rest = from;
        self.each_piece(va, rest.len(), AccessKind::Write, |bus, pa, len| {
            let (now, later) = rest.split_at(len);
            rest = later;
            memory_at(pa, len, bus).store(bus, pa, now)
        })
    }

    /// User code fetches four bytes of instructions from `va` on, which may be anywhere.
    ///
    /// # Errors
    ///
    /// The fault that some byte meets.
    pub fn fetch(&self, va: u64) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        let mut rest = &mut bytes[..];
        self.each_piece(va, 4, AccessKind::Execute, |bus, pa, len| {
            let (now, later) = core::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            bus.cpu().read(pa, now).is_ok()
        })?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Where an access of user code at `va` goes. It sets what the access would set.
    ///
    /// # Errors
    ///
    /// The fault that the access would meet.
    pub fn translate(&self, va: u64, access: AccessKind) -> Result<Translation, Fault> {
        let mut state = self.cpus.state();
        let entry = self.cpus.translate(&mut state, self.index, va, access)?;
        Ok(Translation { pa: entry.address(va), memory_index: entry.memory_index, level: entry.level() })
    }

    /// Executes `invalidation` here, and nowhere else: done when it returns. Stores made before are visible to walkers.
    pub fn invalidate(&self, invalidation: Invalidation) {
        self.cpus.shoot_down([self.index], &[invalidation]);
    }

    /// MFENCE: its stores are visible to every walker. Nothing is forgotten.
    pub fn barrier(&self) {
        self.cpus.bus().cpu().full_barrier();
    }

    /// How many translations its TLB holds.
    pub fn tlb_len(&self) -> usize {
        self.cpus.state().cores[self.index].tlb.len()
    }

    /// Cuts an access where one entry ends and does each piece while its translation is in force.
    fn each_piece(
        &self,
        va: u64,
        len: usize,
        access: AccessKind,
        mut commit: impl FnMut(&Bus, Pa, usize) -> bool,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = va.wrapping_add(done as u64);
            let mut state = self.cpus.state();
            let entry = self.cpus.translate(&mut state, self.index, at, access)?;
            let covered = 1u64 << entry.size_lg2;
            let piece = (covered - (at & (covered - 1))).min((len - done) as u64) as usize;
            if !commit(self.cpus.bus(), entry.address(at), piece) {
                let (kind, level) = (FaultKind::Abort, entry.level());
                return Err(Fault { va: at, access, kind, level, tells_fetches: true });
            }
            done += piece;
            self.cpus.mischief(&mut state, self.index, at);
        }
        Ok(())
    }
}

/// Choice: the MTRRs say that RAM is write-back and all else uncacheable, and no page says otherwise so that it matters: what is no RAM is accessed as
/// registers are, once and in the size that the program says.
///
/// Spec: Intel SDM volume 3A, 12.5.2.2 "Selecting Memory Types for Pentium III and More Recent Processor Families".
fn memory_at(at: Pa, len: usize, bus: &Bus) -> Memory {
    if bus.cpu().ram().holds(at, len as u64) { Memory::Normal } else { Memory::Device }
}
