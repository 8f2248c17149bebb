//! Holding a type's getters and setters against golden masks, in both directions.

use super::Table;

/// A value that a getter gives or a setter takes.
pub trait Bits: Sized {
    /// From a plain number that fits.
    fn from_u64(value: u64) -> Self;
    /// As a plain number.
    fn to_u64(self) -> u64;
}

impl Bits for bool {
    fn from_u64(value: u64) -> Self {
        value != 0
    }
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
}

impl Bits for u64 {
    fn from_u64(value: u64) -> Self {
        value
    }
    fn to_u64(self) -> u64 {
        self
    }
}

macro_rules! narrow_bits {
    ($($ty:ty)*) => {$(
        impl Bits for $ty {
            fn from_u64(value: u64) -> Self {
                Self::try_from(value).expect("a field's value fits its type")
            }
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
        }
    )*};
}
narrow_bits!(u8 u16 u32);

/// The getter and the setter of a field, or of several neighbouring ones, of one word.
pub struct Accessor {
    /// The book's names of the fields that it covers.
    pub names: &'static [&'static str],
    /// The word `base` with the field set to a value.
    pub set: fn(base: u64, value: u64) -> u64,
    /// The field's value in a word.
    pub get: fn(word: u64) -> u64,
}

/// Pairs the book's names with the getters and setters of a type with `from_bits` and `into_bits`.
#[macro_export]
macro_rules! accessors {
    ($word:ty; $($($name:literal)+ => $get:ident $with:ident,)*) => {
        &[$($crate::golden::Accessor {
            names: &[$($name),+],
            set: |base, value| {
                let word = <$word>::from_bits($crate::golden::Bits::from_u64(base));
                $crate::golden::Bits::to_u64(word.$with($crate::golden::Bits::from_u64(value)).into_bits())
            },
            get: |word| {
                $crate::golden::Bits::to_u64(<$word>::from_bits($crate::golden::Bits::from_u64(word)).$get())
            },
        }),*]
    };
}

/// Holds the accessors of word `word` of a structure against the table.
///
/// Each field: setting it in an empty word gives exactly the golden mask, clearing it in a full word exactly its
/// complement; in the golden mask it reads as all ones, in the complement as zero. Every field that the book has in
/// this word must have an accessor or be named in `left_out`. `all_ones` is the widest word, for types of 32 bits.
///
/// # Panics
///
/// Where one of that does not hold.
pub fn hold(table: &Table, word: usize, all_ones: u64, accessors: &[Accessor], left_out: &[&str]) {
    for accessor in accessors {
        let fields = || accessor.names.iter().map(|name| table.field(name));
        let what = || format!("{} ({}), {}", table.name, table.clause, accessor.names.join("+"));
        assert!(fields().all(|field| field.word() == word), "{}: in word {word}", what());
        let ones = fields().fold(0, |mask, field| mask | field.ones);
        let shift = ones.trailing_zeros();
        let max = ones >> shift;
        assert_eq!((accessor.set)(0, max), ones, "{}: set", what());
        assert_eq!((accessor.set)(all_ones, 0), all_ones & !ones, "{}: cleared", what());
        assert_eq!((accessor.get)(ones), max, "{}: read where only it is set", what());
        assert_eq!((accessor.get)(all_ones & !ones), 0, "{}: read where all but it is set", what());
    }
    for field in table.fields.iter().filter(|field| field.word() == word) {
        let covered = accessors.iter().any(|accessor| accessor.names.contains(&field.name));
        let left_out = left_out.contains(&field.name);
        assert!(covered != left_out, "{}.{}: held {covered}, left out {left_out}", table.name, field.name);
    }
}
