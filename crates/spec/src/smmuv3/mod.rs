//! The words of Arm's SMMUv3: registers, table entries, commands, event records.
//!
//! Everything here is a layout under the book's own names: a field is where the book says, and a value is what the book
//! calls it. Structures of several 64-bit words are one type per word (`SteWord0`, `CdWord0`, …), since a word is
//! what hardware reads in one piece.
//!
//! | file | what | book |
//! |---|---|---|
//! | [`registers`] | offsets and fields of the Non-secure register pages | 6.3 "Register formats" |
//! | [`tables`] | L1STD, STE, L1CD, CD | 5 "Data structure formats" |
//! | [`command`] | entries of the command queue | 4 "Commands" |
//! | [`event`] | records of the event queue | 7.3 "Event records" |
//! | [`page_request`] | records of the PRI queue | 8 "Page request queue" |
//!
//! Spec: SMMUv3, ARM IHI 0070 H.a; where that edition does not differ, read in G.b. Fields for Secure and Realm state, for MPAM, DPT and
//! 128-bit descriptors are left as reserved.
//!
//! Not here: what any of it does (the driver in `smmuv3`, the model in `models/smmuv3`).

pub mod command;
pub mod event;
pub mod page_request;
pub mod registers;
pub mod tables;

/// Memory attribute of an access that the SMMU makes itself: Normal memory, not cached.
///
/// Spec: SMMUv3 H.a, 6.3.11 "SMMU_CR1", TABLE_OC; the same encoding serves CR1.QUEUE_{IC,OC}.
pub const CACHE_NON_CACHEABLE: u8 = 0b00;
/// Memory attribute of an access that the SMMU makes itself: Normal memory, write-back cached.
pub const CACHE_WRITE_BACK: u8 = 0b01;
/// Memory attribute of an access that the SMMU makes itself: Normal memory, write-through cached.
pub const CACHE_WRITE_THROUGH: u8 = 0b10;

/// Shareability: not shared.
pub const SHARE_NON: u8 = 0b00;
/// Shareability: outer shareable.
pub const SHARE_OUTER: u8 = 0b10;
/// Shareability: inner shareable.
pub const SHARE_INNER: u8 = 0b11;

/// STE.MemAttr and its kin: Device-nGnRnE memory.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", MemAttr.
pub const MEM_ATTR_DEVICE_NGNRNE: u8 = 0b0000;
/// STE.MemAttr and its kin: Device-nGnRE memory.
pub const MEM_ATTR_DEVICE_NGNRE: u8 = 0b0001;
/// STE.MemAttr and its kin: Normal memory, inner and outer non-cacheable.
pub const MEM_ATTR_NON_CACHEABLE: u8 = 0b0101;
/// STE.MemAttr and its kin: Normal memory, inner and outer write-back.
pub const MEM_ATTR_WRITE_BACK: u8 = 0b1111;

/// The number of address bits that an OAS, IPS or S2PS field stands for; none for a reserved encoding.
///
/// Spec: SMMUv3 H.a, 6.3.6 "SMMU_IDR5", OAS.
pub const fn address_bits(field: u8) -> Option<u8> {
    match field {
        0b000 => Some(32),
        0b001 => Some(36),
        0b010 => Some(40),
        0b011 => Some(42),
        0b100 => Some(44),
        0b101 => Some(48),
        0b110 => Some(52),
        0b111 => Some(56),
        _ => None,
    }
}
