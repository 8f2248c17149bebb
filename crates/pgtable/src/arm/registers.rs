//! The register values that go with a table: what a CPU is told (TCR, TTBR) and what an SMMU's descriptors share with it.
//!
//! A table of one process is walked by both. What is said here is said once: the codes of granules and of address sizes are the same in
//! TCR, CD and STE; TTBR alone has its own layout of 52-bit addresses.
//!
//! Spec: Arm ARM DDI 0487 M.a, D24.2 "TCR_EL1", "TTBR0_EL1"; SMMUv3 H.a, 5.4 "CD", TG0, IPS; 5.2 "STE", S2TG, S2PS.
//! Not here: the rest of a CD or an STE, which is the SMMU's.

use portcullis_types::{Pa, SizeLg2};

use super::{HardwareUpdate, Stage1};
use crate::Format;

/// How many bits of a physical address there can be, by their code in IPS, PS and their kin.
pub const ADDRESS_BITS: [u8; 7] = [32, 36, 40, 42, 44, 48, 52];

/// TCR: where walks go through caches as write-back, write-allocate memory, inner shareable.
const IRGN0_WRITE_BACK: u64 = 0b01 << 8;
const ORGN0_WRITE_BACK: u64 = 0b01 << 10;
const SH0_INNER: u64 = 0b11 << 12;
/// TCR: nothing is walked for the upper half.
const EPD1: u64 = 1 << 23;
const HA: u64 = 1 << 39;
const HD: u64 = 1 << 40;
const DS: u64 = 1 << 59;

/// The code of a granule in a TG0 or S2TG field: 0 for 4 KiB, 1 for 64 KiB, 2 for 16 KiB.
pub const fn granule_code(granule: SizeLg2) -> u8 {
    match granule {
        SizeLg2::KIB_64 => 0b01,
        SizeLg2::KIB_16 => 0b10,
        _ => 0b00,
    }
}

/// The code of an address size in an IPS or PS field: of the largest that is not above `bits`; 32 bits if there is none.
pub const fn address_code(bits: u8) -> u8 {
    let mut code = 0;
    while (code as usize) + 1 < ADDRESS_BITS.len() && ADDRESS_BITS[code as usize + 1] <= bits {
        code += 1;
    }
    code
}

/// The address part of TTBR0: where addresses have 52 bits, those above 48 lie in bits 5:2.
pub const fn ttbr(root: Pa, wide: bool) -> u64 {
    let root = root.get();
    if wide { root & 0xffff_ffff_ffff | (root >> 48 & 0xf) << 2 } else { root }
}

impl Stage1 {
    /// IPS of a TCR or a CD.
    pub fn ips(&self) -> u8 {
        address_code(self.config().output_bits)
    }

    /// Whether addresses have 52 bits, so that TTBR has the layout for them.
    pub fn wide(&self) -> bool {
        self.config().large || self.output_bits() == 52
    }

    /// TCR for tables that the CPU's caches serve, with the upper half switched off; of the marks, the CPU sets those that the tables have and
    /// `able` says it can. AS, the size of ASIDs, is the caller's.
    pub fn tcr(&self, able: HardwareUpdate) -> u64 {
        let update = match able.min(self.config().hardware_update) {
            HardwareUpdate::None => 0,
            HardwareUpdate::Access => HA,
            HardwareUpdate::AccessAndDirty => HA | HD,
        };
        let shape = u64::from(self.t0sz()) | u64::from(self.tg0()) << 14 | u64::from(self.ips()) << 32;
        let large = if self.config().large { DS } else { 0 };
        shape | large | update | EPD1 | IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER
    }
}
