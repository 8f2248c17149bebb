//! The three address spaces, one type each.

use core::fmt;

/// What the three kinds of address have in common.
///
/// Sealed in spirit: code that is generic over it (a range, a walker) never mixes two spaces.
pub trait Address: Copy + Ord + fmt::Debug + fmt::LowerHex {
    /// The address with this number.
    fn new(address: u64) -> Self;
    /// The number of the address.
    fn get(self) -> u64;
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this number.
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// The number of the address.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// This address plus `offset_bytes`; none if that is beyond 64 bits.
            pub const fn checked_add(self, offset_bytes: u64) -> Option<Self> {
                match self.0.checked_add(offset_bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// This address less `offset_bytes`; none if that is below zero.
            pub const fn checked_sub(self, offset_bytes: u64) -> Option<Self> {
                match self.0.checked_sub(offset_bytes) {
                    Some(difference) => Some(Self(difference)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `align_bytes`, a power of two.
            pub const fn is_aligned(self, align_bytes: u64) -> bool {
                debug_assert!(align_bytes.is_power_of_two());
                self.0 & (align_bytes - 1) == 0
            }

            /// The greatest multiple of `align_bytes`, a power of two, that is not above this address.
            pub const fn align_down(self, align_bytes: u64) -> Self {
                debug_assert!(align_bytes.is_power_of_two());
                Self(self.0 & !(align_bytes - 1))
            }

            /// How far the address lies beyond the multiple of `align_bytes` below it.
            pub const fn offset_in(self, align_bytes: u64) -> u64 {
                debug_assert!(align_bytes.is_power_of_two());
                self.0 & (align_bytes - 1)
            }
        }

        impl Address for $name {
            fn new(address: u64) -> Self {
                Self(address)
            }

            fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An address as a device puts it on the bus: the input of translation.
    Iova
}
address! {
    /// An intermediate physical address: the output of stage 1 where a stage 2 follows.
    Gpa
}
address! {
    /// A physical address: where memory or a register answers.
    Pa
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_do_not_wrap() {
        assert_eq!(Iova::new(u64::MAX).checked_add(1), None);
        assert_eq!(Iova::new(0).checked_sub(1), None);
        assert_eq!(Iova::new(0x1000).checked_add(0x234), Some(Iova::new(0x1234)));
    }

    #[test]
    fn alignment_looks_at_the_low_bits_only() {
        let address = Pa::new(0x1_2345);
        assert_eq!(address.align_down(0x1000), Pa::new(0x1_2000));
        assert_eq!(address.offset_in(0x1000), 0x345);
        assert!(!address.is_aligned(2) && address.is_aligned(1));
    }
}
