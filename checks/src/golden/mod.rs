//! Golden words: where the books put each bit, typed by hand.
//!
//! Nothing here is computed from, or shared with, the code that is checked: a mask is a literal, read off the
//! book by someone who had not seen `portcullis-spec`. One misread bit there therefore meets a second reading here.
//!
//! A [`Field`] is one field as the book names and numbers it, a [`Table`] all fields of one structure, command or
//! record, a [`Register`] a table with a place. The tests in `tests/golden_*.rs` hold the types against them.
//!
//! Not here: what the fields do.

mod accessor;
pub mod ioda2;
pub mod scenes;
pub mod smmuv2;
pub mod smmuv3;
pub mod vmsa;
pub mod vtd;

pub use accessor::{Accessor, Bits, hold};

/// One field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The book's name for it.
    pub name: &'static str,
    /// Its most significant bit, as the book counts, from the start of the structure.
    pub msb: u32,
    /// Its least significant bit, likewise.
    pub lsb: u32,
    /// The 64-bit word that holds it when all its bits are one and all others zero. A literal.
    pub ones: u64,
}

impl Field {
    /// Which 64-bit word of the structure holds the field.
    pub const fn word(&self) -> usize {
        (self.lsb / 64) as usize
    }

    /// The field's value in `words` of the structure, moved down to bit 0.
    pub fn of(&self, words: &[u64]) -> u64 {
        (words[self.word()] & self.ones) >> (self.lsb % 64)
    }

    /// The largest value that fits.
    pub const fn max(&self) -> u64 {
        self.ones >> (self.lsb % 64)
    }
}

/// Shorthand for a row of a table.
const fn f(name: &'static str, msb: u32, lsb: u32, ones: u64) -> Field {
    Field { name, msb, lsb, ones }
}

/// The fields of one structure, command, record or register.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The book's name for it.
    pub name: &'static str,
    /// Number and title of the section it was read in.
    pub clause: &'static str,
    /// The value in bits `[7:0]` that names it, for commands and event records.
    pub code: Option<u8>,
    /// The fields, in the book's order, lowest bit first.
    pub fields: &'static [Field],
    /// Bits that the book calls reserved, word by word. As long as the structure.
    pub res0: &'static [u64],
}

impl Table {
    /// The field called `name`.
    ///
    /// # Panics
    ///
    /// If the book has no such field here: a slip in the test that asks.
    pub fn field(&self, name: &str) -> &'static Field {
        self.fields
            .iter()
            .find(|field| field.name == name)
            .unwrap_or_else(|| panic!("{} has no field {name}", self.name))
    }

    /// The structure with all bits of `field` one and all others zero; `N` words.
    pub fn only<const N: usize>(&self, field: &Field) -> [u64; N] {
        let mut words = [0; N];
        words[field.word()] = field.ones;
        words
    }

    /// The structure with all bits one but those of `field`, and reserved ones; `N` words.
    pub fn all_but<const N: usize>(&self, field: &Field) -> [u64; N] {
        let mut words = core::array::from_fn(|i| !self.res0[i]);
        words[field.word()] &= !field.ones;
        words
    }
}

/// Shorthand for a table without a code.
const fn table(
    name: &'static str,
    clause: &'static str,
    fields: &'static [Field],
    res0: &'static [u64],
) -> Table {
    Table { name, clause, code: None, fields, res0 }
}

/// A register: its place and its fields.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// Offset in bytes from the start of the SMMU's page 0. Page 1 starts at 0x1_0000.
    pub offset: u64,
    /// Width in bytes, 4 or 8.
    pub bytes: u64,
    /// Its fields.
    pub table: Table,
}
