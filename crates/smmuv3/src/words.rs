//! The words of an entry in memory, a stream's or a context descriptor: read, and changed.
//!
//! Both are functions of their own wherever they are called from: embedders ask what the driver weighs.
//!
//! Not here: what hardware may see meanwhile (`update`), and when it is made to forget (`attach`, `substreams`).

use portcullis_hal::Platform;
use portcullis_types::Pa;

/// Stream table entries and context descriptors have as many words. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", 5.4 "CD, Context Descriptor".
const WORDS: usize = 8;

/// The words of the entry at `at`.
#[inline(never)]
pub(crate) fn read<P: Platform>(platform: &P, at: Pa) -> [u64; WORDS] {
    core::array::from_fn(|word| platform.load(Pa::new(at.get() + 8 * word as u64)))
}

/// Stores the words of the entry at `at` in which `next` differs from `now`, where hardware that is not `coherent` sees them, too.
#[inline(never)]
pub(crate) fn write<P: Platform>(
    platform: &P,
    coherent: bool,
    at: Pa,
    now: &[u64; WORDS],
    next: &[u64; WORDS],
) {
    for (word, (_, &value)) in (0u64..).zip(now.iter().zip(next)).filter(|(_, (now, next))| now != next) {
        let at = Pa::new(at.get() + 8 * word);
        platform.store(at, value);
        if !coherent {
            platform.clean_table(at, 8);
        }
    }
}
