//! The words of Intel's VT-d: registers, table entries, descriptors, fault records.
//!
//! Everything here is a layout under the book's own names. Structures of several 64-bit words are one type per word (`ContextWord0`, …); hardware
//! reads entries of 128 bits in one piece, and larger ones in pieces of 128 bits.
//!
//! | file | what | book |
//! |---|---|---|
//! | [`registers`] | offsets; global command, root table, register-based invalidation, events, protected memory | 11.4 "Register Descriptions" |
//! | [`capability`] | the two capability registers | 11.4.2, 11.4.3 |
//! | [`queue`] | registers of the invalidation queue and the page request queue | 11.4.9, 11.4.11 |
//! | [`context`] | root and context entries, legacy and scalable mode | 9.1 to 9.4 |
//! | [`pasid`] | PASID directory and PASID table entries | 9.5, 9.6 |
//! | [`invalidation`] | invalidation and wait descriptors | 6.5.2 "Queued Invalidation Interface" |
//! | [`page_request`] | page request and page group response descriptors | 7.4.1, 7.6.1 |
//! | [`fault`] | fault status, fault records and fault reasons | 11.4.7, 7.1.3 |
//! | [`interrupt`] | interrupt remapping table entries and remappable requests | 9.9, 9.10, 5.1.2.2 |
//!
//! Spec: VT-d 5.10, Order Number D51397-018. Host permission tables, performance monitoring, MTRRs, enhanced and virtual commands are left as reserved.
//!
//! Not here: what any of it does; paging entries (`pgtable::vtd`).

/// Whole addresses for a field that holds an address without its 12 low bits.
macro_rules! page_pointer {
    ($word:ident, $get:ident, $with:ident => $get_address:ident, $with_address:ident) => {
        impl $word {
            /// With the pointer to the page at `address`, whose low 12 bits are dropped.
            pub const fn $with_address(self, address: u64) -> Self {
                self.$with(address >> 12)
            }

            /// The address of the page pointed to.
            pub const fn $get_address(self) -> u64 {
                self.$get() << 12
            }
        }
    };
}

pub mod capability;
pub mod context;
pub mod fault;
pub mod interrupt;
pub mod invalidation;
pub mod page_request;
pub mod pasid;
pub mod queue;
pub mod registers;

/// AW: a second-stage table of 3 levels, 39 bits.
///
/// Spec: VT-d 5.10, 9.3 "Context Entry", AW; 9.6 "Scalable-Mode PASID Table Entry", AW.
pub const AW_39: u8 = 0b001;
/// AW: a second-stage table of 4 levels, 48 bits.
pub const AW_48: u8 = 0b010;
/// AW: a second-stage table of 5 levels, 57 bits.
pub const AW_57: u8 = 0b011;

/// How many bits of address an AW field, or the number of a bit of SAGAW, stands for; none for a reserved value.
///
/// Spec: VT-d 5.10, 11.4.2 "Capability Register", SAGAW.
pub const fn address_width_bits(aw: u8) -> Option<u8> {
    match aw {
        AW_39 => Some(39),
        AW_48 => Some(48),
        AW_57 => Some(57),
        _ => None,
    }
}

/// The first address of the window that interrupt requests are written to; nothing is translated there.
///
/// Spec: VT-d 5.10, 5.1 "Interrupt Remapping".
pub const INTERRUPT_WINDOW_FIRST: u64 = 0xfee0_0000;
/// The last address of the window that interrupt requests are written to.
pub const INTERRUPT_WINDOW_LAST: u64 = 0xfeef_ffff;
