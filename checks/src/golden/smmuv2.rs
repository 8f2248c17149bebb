//! The registers of SMMUv2. All masks are typed by hand from the book's bit numbers.
//!
//! Spec: SMMUv2, ARM IHI 0062D.c. Numbers and titles stand at each table. For MMU-500 ARM DDI 0517F.
//! Not here: registers of Secure software, address translation operations, performance monitors, formats of AArch32's schemes.

mod banks;
mod global;

pub use banks::{
    BANK_OFFSETS, FSR, FSYNR0, SCTLR, STAGE2_TCR, TCR, TCR2, TLBIIPAS2, TLBIVA, TLBSTATUS, TTBR,
};
pub use global::{
    ACR, ACTLR, CBA2R, CBAR, CBFRSYNRA, CR0, EXTENDED_SMR, GFSR, GFSYNR0, GLOBAL_OFFSETS, IDR0, IDR1, IDR2,
    IDR7, NESTED_CBAR, S2CR, SMR, TLBGSTATUS,
};
