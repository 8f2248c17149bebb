//! One TCE: its bytes, and what they mean.

use portcullis_types::{Pa, Perms};

/// The bytes of a TCE as they lie in memory: big-endian, read is bit 0, write bit 1, the address bits 63:12.
///
/// Observed: QEMU hw/pci-host/pnv_phb3.c, `pnv_phb3_translate_tve`; Linux 4.20, `TCE_PCI_READ`, `TCE_PCI_WRITE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TceRaw(pub [u8; 8]);

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const ADDRESS: u64 = !0xfff;

/// What is mapped at an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TceEntry {
    /// Where the page lies.
    pub pa: Pa,
    /// What a device may do there.
    pub perms: Perms,
    /// The address by which the user knows the page; 0 in a table without that view.
    pub user: u64,
}

impl TceRaw {
    /// Nothing is there.
    pub const ABSENT: Self = Self([0; 8]);

    /// The entry of a page. One that may be written may be read as well: see [`TceTable`](super::TceTable).
    pub fn leaf(pa: Pa, perms: Perms) -> Self {
        let write = if perms.contains(Perms::WRITE) { READ | WRITE } else { 0 };
        let read = if perms.contains(Perms::READ) { READ } else { 0 };
        Self((pa.get() & ADDRESS | read | write).to_be_bytes())
    }

    /// The entry that leads to the next level at `pa`.
    ///
    /// Observed: Linux 4.20, `pnv_tce`: intermediate entries are read-write; QEMU refuses those that are neither.
    pub fn level(pa: Pa) -> Self {
        Self((pa.get() & ADDRESS | READ | WRITE).to_be_bytes())
    }

    /// What a device may do, and where the page lies; none if nothing is there.
    pub fn decode(self) -> Option<(Pa, Perms)> {
        let word = u64::from_be_bytes(self.0);
        let mut perms = Perms::empty();
        perms.set(Perms::READ, word & READ != 0);
        perms.set(Perms::WRITE, word & WRITE != 0);
        (!perms.is_empty()).then(|| (Pa::new(word & ADDRESS), perms))
    }

    /// The word by which table memory, which is little-endian, stores these bytes.
    pub(crate) fn word(self) -> u64 {
        u64::from_le_bytes(self.0)
    }

    /// The bytes that table memory's word stands for.
    pub(crate) fn from_word(word: u64) -> Self {
        Self(word.to_le_bytes())
    }
}
