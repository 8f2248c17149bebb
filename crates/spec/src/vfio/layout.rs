//! Structures as bytes.

/// A structure of so many bytes, each field at its offset; bytes between fields are zero when written and ignored when read.
macro_rules! layout {
    (
        $(#[$doc:meta])*
        pub struct $name:ident: $bytes:literal {
            $( $(#[$field_doc:meta])* $field:ident: $kind:ident @ $at:literal, )+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $kind, )+
        }

        impl $name {
            /// How many bytes it takes.
            pub const BYTES: usize = $bytes;

            /// What the bytes say, in the CPU's byte order.
            pub fn from_bytes(bytes: &[u8; $bytes]) -> Self {
                const { $( assert!($at % size_of::<$kind>() == 0 && $at + size_of::<$kind>() <= $bytes); )+ }
                Self { $( $field: $kind::from_ne_bytes(core::array::from_fn(|at| bytes[$at + at])), )+ }
            }

            /// The bytes that say so, in the CPU's byte order.
            pub fn to_bytes(&self) -> [u8; $bytes] {
                let mut bytes = [0; $bytes];
                $( bytes[$at..$at + size_of::<$kind>()].copy_from_slice(&self.$field.to_ne_bytes()); )+
                bytes
            }
        }
    };
}

/// Flags in a word of 32 bits, of which unknown ones can be seen.
macro_rules! flags {
    (
        $(#[$doc:meta])*
        pub struct $name:ident {
            $( $(#[$flag_doc:meta])* $flag:ident = $bit:literal, )+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl $name {
            $( $(#[$flag_doc])* pub const $flag: u32 = 1 << $bit; )+
            /// Every flag there is.
            pub const ALL_KNOWN: u32 = $( Self::$flag )|+;
        }
    };
}
