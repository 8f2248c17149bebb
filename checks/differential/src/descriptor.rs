//! What a word in a translation table is: its kind, for counting, and how the generator makes one.
//!
//! This is a third reading of the book beside the model's and QEMU's. It decides nothing: if it were wrong, the counts
//! would be of the wrong thing, and a kind would have none.
//!
//! Spec: Arm DDI 0487, D8.3 "Translation table descriptor formats".

/// Which stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Stage 1.
    One,
    /// Stage 2.
    Two,
}

/// The size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granule {
    /// 4 KiB.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

impl Granule {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kib4, Self::Kib16, Self::Kib64];

    /// log2 of the size.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Kib4 => 12,
            Self::Kib16 => 14,
            Self::Kib64 => 16,
        }
    }

    /// Bits of address that a level resolves.
    pub const fn stride(self) -> u32 {
        self.bits() - 3
    }

    /// log2 of what an entry of `level` covers.
    pub fn shift(self, level: i8) -> u32 {
        self.bits() + u32::from((3 - level).unsigned_abs()) * self.stride()
    }

    /// The levels at which a block may lie, without 52-bit addresses.
    pub const fn block_levels(self) -> &'static [i8] {
        match self {
            Self::Kib4 => &[1, 2],
            Self::Kib16 | Self::Kib64 => &[2],
        }
    }

    /// How many entries a contiguous group has at `level`; 1 if there are none.
    pub const fn contiguous(self, level: i8) -> u64 {
        match (self, level) {
            (Self::Kib4, 1..=3) => 16,
            (Self::Kib16, 2) | (Self::Kib64, 2 | 3) => 32,
            (Self::Kib16, 3) => 128,
            _ => 1,
        }
    }

    /// The code in TG0 and S2TG.
    pub const fn code0(self) -> u64 {
        match self {
            Self::Kib4 => 0,
            Self::Kib64 => 1,
            Self::Kib16 => 2,
        }
    }

    /// The code in TG1.
    pub const fn code1(self) -> u64 {
        match self {
            Self::Kib16 => 1,
            Self::Kib4 => 2,
            Self::Kib64 => 3,
        }
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kib4 => "4K",
            Self::Kib16 => "16K",
            Self::Kib64 => "64K",
        }
    }
}

/// What a descriptor is, as far as it is counted. A word may be several of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Bit 0 clear.
    Invalid,
    /// Bits 1:0 are 1 at level 3, which is reserved.
    Reserved,
    /// A block at a level that has none, which is reserved.
    MisplacedBlock,
    /// A table.
    Table,
    /// A table with limits for what is below it.
    LimitingTable,
    /// A block.
    Block,
    /// A page.
    Page,
    /// A leaf with the contiguous hint.
    Contiguous,
    /// A leaf whose access flag is clear.
    NotAccessed,
    /// AP or S2AP 0.
    Permission0,
    /// AP or S2AP 1.
    Permission1,
    /// AP or S2AP 2.
    Permission2,
    /// AP or S2AP 3.
    Permission3,
    /// A leaf with some XN.
    ExecuteNever,
    /// A leaf whose output is beyond 44 bits.
    BeyondOutput,
    /// A table that is beyond 44 bits.
    TableBeyondOutput,
}

impl Kind {
    /// Those of which QEMU has the same idea as the book, and of which a run must have seen enough.
    pub const COUNTED: [Self; 13] = [
        Self::Invalid,
        Self::Reserved,
        Self::Table,
        Self::Block,
        Self::Page,
        Self::Contiguous,
        Self::NotAccessed,
        Self::Permission0,
        Self::Permission1,
        Self::Permission2,
        Self::Permission3,
        Self::ExecuteNever,
        Self::BeyondOutput,
    ];

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Reserved => "reserved at level 3",
            Self::MisplacedBlock => "block at a level without",
            Self::Table => "table",
            Self::LimitingTable => "table with limits",
            Self::Block => "block",
            Self::Page => "page",
            Self::Contiguous => "contiguous",
            Self::NotAccessed => "access flag clear",
            Self::Permission0 => "AP 0",
            Self::Permission1 => "AP 1",
            Self::Permission2 => "AP 2",
            Self::Permission3 => "AP 3",
            Self::ExecuteNever => "execute never",
            Self::BeyondOutput => "output beyond 44 bits",
            Self::TableBeyondOutput => "table beyond 44 bits",
        }
    }
}

/// The output address, 47:12.
pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// AF.
pub const AF: u64 = 1 << 10;
/// nG.
pub const NG: u64 = 1 << 11;
/// Contiguous.
pub const CONTIGUOUS: u64 = 1 << 52;

/// What the word `raw` in a table of `stage`, `granule` and `level` is.
pub fn kinds(stage: Stage, granule: Granule, level: i8, raw: u64) -> Vec<Kind> {
    let _ = stage;
    let leaf = match (raw & 3, level) {
        (0 | 2, _) => return vec![Kind::Invalid],
        (1, 3) => return vec![Kind::Reserved],
        (3, 3) => Kind::Page,
        (3, _) => {
            let mut kinds = vec![Kind::Table];
            if raw >> 59 != 0 {
                kinds.push(Kind::LimitingTable);
            }
            if raw & ADDRESS >> granule.bits() << granule.bits() >= 1 << 44 {
                kinds.push(Kind::TableBeyondOutput);
            }
            return kinds;
        }
        _ if !granule.block_levels().contains(&level) => return vec![Kind::MisplacedBlock],
        _ => Kind::Block,
    };
    let permission = [Kind::Permission0, Kind::Permission1, Kind::Permission2, Kind::Permission3];
    let mut kinds = vec![leaf, permission[usize::try_from(raw >> 6 & 3).unwrap_or(0)]];
    let flags = [
        (raw & CONTIGUOUS != 0 && granule.contiguous(level) > 1, Kind::Contiguous),
        (raw & AF == 0, Kind::NotAccessed),
        (raw >> 53 & 3 != 0, Kind::ExecuteNever),
        (raw & ADDRESS >= 1 << 44, Kind::BeyondOutput),
    ];
    kinds.extend(flags.into_iter().filter(|flag| flag.0).map(|flag| flag.1));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_what_its_level_makes_of_it() {
        let of = |level, raw| kinds(Stage::One, Granule::Kib4, level, raw);
        assert_eq!(of(3, 0x4800_0743), [Kind::Page, Kind::Permission1]);
        assert_eq!(of(2, 0x4800_0743), [Kind::Table]);
        assert_eq!(
            of(2, 0x0040_0000_4800_0381),
            [Kind::Block, Kind::Permission2, Kind::NotAccessed, Kind::ExecuteNever]
        );
        assert_eq!(of(3, 0x4800_0741), [Kind::Reserved]);
        assert_eq!(of(0, 0x4800_0741), [Kind::MisplacedBlock]);
        assert_eq!(of(1, 0xffff_ffff_ffff_fffe), [Kind::Invalid]);
    }
}
