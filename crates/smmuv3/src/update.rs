//! Changing an entry that the hardware may be reading: a pure plan, and a runner.
//!
//! The hardware may fetch an entry at any time, in pieces of 64 bits, in any order, and keep the pieces until it is told to forget them. A
//! plan is a short row of *images* of the entry. From one image to the next either only bits change that the hardware does not look at, or
//! one word alone changes; between two images the hardware is made to forget the entry. So it sees the old entry or the new one.
//!
//! 1. Bits that nobody looks at under the old entry are set as the new one wants them.
//! 2. If what remains differs in one word, that word is the switch.
//! 3. What the new entry does not look at is cleaned up.
//!
//! If more than one word remains, there is no way without a moment in which the entry is invalid, which aborts traffic on purpose: V is cleared, the
//! rest is written, V is set.
//!
//! Spec: SMMUv3 H.a, 3.21.3 "Configuration structures and configuration invalidation completion", 3.21.3.1 "Configuration structure update
//! procedure".
//! Not here: which bits an entry uses (`entry`).

use core::array;

use portcullis_types::mutant;

/// The images that lead from one entry to another, in order; each is written, and then forgotten by the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan<const N: usize> {
    images: [Option<[u64; N]>; 3],
    /// Whether the entry is valid all the time, if it is before and after.
    hitless: bool,
}

impl<const N: usize> Plan<N> {
    /// The images. The first differs from the entry as it was; each differs from the one before.
    pub fn images(&self) -> impl Iterator<Item = &[u64; N]> {
        self.images.iter().flatten()
    }

    /// Whether the hardware sees the old entry or the new one at every moment, and nothing else.
    pub fn is_hitless(&self) -> bool {
        self.hitless
    }

    /// How many times the hardware must forget the entry.
    pub fn syncs(&self) -> usize {
        self.images().count()
    }
}

/// Plans the way from `now` to `next`. `used` answers the bits that the hardware looks at in an entry; the entry is invalid if the bits of
/// `valid` are clear in its first word.
pub fn plan<const N: usize>(
    now: &[u64; N],
    next: &[u64; N],
    valid: u64,
    used: impl Fn(&[u64; N]) -> [u64; N],
) -> Plan<N> {
    let live = used(now);
    let wanted = used(next);
    let staged: [u64; N] = array::from_fn(|word| now[word] & live[word] | next[word] & !live[word]);
    let mut differing = (0..N).filter(|&word| (staged[word] ^ next[word]) & wanted[word] != 0);
    match (differing.next(), differing.next()) {
        (None, _) => in_order(now, [*next, *next, *next], true),
        (Some(word), None) => {
            let mut switched = staged;
            switched[word] = next[word];
            in_order(now, [staged, switched, *next], true)
        }
        (Some(_), Some(_)) if mutant!("entry-changed-word-by-word") => in_order(now, [*next; 3], true),
        (Some(_), Some(_)) => {
            let mut broken = *now;
            broken[0] &= !valid;
            let mut filled = *next;
            filled[0] &= !valid;
            in_order(now, [broken, filled, *next], false)
        }
    }
}

/// Drops every image that is the same as the one before it.
fn in_order<const N: usize>(now: &[u64; N], images: [[u64; N]; 3], hitless: bool) -> Plan<N> {
    let mut before = *now;
    let images = images.map(|image| {
        let changes = image != before;
        before = image;
        changes.then_some(image)
    });
    Plan { images, hitless }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small entry: V and a kind in word 0, and a kind says which other bits are looked at.
    fn used(entry: &[u64; 3]) -> [u64; 3] {
        match entry[0] & 0b111 {
            kind if kind & 1 == 0 => [1, 0, 0],
            0b001 => [0b111, 0, 0],
            0b011 => [0b1111, 0b11, 0],
            0b101 => [0b111, 0b01, 0b11],
            _ => [0b111, 0b11, 0b11],
        }
    }

    fn meaning(entry: &[u64; 3]) -> [u64; 3] {
        let used = used(entry);
        array::from_fn(|word| entry[word] & used[word])
    }

    /// Everything that hardware can read while the changed words of a step are stored one by one, in any order, and while it still has
    /// some words from before.
    fn mixtures(from: [u64; 3], to: [u64; 3]) -> impl Iterator<Item = [u64; 3]> {
        (0..8u32)
            .map(move |pick| array::from_fn(|word| if pick >> word & 1 == 1 { to[word] } else { from[word] }))
    }

    #[test]
    fn at_every_moment_the_hardware_sees_old_or_new_or_invalid() {
        let entries =
            || (0..16u64).flat_map(|a| (0..4u64).flat_map(move |b| (0..4u64).map(move |c| [a, b, c])));
        for now in entries() {
            for next in entries() {
                let plan = plan(&now, &next, 1, used);
                let mut from = now;
                for &image in plan.images() {
                    for seen in mixtures(from, image) {
                        let right = meaning(&seen) == meaning(&now) || meaning(&seen) == meaning(&next);
                        let invalid = seen[0] & 1 == 0;
                        assert!(right || invalid && !plan.is_hitless(), "{now:?} {next:?} {seen:?} {plan:?}");
                    }
                    from = image;
                }
                assert_eq!(from, next);
            }
        }
    }

    #[test]
    fn nothing_to_change_is_no_step() {
        assert_eq!(plan(&[7, 1, 2], &[7, 1, 2], 1, used).syncs(), 0);
    }
}
