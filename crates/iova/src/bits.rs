//! Sixty-four things in a word: finding aligned runs, and comparing sixty-four small numbers at once.

/// Bit `n` set for every multiple `n` of `1 << order`, order 0 to 6.
const ALIGNED: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// Where the aligned runs of `1 << order` ones begin, order 0 to 6.
pub(crate) fn aligned_runs(ones: u64, order: u32) -> u64 {
    let mut starts = ones;
    for done in 0..order as usize {
        starts &= starts >> (1 << done);
        starts &= ALIGNED[done + 1];
    }
    starts
}

/// The highest aligned run of `1 << order` ones: its first bit.
pub(crate) fn highest_aligned_run(ones: u64, order: u32) -> Option<u32> {
    aligned_runs(ones, order).checked_ilog2()
}

/// The order of the longest aligned run of ones; none if there are no ones.
pub(crate) fn longest_aligned_run(ones: u64) -> Option<u8> {
    let mut starts = ones;
    let mut order = 0u8;
    while order < 6 {
        starts = starts & starts >> (1 << order) & ALIGNED[usize::from(order) + 1];
        if starts == 0 {
            break;
        }
        order += 1;
    }
    (ones != 0).then_some(order)
}

/// The lowest `count` bits, 0 to 64.
pub(crate) fn low_bits(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Bits `first..=last`, both at most 63.
pub(crate) fn bits(first: u32, last: u32) -> u64 {
    low_bits(last + 1) & !low_bits(first)
}

/// Sixty-four numbers below 128.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) [u8; 64]);

const TOPS: u64 = 0x8080_8080_8080_8080;

impl Bytes {
    /// The highest place below `end` (at most 64) whose number is at least `least` (1 to 127).
    pub(crate) fn highest_at_least(&self, least: u8, end: u32) -> Option<u32> {
        let subtrahend = u64::from(least) * ALIGNED[3];
        let mut group = end.div_ceil(8);
        // Bytes of the first group at or above `end` do not count.
        let mut counted = low_bits(8 * (end - 8 * group.saturating_sub(1)));
        while group > 0 {
            group -= 1;
            // No borrow passes between bytes: each has its top bit set before, and loses less than 128.
            let reached = ((self.eight(group) | TOPS) - subtrahend) & TOPS & counted;
            if let Some(top) = reached.checked_ilog2() {
                return Some(8 * group + top / 8);
            }
            counted = u64::MAX;
        }
        None
    }

    /// A bit for each place whose number is exactly `value`.
    pub(crate) fn equal_to(&self, value: u8) -> u64 {
        let pattern = u64::from(value) * ALIGNED[3];
        (0..8).fold(0, |mask, group| {
            // Equal bytes become 0, and only those do not reach the top bit when 127 is added.
            let differs = ((self.eight(group) ^ pattern) + !TOPS) & TOPS;
            // The top bits of the eight bytes, side by side in the top byte.
            let equal = (((!differs & TOPS) >> 7).wrapping_mul(0x0102_0408_1020_4080)) >> 56;
            mask | equal << (8 * group)
        })
    }

    /// The greatest number.
    pub(crate) fn greatest(&self) -> u8 {
        self.0.iter().copied().fold(0, u8::max)
    }

    fn eight(&self, group: u32) -> u64 {
        let at = 8 * group as usize;
        self.0[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "places are below 64")]
mod tests {
    use super::*;

    fn runs_by_counting(ones: u64, order: u32) -> impl DoubleEndedIterator<Item = u32> {
        let len = 1u32 << order;
        (0..64 / len)
            .map(move |index| index * len)
            .filter(move |&first| (first..first + len).all(|bit| ones >> bit & 1 == 1))
    }

    /// Words of every texture, from a fixed seed.
    fn words() -> impl Iterator<Item = u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let dense = move |index: usize| match index % 4 {
            0 => next(),
            1 => next() | next() | next(),
            2 => !(next() & next() & next() & next()),
            _ => next() & next(),
        };
        [0, u64::MAX, 1, 1 << 63, 0xffff_ffff].into_iter().chain((0..2000).map(dense))
    }

    #[test]
    fn aligned_runs_agree_with_counting() {
        for ones in words() {
            for order in 0..=6 {
                assert_eq!(
                    highest_aligned_run(ones, order),
                    runs_by_counting(ones, order).next_back(),
                    "{ones:#x} {order}"
                );
            }
            let longest =
                (0..=6u8).rev().find(|&order| runs_by_counting(ones, order.into()).next().is_some());
            assert_eq!(longest_aligned_run(ones), longest, "{ones:#x}");
        }
    }

    #[test]
    fn bytes_agree_with_looking_one_by_one() {
        for word in words() {
            let mut bytes = [0; 64];
            (0..64).for_each(|at| bytes[at] = (word.rotate_left(at as u32) % 61) as u8);
            let bytes = Bytes(bytes);
            for least in [1, 2, 30, 60, 61, 127] {
                for end in [0, 1, 7, 8, 9, 33, 63, 64] {
                    let slow = (0..end).rev().find(|&at| bytes.0[at as usize] >= least);
                    assert_eq!(bytes.highest_at_least(least, end), slow);
                }
            }
            assert_eq!(bytes.greatest(), *bytes.0.iter().max().unwrap());
            let equal = (0..64).filter(|&at| bytes.0[at] == 30).fold(0, |mask, at| mask | 1u64 << at);
            assert_eq!(bytes.equal_to(30), equal);
        }
    }

    #[test]
    fn masks_reach_both_ends() {
        assert_eq!((low_bits(0), low_bits(64), bits(0, 63), bits(63, 63)), (0, u64::MAX, u64::MAX, 1 << 63));
        assert_eq!(bits(4, 7), 0xf0);
    }
}
