//! Frozen PEs: whose DMA is stopped, whose devices CPUs cannot reach, and what was wrong first.
//!
//! Each PE has two bits: MMIO frozen, in PESTA, and DMA stopped, in PESTB. An error sets both, for the PE and for those that its entry of the PELT-V names; software
//! clears each by a store to the table, or sets it. PEEV has a bit for each PE of which either is set. Particulars are in memory, where the PEST BAR points.
//!
//! Observed: skiboot hw/phb3.c, phb3_eeh_freeze_status, phb3_eeh_freeze_clear, phb3_eeh_freeze_set; phb3_read_phb_status: "The error bit (bit#0) should
//! be fetched from IODA and the left content from memory resident tables".
//! Choice: particulars of the first error stay in memory until the next error of a PE that is whole again; PEEV follows PESTA and PESTB, and stores to it do nothing.

use crate::bits::bit;
use crate::cause::FirstError;

/// PESTA: MMIO frozen. PESTB: DMA stopped.
const FROZEN: u64 = bit(0);

#[derive(Clone, Copy, Debug, Default)]
struct Pe {
    mmio: bool,
    dma: bool,
    first: Option<FirstError>,
}

/// The state of all PEs.
#[derive(Clone, Debug)]
pub(crate) struct Freezes(Vec<Pe>);

impl Freezes {
    pub(crate) fn new() -> Self {
        Self(vec![Pe::default(); 256])
    }

    fn pe(&self, pe: u8) -> Pe {
        self.0[usize::from(pe)]
    }

    pub(crate) fn mmio(&self, pe: u8) -> bool {
        self.pe(pe).mmio
    }

    pub(crate) fn dma(&self, pe: u8) -> bool {
        self.pe(pe).dma
    }

    pub(crate) fn any(&self) -> bool {
        self.0.iter().any(|pe| pe.mmio || pe.dma)
    }

    pub(crate) fn first(&self, pe: u8) -> Option<FirstError> {
        self.pe(pe).first
    }

    /// Freezes a PE for an error of its own, or of another. Answers whether it was whole, so that this error is its first.
    pub(crate) fn freeze(&mut self, pe: u8, error: FirstError) -> bool {
        let state = &mut self.0[usize::from(pe)];
        let whole = !state.mmio && !state.dma;
        *state = Pe { mmio: true, dma: true, first: if whole { Some(error) } else { state.first } };
        whole
    }

    /// What PESTA or PESTB reads as.
    pub(crate) fn read(&self, index: usize, dma: bool) -> u64 {
        let set = self.0.get(index).is_some_and(|pe| if dma { pe.dma } else { pe.mmio });
        if set { FROZEN } else { 0 }
    }

    /// A store to PESTA or PESTB.
    pub(crate) fn write(&mut self, index: usize, dma: bool, value: u64) {
        let Some(pe) = self.0.get_mut(index) else { return };
        let set = value & FROZEN != 0;
        if dma {
            pe.dma = set;
        } else {
            pe.mmio = set;
        }
        if !pe.mmio && !pe.dma {
            pe.first = None;
        }
    }

    /// A word of PEEV: a bit for each of 64 PEs, the first in the book's bit 0.
    pub(crate) fn summary(&self, index: usize) -> u64 {
        let pes = self.0.iter().skip(64 * index).take(64).enumerate();
        pes.filter(|(_, pe)| pe.mmio || pe.dma).fold(0, |word, (number, _)| word | bit(number as u32))
    }
}
