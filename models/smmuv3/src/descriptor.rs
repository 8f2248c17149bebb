//! Translation table descriptors of the 64-bit format, both stages.
//!
//! Spec: Arm DDI 0487, D8.3 "Translation table descriptor formats", D8.4 "Memory access control".

use crate::geometry::{Granule, LAST_LEVEL};
use crate::ste::{field, flag};

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    Invalid,
    /// Points to the table of the next level.
    Table {
        next: u64,
    },
    /// A block or a page; the address is the first byte it maps.
    Leaf {
        output: u64,
    },
}

/// How the bits of a descriptor are to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) granule: Granule,
    /// DS: the small granules carry 52 bits.
    pub(crate) ds: bool,
    /// The implementation has 52 bits of output address, so that 64 KiB descriptors carry them.
    pub(crate) wide_64k: bool,
}

impl Format {
    fn large(self) -> bool {
        if self.granule == Granule::Kib64 { self.wide_64k } else { self.ds }
    }

    /// The address in a descriptor, from bit `low` on.
    fn address(self, raw: u64, low: u32) -> u64 {
        match self.granule {
            Granule::Kib64 if self.wide_64k => field(raw, 47, low) << low | field(raw, 15, 12) << 48,
            Granule::Kib4 | Granule::Kib16 if self.ds => field(raw, 49, low) << low | field(raw, 9, 8) << 50,
            _ => field(raw, 47, low) << low,
        }
    }

    /// Reads a descriptor found at `level`.
    pub(crate) fn decode(self, raw: u64, level: i8) -> Descriptor {
        match (raw & 3, level) {
            (3, LAST_LEVEL) => Descriptor::Leaf { output: self.address(raw, self.granule.bits()) },
            (3, _) => Descriptor::Table { next: self.address(raw, self.granule.bits()) },
            (1, level) if self.granule.block_at(level, self.large()) => {
                Descriptor::Leaf { output: self.address(raw, self.granule.shift(level)) }
            }
            _ => Descriptor::Invalid,
        }
    }
}

/// The limits that the tables above a leaf put on it. Spec: Arm DDI 0487, D8.4 "Memory access control", hierarchical control of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) no_unprivileged: bool,
    pub(crate) read_only: bool,
    pub(crate) unprivileged_execute_never: bool,
    pub(crate) privileged_execute_never: bool,
}

impl Hierarchy {
    /// These limits and those of one more table descriptor.
    pub(crate) fn under(self, table: u64) -> Self {
        Self {
            no_unprivileged: self.no_unprivileged || flag(table, 61),
            read_only: self.read_only || flag(table, 62),
            unprivileged_execute_never: self.unprivileged_execute_never || flag(table, 60),
            privileged_execute_never: self.privileged_execute_never || flag(table, 59),
        }
    }
}

/// What one stage allows: a bit for each kind of access, unprivileged and privileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Rights(pub(crate) u8);

impl Rights {
    pub(crate) const ALL: Self = Self(0x3f);
    /// Bits of the unprivileged half; the privileged one lies three above.
    const READ: u8 = 1;
    const WRITE: u8 = 2;
    const EXECUTE: u8 = 4;

    fn half(read: bool, write: bool, execute: bool) -> u8 {
        let bit = |set, bit| if set { bit } else { 0 };
        bit(read, Self::READ) | bit(write, Self::WRITE) | bit(execute, Self::EXECUTE)
    }

    fn halves(unprivileged: u8, privileged: u8) -> Self {
        Self(unprivileged | privileged << 3)
    }

    /// All of it but the rights to write.
    pub(crate) fn without_writes(self) -> Self {
        Self(self.0 & !(Self::WRITE | Self::WRITE << 3))
    }

    /// The rights to write only.
    pub(crate) fn only_writes(self) -> Self {
        Self(self.0 & (Self::WRITE | Self::WRITE << 3))
    }

