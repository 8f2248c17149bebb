//! Nested translation: a guest's own table in front of a user's domain.
//!
//! An address that a device sends goes through two tables. The first is the guest's: it lies in the guest's memory, the guest's kernel writes it, and what it makes of
//! an address is guest-physical. The second is that of the *parent*, an unmanaged domain that was made for this
//! ([`Domain::new_parent`](crate::domain::Domain::new_parent)) and that the guest's monitor fills with the guest's memory. Hardware reads the guest's table through
//! the parent as well: the address of its root and those in its entries are guest-physical.
//!
//! # What holds
//!
//! 1. *The parent has the last word.* Whatever stands in the guest's table, what the parent does not map is not reached, neither by the device nor by a walk of
//!    the guest's table; and what the parent maps for reading alone is not written.
//! 2. *The parent outlives what is nested in it.* A nested domain holds on to its parent, and it is the parent of no other from the day it is made: it can be
//!    mapped, unmapped, and have devices attached to it as before.
//! 3. *Unmapping is two promises here too.* What is unmapped in the parent is reached by nobody any more when the parent's sync has succeeded: the driver makes
//!    hardware, device TLBs included, forget what it derived from it for each nested domain.
//! 4. *A guest that changes its table says so.* An entry that was not valid may become valid without a word. After any other change hardware may go on by what stood
//!    there until [`NestedDomain::invalidate`] has returned with success; that is what a guest's own invalidations become.
//! 5. *It is a user's domain.* It is attached and left by the same rules as an unmanaged one ([`owner`](crate::owner)).
//! 6. *Reserved regions hold in the parent.* Those of a device that is attached to a nested domain bind the parent's user as if the device were attached to the parent.
//!    A doorbell that is mapped for the device is mapped in the parent; that the guest's table leads there is the guest's affair. Where hardware decodes messages it
//!    does so before either table.
//! 7. *Faults are the nested domain's.* Those of either table are told to its fault handler, with the address that the device sent: the guest's.
//!
//! Observed: Linux 6.12, IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HWPT_INVALIDATE: the same division between parent and nested.
//!
//! Not here: making such domains (`domain`), PASIDs (a guest's table is for requests without), system calls.

use core::any::Any;

use portcullis_types::{Gpa, IovaRange, PageSizes, SizeLg2};

use crate::iommu::SyncError;

/// A guest's table, as it would tell its own IOMMU to walk it. Addresses are guest-physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuestTable {
    /// The lower half of a VMSAv8-64 stage 1.
    ///
    /// Spec: Arm ARM DDI 0487, D8 "The AArch64 Virtual Memory System Architecture".
    Vmsa64 {
        /// The table of the first level.
        root: Gpa,
        /// The translation granule.
        granule: SizeLg2,
        /// How many low bits of an address are translated: 64 - T0SZ.
        input_bits: u8,
        /// How many bits a guest-physical address has at most (IPS).
        output_bits: u8,
        /// The memory kinds that entries refer to by index (MAIR).
        mair: u64,
    },
    /// The paging structures of x86-64.
    ///
    /// Spec: Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging".
    X86 {
        /// The table of the first level.
        root: Gpa,
        /// 4 or 5.
        levels: u8,
        /// The memory kinds that entries refer to by index (IA32_PAT).
        pat: u64,
        /// Whether read-only entries hold for privileged accesses too (CR0.WP).
        write_protect: bool,
        /// Whether hardware notes in an entry's bit 10, besides the accessed flag, that a device used it.
        extended_accessed: bool,
    },
}

/// Which guests' tables an IOMMU can walk before a parent's; by default, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuestTables {
    /// Those of VMSAv8-64; none if it cannot.
    pub vmsa64: Option<Vmsa64Tables>,
    /// Those of x86-64; none if it cannot.
    pub x86: Option<X86Tables>,
}

/// Which tables of VMSAv8-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vmsa64Tables {
    /// With these granules.
    pub granules: PageSizes,
    /// With at most so many bits of an address.
    pub input_bits: u8,
    /// With at most so many bits of a guest-physical address.
    pub output_bits: u8,
}

/// Which tables of x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X86Tables {
    /// With at most so many levels: 4 or 5.
    pub levels: u8,
    /// Also with the extended accessed flag.
    pub extended_accessed: bool,
}

/// What hardware is to forget of a guest's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestInvalidation {
    /// All of it.
    All,
    /// What it knows of these addresses.
    Range {
        /// Which, as the device sends them.
        range: IovaRange,
        /// Only entries that map something were changed, none that leads to another table.
        leaves_only: bool,
    },
}

