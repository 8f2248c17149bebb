//! Reserved regions: which addresses of a device or a group are not for mappings as others are.
//!
//! A device's list is its IOMMU driver's and then firmware's, as they are; a group's list is its devices' lists, merged and sorted.
//!
//! Observed: Linux 7.3, `iommu_insert_resv_region` and `iommu_group_show_resv_regions`: what merges, and the text.

use alloc::vec::Vec;
use core::fmt;

use crate::iommu::{ReservedKind, ReservedRegion};

/// The regions of several devices as one list: sorted by start, then kind. Regions of the same kind that overlap or touch become
/// one, with the protection of the one that begins first; regions of different kinds stay apart, even where they overlap.
pub fn merge(regions: impl IntoIterator<Item = ReservedRegion>) -> Vec<ReservedRegion> {
    let mut sorted: Vec<ReservedRegion> = regions.into_iter().collect();
    sorted.sort_by_key(|region| (region.range.first(), region.kind));
    let mut merged: Vec<ReservedRegion> = Vec::with_capacity(sorted.len());
    for region in sorted {
        // The last one of a kind is the only one of it that a later start can touch.
        let same_kind = merged.iter_mut().rev().find(|held| held.kind == region.kind);
        match same_kind.filter(|held| held.range.touches(region.range)) {
            Some(held) => held.range = held.range.hull(region.range),
            None => merged.push(region),
        }
    }
    merged
}

/// A region as a line of `reserved_regions` in sysfs, without the line's end: first and last address, kind.
#[derive(Clone, Copy, Debug)]
pub struct SysfsLine<'a>(pub &'a ReservedRegion);

impl fmt::Display for SysfsLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReservedRegion { range, kind, .. } = self.0;
        write!(f, "{:#018x} {:#018x} {}", range.first(), range.last(), kind.sysfs_name())
    }
}

impl ReservedKind {
    /// Whether the region is mapped 1:1 before a device is attached to a domain of the kernel's.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectRelaxable)
    }

    /// Whether a user must leave the region alone. Not where firmware gives it up when a user takes the device.
    pub const fn binds_users(self) -> bool {
        !matches!(self, Self::DirectRelaxable)
    }

    /// Whether the DMA API must leave the region alone. Doorbells it maps where it likes.
    pub const fn binds_dma_api(self) -> bool {
        !matches!(self, Self::SoftwareMsi)
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use portcullis_types::{Iova, IovaRange, Perms, Prot};

    use super::*;
    use crate::iommu::RegionSource;

    fn region(first: u64, last: u64, kind: ReservedKind) -> ReservedRegion {
        let range = IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap();
        ReservedRegion { range, kind, prot: Prot::default(), source: RegionSource::Iommu }
    }

    use ReservedKind::{Direct, Msi, Reserved, SoftwareMsi};

    #[test]
    fn only_regions_of_one_kind_that_overlap_or_touch_merge() {
        let merged = merge([
            region(0x5000, 0x5fff, Reserved),
            region(0x1000, 0x1fff, Direct),
            region(0x2000, 0x2fff, Direct),
            region(0x2800, 0x4fff, Reserved),
            region(0x7000, 0x7fff, Direct),
        ]);
        let wanted = [
            region(0x1000, 0x2fff, Direct),
            region(0x2800, 0x5fff, Reserved),
            region(0x7000, 0x7fff, Direct),
        ];
        assert_eq!(merged, wanted);
    }

    #[test]
    fn a_region_of_another_kind_in_between_does_not_keep_two_apart() {
        let merged =
            merge([region(0, 0x4fff, Direct), region(0x1000, 0x1fff, Msi), region(0x5000, 0x5fff, Direct)]);
        assert_eq!(merged, [region(0, 0x5fff, Direct), region(0x1000, 0x1fff, Msi)]);
    }

    #[test]
    fn the_merged_region_keeps_the_first_ones_protection_and_the_larger_end() {
        let mut first = region(0x1000, 0x8fff, Direct);
        first.prot = Prot::cached(Perms::READ);
        let merged = merge([region(0x2000, 0x2fff, Direct), first.clone()]);
        assert_eq!(merged, [first]);
    }

    #[test]
    fn regions_that_start_together_are_sorted_by_kind() {
        let merged = merge([region(0, 1, SoftwareMsi), region(0, 1, Reserved), region(0, 5, Direct)]);
        assert_eq!(
            merged.iter().map(|region| region.kind).collect::<Vec<_>>(),
            [Direct, Reserved, SoftwareMsi]
        );
    }

    #[test]
    fn a_line_reads_as_in_sysfs() {
        let software_msi = region(0x800_0000, 0x80f_ffff, SoftwareMsi);
        assert_eq!(format!("{}", SysfsLine(&software_msi)), "0x0000000008000000 0x00000000080fffff msi");
        let direct = region(0, u64::MAX, ReservedKind::DirectRelaxable);
        assert_eq!(
            format!("{}", SysfsLine(&direct)),
            "0x0000000000000000 0xffffffffffffffff direct-relaxable"
        );
    }
}