    /// Whether all of `needed` is allowed.
    pub(crate) fn allow(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// What an access needs.
    pub(crate) fn needed(kind: portcullis_types::AccessKind, privileged: bool) -> Self {
        use portcullis_types::AccessKind;
        let bit = match kind {
            AccessKind::Read => Self::READ,
            AccessKind::Write => Self::WRITE,
            AccessKind::Execute => Self::EXECUTE,
        };
        if privileged { Self::halves(0, bit) } else { Self::halves(bit, 0) }
    }

    /// What a walk needs of stage 2: a read, of data, whoever asked.
    pub(crate) const WALK: Self = Self(Self::READ);

    /// What the update of a stage 1 descriptor needs of stage 2.
    pub(crate) const UPDATE: Self = Self(Self::READ | Self::WRITE);

    /// Stage 1 permissions of a leaf.
    ///
    /// Spec: Arm DDI 0487, D8.4.1.2 "Stage 1 Direct permissions"; SMMUv3 H.a, 13.4.1 "Stage 1 page permissions".
    pub(crate) fn stage1(raw: u64, above: Hierarchy, one_privilege: bool, wxn: bool, pan: bool) -> Self {
        let writable = !flag(raw, 7) && !above.read_only;
        if one_privilege {
            // EL2: AP[1] is ignored and treated as 1, XN is bit 54; every access counts as privileged.
            let execute = !(flag(raw, 54) || above.unprivileged_execute_never || (wxn && writable));
            let all = Self::half(true, writable, execute);
            return Self::halves(all, all);
        }
        let unprivileged = flag(raw, 6) && !above.no_unprivileged;
        let user_write = unprivileged && writable;
        let user_execute = !(flag(raw, 54) || above.unprivileged_execute_never || (wxn && user_write));
        // "All EL0-writable regions are treated as being PXN."
        let never = flag(raw, 53) || above.privileged_execute_never || user_write || (wxn && writable);
        // PAN: privileged data accesses to what the unprivileged may reach are refused.
        let data = !(pan && unprivileged);
        Self::halves(
            Self::half(unprivileged, user_write, user_execute),
            Self::half(data, writable && data, !never),
        )
    }

    /// Stage 2 permissions of a leaf. Spec: Arm DDI 0487, D8.4.2 "Stage 2 permissions", S2AP, XN.
    pub(crate) fn stage2(raw: u64, execute_never_extended: bool) -> Self {
        let (read, write) = (flag(raw, 6), flag(raw, 7));
        let (unprivileged, privileged) = match (field(raw, 54, 53), execute_never_extended) {
            (0, _) | (1, false) => (true, true),
            (1, true) => (true, false),
            (3, true) => (false, true),
            _ => (false, false),
        };
        Self::halves(
            Self::half(read, write, read && unprivileged),
            Self::half(read, write, read && privileged),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_types::AccessKind::{Execute, Read, Write};

    const KIB4: Format = Format { granule: Granule::Kib4, ds: false, wide_64k: false };

    #[test]
    fn descriptors_are_read_as_the_architecture_says() {
        assert_eq!(KIB4.decode(0x0000_1234_5678_9703, 3), Descriptor::Leaf { output: 0x1234_5678_9000 });
        assert_eq!(KIB4.decode(0xf000_1234_5678_9003, 2), Descriptor::Table { next: 0x1234_5678_9000 });
        assert_eq!(KIB4.decode(0x0040_1234_567f_f701, 2), Descriptor::Leaf { output: 0x1234_5660_0000 });
        assert_eq!(KIB4.decode(0x0040_1234_567f_f701, 1), Descriptor::Leaf { output: 0x1234_4000_0000 });
        for (raw, level) in [(0x1000, 3), (0x1001, 3), (0x1002, 2), (0x1001, 0), (0x1001, -1)] {
            assert_eq!(KIB4.decode(raw, level), Descriptor::Invalid, "{raw:#x} at {level}");
        }
    }

    #[test]
    fn fifty_two_bits_lie_elsewhere_for_each_granule() {
        let wide = Format { granule: Granule::Kib64, ds: false, wide_64k: true };
        assert_eq!(wide.decode(0x0000_0000_0001_f403, 3), Descriptor::Leaf { output: 0x000f_0000_0001_0000 });
        assert_eq!(wide.decode(0x0000_0400_0000_a401, 1), Descriptor::Leaf { output: 0x000a_0400_0000_0000 });
        let ds = Format { ds: true, ..KIB4 };
        assert_eq!(ds.decode(0x0003_0000_0000_1303, 3), Descriptor::Leaf { output: 0x000f_0000_0000_1000 });
        assert_eq!(ds.decode(0x0000_0080_0000_0101, 0), Descriptor::Leaf { output: 0x0004_0080_0000_0000 });
    }

    /// Which of unprivileged read, write, execute, then privileged ones are allowed.
    fn rwx(rights: Rights) -> String {
        let letter = |kind, privileged, letter| {
            if rights.allow(Rights::needed(kind, privileged)) { letter } else { '-' }
        };
        [false, true]
            .into_iter()
            .flat_map(|p| [letter(Read, p, 'r'), letter(Write, p, 'w'), letter(Execute, p, 'x')])
            .collect()
    }

    #[test]
    fn stage_1_permissions_follow_the_table() {
        let free = Hierarchy::default();
        let s1 = |raw| rwx(Rights::stage1(raw, free, false, false, false));
        // AP[2:1]: 0 privileged RW; 1 all RW (then never privileged execute); 2 privileged RO; 3 all RO.
        assert_eq!(s1(0x000), "--xrwx");
        assert_eq!(s1(0x040), "rwxrw-");
        assert_eq!(s1(0x080), "--xr-x");
        assert_eq!(s1(0x0c0), "r-xr-x");
        assert_eq!(s1(0x0040_0000_0000_00c0), "r--r-x", "UXN");
        assert_eq!(s1(0x0020_0000_0000_00c0), "r-xr--", "PXN");
        assert_eq!(rwx(Rights::stage1(0x040, free, false, true, false)), "rw-rw-", "WXN");
        assert_eq!(rwx(Rights::stage1(0x000, free, false, true, false)), "--xrw-", "WXN, privileged");
        assert_eq!(rwx(Rights::stage1(0x0c0, free, false, false, true)), "r-x--x", "PAN");
        assert_eq!(rwx(Rights::stage1(0x000, free, true, false, false)), "rwxrwx", "EL2");
        assert_eq!(
            rwx(Rights::stage1(0x0040_0000_0000_0080, free, true, false, false)),
            "r--r--",
            "EL2 read-only XN"
        );
        assert_eq!(rwx(Rights::stage1(0x000, free, true, true, false)), "rw-rw-", "EL2 WXN");
    }

    #[test]
    fn tables_take_rights_away() {
        let under = |table| {
            rwx(Rights::stage1(0x0c0 & !0x80, Hierarchy::default().under(table), false, false, false))
        };
        assert_eq!(under(0), "rwxrw-");
        assert_eq!(under(1 << 61), "--xrwx", "APTable[0]");
        assert_eq!(under(1 << 62), "r-xr-x", "APTable[1]");
        assert_eq!(under(1 << 60), "rw-rw-", "UXNTable");
        let read_only =
            |table| rwx(Rights::stage1(0x0c0, Hierarchy::default().under(table), false, false, false));
        assert_eq!(read_only(1 << 59), "r-xr--", "PXNTable");
    }

    #[test]
    fn stage_2_permissions_follow_the_table() {
        let s2 = |raw| rwx(Rights::stage2(raw, true));
        assert_eq!(s2(0x000), "------");
        assert_eq!(s2(0x040), "r-xr-x");
        assert_eq!(s2(0x080), "-w--w-");
        assert_eq!(s2(0x0c0), "rwxrwx");
        assert_eq!(s2(0x0020_0000_0000_00c0), "rwxrw-", "XN=1");
        assert_eq!(s2(0x0040_0000_0000_00c0), "rw-rw-", "XN=2");
        assert_eq!(s2(0x0060_0000_0000_00c0), "rw-rwx", "XN=3");
        assert_eq!(rwx(Rights::stage2(0x0060_0000_0000_00c0, false)), "rw-rw-", "XN=3 without XNX");
        assert_eq!(rwx(Rights::stage2(0x0020_0000_0000_00c0, false)), "rwxrwx", "XN=1 without XNX");
    }
}