/// Why there is no nested domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NestedError {
    /// The IOMMU, or its driver, or the way in which it is used, has no nested translation. EINVAL.
    Unsupported,
    /// The parent was not made to be one. EINVAL.
    NotParent,
    /// The parent belongs to another IOMMU. EINVAL.
    ForeignParent,
    /// The IOMMU walks no tables of this format. EINVAL.
    Format,
    /// It does not walk tables of so many levels. EINVAL.
    Levels(u8),
    /// It does not walk tables of this granule. EINVAL.
    Granule(SizeLg2),
    /// It does not walk tables of so many bits of an address. EINVAL.
    InputBits(u8),
    /// It does not walk tables of so many bits of a guest-physical address, or that is no number that a table can say. EINVAL.
    OutputBits(u8),
    /// It has no extended accessed flag. EINVAL.
    ExtendedAccessed,
    /// The memory kinds include one that there is not. EINVAL.
    MemoryKinds(u64),
    /// The root is not where a root can be: it is misaligned, or outside what the parent can map. EINVAL.
    Root(Gpa),
    /// The same table is nested in the same parent already, and walked in another way. EINVAL.
    Conflict(Gpa),
    /// Every address space id is in use. ENOSPC.
    NoIds,
    /// No memory. ENOMEM.
    NoMemory,
}

/// A guest's table before a parent's, in the driver's hands. Sources can be attached to it ([`Target::Nested`](crate::iommu::Target::Nested)).
pub trait NestedDomain: Any + Send + Sync {
    /// Makes hardware forget what it read from the guest's table, device TLBs included, and waits until it has.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm, and may go on by what stood there before.
    fn invalidate(&self, what: GuestInvalidation) -> Result<(), SyncError>;

    /// For the driver, to see that a domain is its own kind.
    fn as_any(&self) -> &dyn Any;
}

impl GuestTable {
    /// Where its first level lies.
    pub const fn root(&self) -> Gpa {
        match *self {
            Self::Vmsa64 { root, .. } | Self::X86 { root, .. } => root,
        }
    }
}

impl GuestTables {
    /// Whether any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For drivers: holds a guest's words against what hardware walks and what the parent can map. What passes makes no entry or register say what it must not say.
    ///
    /// # Errors
    ///
    /// As [`NestedError`] says: the first thing that is wrong.
    pub fn check(&self, table: &GuestTable, parent: IovaRange) -> Result<(), NestedError> {
        if self.is_empty() {
            return Err(NestedError::Unsupported);
        }
        let root_bytes = match *table {
            GuestTable::Vmsa64 { granule, input_bits, output_bits, .. } => {
                let walks = self.vmsa64.ok_or(NestedError::Format)?;
                walks.check(granule, input_bits, output_bits)?
            }
            GuestTable::X86 { levels, pat, extended_accessed, .. } => {
                self.x86.ok_or(NestedError::Format)?.check(levels, pat, extended_accessed)?
            }
        };
        let first = portcullis_types::Iova::new(table.root().get());
        let root = IovaRange::new(first, root_bytes).filter(|root| parent.covers(*root));
        match root {
            Some(_) if first.is_aligned(root_bytes.max(SMALLEST_ROOT)) => Ok(()),
            _ => Err(NestedError::Root(table.root())),
        }
    }
}

/// No root is aligned to less than this many bytes.
///
/// Spec: Arm ARM DDI 0487, D8.2.3 "Translation table base address register", BADDR.
const SMALLEST_ROOT: u64 = 64;

impl Vmsa64Tables {
    /// Answers how many bytes the root has.
    fn check(&self, granule: SizeLg2, input_bits: u8, output_bits: u8) -> Result<u64, NestedError> {
        if !self.granules.contains(granule) {
            return Err(NestedError::Granule(granule));
        }
        // Spec: Arm ARM DDI 0487, D8.1.6 "Implemented input address size", T0SZ: 16 to 39.
        if !(25..=48.min(self.input_bits)).contains(&input_bits) {
            return Err(NestedError::InputBits(input_bits));
        }
        if !matches!(output_bits, 32 | 36 | 40 | 42 | 44 | 48) || output_bits > self.output_bits {
            return Err(NestedError::OutputBits(output_bits));
        }
        let index_bits = granule.get() - 3;
        let below_root = (input_bits - granule.get() - 1) / index_bits * index_bits;
        Ok(8 << (input_bits - granule.get() - below_root))
    }
}

