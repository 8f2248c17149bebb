//! The invalidation queue of a VT-d unit, for who changes what a driver puts there ([`commands`](super::commands)).
//!
//! Offsets and codes are typed from the book, not taken from `spec`.
//!
//! Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface", 11.4.9 "Invalidation Queue Registers".

use std::sync::{Mutex, PoisonError};

use portcullis::types::Pa;

use super::commands::{Queue, Words};

/// Where a PC has its unit.
pub const VTD_BASE: u64 = 0xfed9_0000;

/// Offsets of registers.
pub mod offset {
    /// IQT_REG.
    pub const IQT: u64 = 0x88;
    /// IQA_REG.
    pub const IQA: u64 = 0x90;
    /// PRS_REG.
    pub const PRS: u64 = 0xdc;
}

/// Types of descriptors: bits 3:0 of the first word; bits 11:9, the rest of the type, are 0 in all of them.
pub mod kind {
    /// Device TLB, without a PASID.
    pub const DEVICE_TLB: u64 = 0x3;
    /// IOTLB, by domain.
    pub const IOTLB: u64 = 0x2;
    /// IOTLB, by PASID.
    pub const PASID_IOTLB: u64 = 0x6;
    /// PASID cache.
    pub const PASID_CACHE: u64 = 0x7;
    /// Device TLB, by PASID.
    pub const PASID_DEVICE_TLB: u64 = 0x8;
    /// Page group response.
    pub const PAGE_RESPONSE: u64 = 0x9;
}

/// A descriptor's type.
pub fn type_of(words: Words) -> u64 {
    words[0] & 0xf
}

/// The invalidation queue.
#[derive(Debug, Default)]
pub struct InvalidationQueue(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    base: u64,
    /// A power of two.
    bytes: u64,
    entry_bytes: u64,
    tail: u64,
}

impl Queue for InvalidationQueue {
    /// A wait that writes no status, interrupts nobody and fences nothing.
    const NOTHING: Words = [0x5, 0];

    fn written(&self, at: Pa, value: u64) -> Vec<Pa> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match at.get().checked_sub(VTD_BASE) {
            // QS, 2:0, counts pages as log2; DW, 11, says that descriptors have 256 bits.
            Some(offset::IQA) => {
                known.base = value & !0xfff;
                known.bytes = 0x1000 << (value & 7);
                known.entry_bytes = if value >> 11 & 1 == 1 { 32 } else { 16 };
                Vec::new()
            }
            // QT: 18:4, an offset.
            Some(offset::IQT) if known.bytes > 0 => {
                let tail = value & 0x7_fff0;
                let (from, mask) = (core::mem::replace(&mut known.tail, tail), known.bytes - 1);
                let count = (tail.wrapping_sub(from) & mask) / known.entry_bytes;
                let at = |index| known.base + ((from + index * known.entry_bytes) & mask);
                (0..count).map(|index| Pa::new(at(index))).collect()
            }
            _ => Vec::new(),
        }
    }
}
