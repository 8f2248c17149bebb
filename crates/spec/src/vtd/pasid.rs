//! PASID directory and PASID table entries.
//!
//! Bits 19:6 of a PASID choose an entry of the directory, bits 5:0 one of the 64 of a table.
//!
//! Spec: VT-d 5.10, 9.5 "Scalable-Mode PASID Directory Entry", 9.6 "Scalable-Mode PASID Table Entry".

use bitfield_struct::bitfield;

/// Bytes of a PASID directory entry.
pub const DIRECTORY_ENTRY_BYTES: u64 = 8;
/// Bytes of a PASID table entry.
pub const PASID_ENTRY_BYTES: u64 = 64;
/// 64-bit words of a PASID table entry. Words 6 and 7 are reserved.
pub const PASID_ENTRY_WORDS: usize = 8;

/// Scalable-mode PASID directory entry.
///
/// Spec: VT-d 5.10, 9.5 "Scalable-Mode PASID Directory Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidDirectoryEntry {
    /// P: present.
    pub p: bool,
    /// FPD: faults are not recorded; counts also where the entry is not present.
    pub fpd: bool,
    #[bits(10)]
    __: u16,
    /// SMPTBLPTR: bits 63:12 of the PASID table's address.
    #[bits(52)]
    pub smptblptr: u64,
}
page_pointer!(PasidDirectoryEntry, smptblptr, with_smptblptr => smptblptr_address, with_smptblptr_address);

/// PGTT: the first stage translates.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry", PGTT.
pub const PGTT_FIRST_STAGE: u8 = 0b001;
/// PGTT: the second stage translates.
pub const PGTT_SECOND_STAGE: u8 = 0b010;
/// PGTT: both stages translate.
pub const PGTT_NESTED: u8 = 0b011;
/// PGTT: requests pass.
pub const PGTT_PASS_THROUGH: u8 = 0b100;

/// FSPM: first-stage tables have 4 levels.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry", FSPM.
pub const FSPM_4_LEVELS: u8 = 0b00;
/// FSPM: first-stage tables have 5 levels.
pub const FSPM_5_LEVELS: u8 = 0b01;

/// Scalable-mode PASID table entry, bits 63:0.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord0 {
    /// P: present.
    pub p: bool,
    /// FPD: faults are not recorded; counts also where the entry is not present.
    pub fpd: bool,
    /// AW: [`AW_39`](super::AW_39) and its kin, for the second stage.
    #[bits(3)]
    pub aw: u8,
    __: bool,
    /// [`PGTT_FIRST_STAGE`] and its kin.
    #[bits(3)]
    pub pgtt: u8,
    /// SSADE: accessed and dirty flags in second-stage tables.
    pub ssade: bool,
    #[bits(2)]
    __: u8,
    /// SSPTPTR: bits 63:12 of the second-stage table's address.
    #[bits(52)]
    pub ssptptr: u64,
}
page_pointer!(PasidWord0, ssptptr, with_ssptptr => ssptptr_address, with_ssptptr_address);

/// Scalable-mode PASID table entry, bits 127:64.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord1 {
    /// DID: the domain-id.
    pub did: u16,
    #[bits(7)]
    __: u8,
    /// PWSNP: walks snoop.
    pub pwsnp: bool,
    /// PGSNP: requests snoop whatever else is said.
    pub pgsnp: bool,
    /// CD: nothing is cached, for devices in the processor's coherency domain.
    pub cd: bool,
    /// EMTE: the memory types in second-stage leaves count.
    pub emte: bool,
    #[bits(5)]
    __: u8,
    /// PAT: eight memory types of 4 bits each.
    pub pat: u32,
}

/// Scalable-mode PASID table entry, bits 191:128.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord2 {
    /// SRE: privileged requests are processed.
    pub sre: bool,
    __: bool,
    /// [`FSPM_4_LEVELS`] and its kin.
    #[bits(2)]
    pub fspm: u8,
    /// WPE: privileged writes to read-only pages are blocked.
    pub wpe: bool,
    /// IGN: software's.
    #[bits(2)]
    pub ign: u8,
    /// EAFE: extended accessed flags in first-stage tables.
    pub eafe: bool,
    #[bits(4)]
    __: u8,
    /// FSPTPTR: bits 63:12 of the first-stage table's address.
    #[bits(52)]
    pub fsptptr: u64,
}
page_pointer!(PasidWord2, fsptptr, with_fsptptr => fsptptr_address, with_fsptptr_address);

/// Scalable-mode PASID table entry, bits 319:256: the host permission table. Word 3 is reserved.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord4 {
    /// HPTSZ: how large its root is.
    #[bits(2)]
    pub hptsz: u8,
    /// HPTPFD: nothing of it is prefetched.
    pub hptpfd: bool,
    #[bits(9)]
    __: u16,
    /// HPTPTR: bits 63:12 of its root's address.
    #[bits(52)]
    pub hptptr: u64,
}
page_pointer!(PasidWord4, hptptr, with_hptptr => hptptr_address, with_hptptr_address);

/// Scalable-mode PASID table entry, bits 383:320.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord5 {
    /// HPTDID: the domain-id of the host permission table.
    pub hptdid: u16,
    #[bits(48)]
    __: u64,
}