impl X86Tables {
    /// Answers how many bytes the root has.
    fn check(&self, levels: u8, pat: u64, extended_accessed: bool) -> Result<u64, NestedError> {
        if !(4..=self.levels).contains(&levels) {
            return Err(NestedError::Levels(levels));
        }
        if extended_accessed && !self.extended_accessed {
            return Err(NestedError::ExtendedAccessed);
        }
        // Spec: Intel SDM volume 3A, 12.12.2 "IA32_PAT MSR", Table 12-10: 2, 3 and above 7 are reserved.
        if pat.to_le_bytes().iter().any(|kind| !matches!(kind, 0 | 1 | 4..=7)) {
            return Err(NestedError::MemoryKinds(pat));
        }
        Ok(0x1000)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_types::Iova;

    use super::*;

    const WALKS: GuestTables = GuestTables {
        vmsa64: Some(Vmsa64Tables {
            granules: PageSizes::from_bits(0).with(SizeLg2::KIB_4).with(SizeLg2::KIB_64),
            input_bits: 48,
            output_bits: 40,
        }),
        x86: Some(X86Tables { levels: 4, extended_accessed: false }),
    };

    fn check(table: GuestTable) -> Result<(), NestedError> {
        WALKS.check(&table, IovaRange::from_ends(Iova::new(0), Iova::new((1 << 39) - 1)).unwrap())
    }

    fn vmsa64(root: u64, granule: SizeLg2, input_bits: u8, output_bits: u8) -> GuestTable {
        GuestTable::Vmsa64 { root: Gpa::new(root), granule, input_bits, output_bits, mair: 0 }
    }

    fn x86(root: u64, levels: u8, pat: u64, extended_accessed: bool) -> GuestTable {
        GuestTable::X86 { root: Gpa::new(root), levels, pat, write_protect: true, extended_accessed }
    }

    #[test]
    fn what_hardware_does_not_walk_is_refused_by_what_it_is() {
        let pat = 0x0007_0406_0007_0406;
        assert_eq!(check(x86(0x1000, 4, pat, false)), Ok(()));
        assert_eq!(check(x86(0x1000, 5, pat, false)), Err(NestedError::Levels(5)));
        assert_eq!(check(x86(0x1000, 3, pat, false)), Err(NestedError::Levels(3)));
        assert_eq!(check(x86(0x1000, 4, pat, true)), Err(NestedError::ExtendedAccessed));
        for kind in [2, 3, 8, 0x16, 0xff] {
            assert_eq!(check(x86(0x1000, 4, kind, false)), Err(NestedError::MemoryKinds(kind)));
        }
        let kib_4 = SizeLg2::KIB_4;
        assert_eq!(check(vmsa64(0x1000, kib_4, 48, 40)), Ok(()));
        assert_eq!(
            check(vmsa64(0x1_0000, SizeLg2::KIB_16, 47, 40)),
            Err(NestedError::Granule(SizeLg2::KIB_16))
        );
        assert_eq!(check(vmsa64(0x1000, kib_4, 49, 40)), Err(NestedError::InputBits(49)));
        assert_eq!(check(vmsa64(0x1000, kib_4, 24, 40)), Err(NestedError::InputBits(24)));
        assert_eq!(check(vmsa64(0x1000, kib_4, 48, 44)), Err(NestedError::OutputBits(44)));
        assert_eq!(check(vmsa64(0x1000, kib_4, 48, 39)), Err(NestedError::OutputBits(39)));
        let none = GuestTables::default().check(&x86(0x1000, 4, pat, false), IovaRange::all());
        assert_eq!(none, Err(NestedError::Unsupported));
        let other = GuestTables { x86: None, ..WALKS }.check(&x86(0x1000, 4, pat, false), IovaRange::all());
        assert_eq!(other, Err(NestedError::Format));
    }

    #[test]
    fn a_root_lies_on_a_multiple_of_itself_within_what_the_parent_can_map() {
        let refused = |root: u64| Err(NestedError::Root(Gpa::new(root)));
        for root in [0x1800, 1 << 39, (1 << 39) - 0x800, u64::MAX & !0xfff] {
            assert_eq!(check(x86(root, 4, 0, false)), refused(root), "{root:#x}");
            assert_eq!(check(vmsa64(root, SizeLg2::KIB_4, 48, 40)), refused(root), "{root:#x}");
        }
        assert_eq!(check(x86((1 << 39) - 0x1000, 4, 0, false)), Ok(()), "the last page");
        // 39 bits of 4 KiB pages are three full levels; 40 are one more of two entries; 33 are three of which the first has eight.
        assert_eq!(check(vmsa64(0x800, SizeLg2::KIB_4, 39, 40)), refused(0x800));
        assert_eq!(check(vmsa64(0x40, SizeLg2::KIB_4, 40, 40)), Ok(()));
        assert_eq!(check(vmsa64(0x20, SizeLg2::KIB_4, 40, 40)), refused(0x20));
        assert_eq!(check(vmsa64(0x40, SizeLg2::KIB_4, 33, 40)), Ok(()));
        // 42 bits of 64 KiB pages are two full levels, 48 one more of 64 entries.
        assert_eq!(check(vmsa64(0x8000, SizeLg2::KIB_64, 42, 40)), refused(0x8000));
        assert_eq!(check(vmsa64(0x200, SizeLg2::KIB_64, 48, 40)), Ok(()));
        assert_eq!(check(vmsa64(0x100, SizeLg2::KIB_64, 48, 40)), refused(0x100));
    }
}
