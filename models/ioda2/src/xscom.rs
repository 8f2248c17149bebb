//! The bridge from the chip's side: what firmware reaches through XSCOM, whether or not the bridge answers by memory.
//!
//! Three runs of registers of 64 bits, numbered from 0: the nest's (BARs, interrupt numbers, errors), PCI's (reset), and SPCI's (a way to the bridge's registers that
//! stays open when it is fenced).
//!
//! Observed: QEMU 7.2, hw/pci-host/pnv_phb3_pbcq.c; skiboot hw/phb3.c, phb3_fenced, phb3_creset, phb3_init_hw; include/phb3.h, phb3_read_reg_asb.
//! Choice: BARs and their enables are kept, and decide nothing: where the model answers, the machine says.

use crate::bits::{Field, bit};

/// Which run of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The nest's.
    Nest,
    /// PCI's.
    Pci,
    /// SPCI's.
    Spci,
}

const NFIR: u64 = 0x00;
const NFIR_AND: u64 = 0x01;
const NFIR_OR: u64 = 0x02;
const IRSN_COMPARE: u64 = 0x1a;
const IRSN_MASK: u64 = 0x1b;
const LSI_SOURCE: u64 = 0x1f;
const MMIO_BAR_0: u64 = 0x40;
const MMIO_MASK_1: u64 = 0x44;
const PHB_BAR: u64 = 0x42;
const BAR_ENABLE: u64 = 0x45;
const ETU_RESET: u64 = 0x0a;
const PCI_BAR_2: u64 = 0x0b;
pub(crate) const ASB_ADDRESS: u64 = 0;
const ASB_STATUS: u64 = 1;
pub(crate) const ASB_DATA: u64 = 2;

/// NFIR: the bridge is fenced.
const FENCED: u64 = bit(16);
/// Errors that fence it. Observed: skiboot hw/phb3.c, phb3_err_check_pbcq, classes DEAD and FENCED.
const FENCING: u64 = 0x7e7d_c700_0000_0000 | 0x0180_00f8_0000_0000;
const IRSN: Field = Field::new(0, 18);

/// What a store makes necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// The bridge was put into reset.
    Reset,
    /// A BAR was changed while it is on.
    LiveBar,
}

#[derive(Clone, Debug)]
pub(crate) struct Xscom {
    nest: Vec<u64>,
    pci: Vec<u64>,
    spci: Vec<u64>,
}

impl Xscom {
    pub(crate) fn new() -> Self {
        Self { nest: vec![0; 0x46], pci: vec![0; 0x15], spci: vec![0; 5] }
    }

    /// Fenced: only SPCI reaches the registers, and no device's access passes.
    pub(crate) fn fenced(&self) -> bool {
        self.nest[NFIR as usize] & FENCED != 0
    }

    /// Held in reset.
    pub(crate) fn in_reset(&self) -> bool {
        self.pci[ETU_RESET as usize] & bit(0) != 0
    }

    /// The number of the bridge's source 0 in the machine.
    pub(crate) fn interrupt_base(&self) -> u32 {
        IRSN.get(self.nest[IRSN_COMPARE as usize]) as u32
    }

    pub(crate) fn asb_address(&self) -> u64 {
        self.spci[ASB_ADDRESS as usize]
    }

    pub(crate) fn read(&self, unit: Unit, register: u64) -> u64 {
        let registers = match unit {
            Unit::Nest => &self.nest,
            Unit::Pci => &self.pci,
            Unit::Spci => &self.spci,
        };
        registers.get(register as usize).copied().unwrap_or(0)
    }

    pub(crate) fn write(&mut self, unit: Unit, register: u64, value: u64) -> Effect {
        match unit {
            Unit::Nest => self.write_nest(register, value),
            Unit::Pci => self.write_pci(register, value),
            Unit::Spci => {
                match register {
                    ASB_ADDRESS => self.spci[ASB_ADDRESS as usize] = value & 0xfff,
                    ASB_STATUS => self.spci[ASB_STATUS as usize] &= !value,
                    _ => store(&mut self.spci, register, value),
                }
                Effect::None
            }
        }
    }

    fn write_nest(&mut self, register: u64, value: u64) -> Effect {
        let on = self.nest[BAR_ENABLE as usize];
        let kept = match register {
            NFIR => value,
            NFIR_AND => self.nest[NFIR as usize] & value,
            NFIR_OR => self.nest[NFIR as usize] | value,
            MMIO_BAR_0..=MMIO_MASK_1 if register != PHB_BAR => value & !0x3fff_ffff,
            PHB_BAR => value & !0x3ff_ffff,
            BAR_ENABLE => value & 0xf800_0000_0000_0000,
            IRSN_COMPARE | IRSN_MASK => value & IRSN.in_place(),
            LSI_SOURCE => value & Field::new(0, 7).in_place(),
            _ => value,
        };
        match register {
            NFIR | NFIR_AND | NFIR_OR => {
                let fenced = if kept & FENCING != 0 { FENCED } else { 0 };
                self.nest[NFIR as usize] = kept | fenced;
            }
            _ => store(&mut self.nest, register, kept),
        }
        let live = match register {
            PHB_BAR => on & bit(2) != 0,
            MMIO_BAR_0..=MMIO_MASK_1 => on & (bit(0) | bit(1)) != 0,
            _ => false,
        };
        if live { Effect::LiveBar } else { Effect::None }
    }

    fn write_pci(&mut self, register: u64, value: u64) -> Effect {
        let was = self.in_reset();
        store(&mut self.pci, register, if register == PCI_BAR_2 { value & !0x3ff_ffff } else { value });
        if self.in_reset() && !was { Effect::Reset } else { Effect::None }
    }
}

fn store(registers: &mut [u64], register: u64, value: u64) {
    if let Some(place) = registers.get_mut(register as usize) {
        *place = value;
    }
}
