//! Translation table descriptors of 64 bits, of both schemes and both stages.
//!
//! The AArch32 Long-descriptor format is the AArch64 one with 4 KiB pages and addresses of 40 bits.
//!
//! Spec: SMMUv2 D.c, 2.7.1 "Translation table format"; Arm DDI 0487, D8.3 "Translation table descriptor formats", D8.4 "Memory access control".
//! Not here: the Short-descriptor format; bits 63:60 of stage 2, which are hints.

use portcullis_types::AccessKind;

use crate::bits::{field, flag};
use crate::geometry::{Granule, LAST_LEVEL};

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

impl Descriptor {
    /// Reads a descriptor found at `level`.
    pub(crate) fn decode(raw: u64, level: u8, granule: Granule) -> Self {
        let address = |low: u32| field(raw, 47, low) << low;
        match (raw & 3, level) {
            (3, LAST_LEVEL) => Self::Leaf { output: address(granule.bits()) },
            (3, _) => Self::Table { next: address(granule.bits()) },
            (1, level) if granule.block_at(level) => Self::Leaf { output: address(granule.shift(level)) },
            _ => Self::Invalid,
        }
    }
}

/// The limits that the tables above a leaf put on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    no_unprivileged: bool,
    read_only: bool,
    execute_never: bool,
    privileged_execute_never: bool,
}

impl Hierarchy {
    /// These limits and those of one more table descriptor.
    pub(crate) fn under(self, table: u64) -> Self {
        Self {
            no_unprivileged: self.no_unprivileged || flag(table, 61),
            read_only: self.read_only || flag(table, 62),
            execute_never: self.execute_never || flag(table, 60),
            privileged_execute_never: self.privileged_execute_never || flag(table, 59),
        }
    }
}

/// What a context bank adds to the permissions of stage 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stage1Rules {
    /// HYPC: there is one privilege.
    pub(crate) hypervisor: bool,
    /// SCTLR.WXN.
    pub(crate) write_execute_never: bool,
    /// SCTLR.UWXN.
    pub(crate) unprivileged_write_execute_never: bool,
}

/// What one stage allows: a bit for each kind of access, unprivileged and privileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Rights(pub(crate) u8);

impl Rights {
    const READ: u8 = 1;
    const WRITE: u8 = 2;
    const EXECUTE: u8 = 4;
    /// What a walk needs of stage 2: a read, whoever asked.
    pub(crate) const WALK: Self = Self(Self::READ);

    fn half(read: bool, write: bool, execute: bool) -> u8 {
        let bit = |set, bit| if set { bit } else { 0 };
        bit(read, Self::READ) | bit(write, Self::WRITE) | bit(execute, Self::EXECUTE)
    }

    fn halves(unprivileged: u8, privileged: u8) -> Self {
        Self(unprivileged | privileged << 3)
    }

    /// Whether all of `needed` is allowed.
    pub(crate) fn allow(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// Whether an unprivileged access may read or write.
    pub(crate) fn reaches_unprivileged(self) -> bool {
        self.0 & (Self::READ | Self::WRITE) != 0
    }

    /// What an access needs.
    pub(crate) fn needed(kind: AccessKind, privileged: bool) -> Self {
        let bit = match kind {
            AccessKind::Read => Self::READ,
            AccessKind::Write => Self::WRITE,
            AccessKind::Execute => Self::EXECUTE,
        };
        if privileged { Self::halves(0, bit) } else { Self::halves(bit, 0) }
    }

    /// Stage 1 permissions of a leaf.
    ///
    /// Spec: Arm DDI 0487, D8.4.1.2 "Stage 1 Direct permissions"; SMMUv2 D.c, 2.8.1 "Architectural effects of HYPC",
    /// 16.5.29 "SMMU_CBn_SCTLR", WXN, UWXN.
    pub(crate) fn stage1(raw: u64, above: Hierarchy, rules: Stage1Rules) -> Self {
        let writable = !flag(raw, 7) && !above.read_only;
        let never = flag(raw, 54) || above.execute_never || (rules.write_execute_never && writable);
        if rules.hypervisor {
            // No AP[1], no PXN: XN is for all.
            let all = Self::half(true, writable, !never);
            return Self::halves(all, all);
        }
        let unprivileged = flag(raw, 6) && !above.no_unprivileged;
        let user_write = unprivileged && writable;
        let user_never = never || (rules.unprivileged_write_execute_never && user_write);
        // "All EL0-writable regions are treated as being PXN." UWXN asks no less.
        let privileged_never = flag(raw, 53)
            || above.privileged_execute_never
            || user_write
            || (rules.write_execute_never && writable);
        Self::halves(
            Self::half(unprivileged, user_write, !user_never),
            Self::half(true, writable, !privileged_never),
        )
    }

    /// Stage 2 permissions of a leaf. Spec: Arm DDI 0487, D8.4.2 "Stage 2 permissions", S2AP, XN without FEAT_XNX.
    pub(crate) fn stage2(raw: u64) -> Self {
        let (read, write) = (flag(raw, 6), flag(raw, 7));
        let all = Self::half(read, write, read && !flag(raw, 54));
        Self::halves(all, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_types::AccessKind::{Execute, Read, Write};

    #[test]
    fn descriptors_are_read_as_the_architecture_says() {
        let read = |raw, level| Descriptor::decode(raw, level, Granule::Kib4);
        assert_eq!(read(0x0000_1234_5678_9703, 3), Descriptor::Leaf { output: 0x1234_5678_9000 });
        assert_eq!(read(0xf000_1234_5678_9003, 2), Descriptor::Table { next: 0x1234_5678_9000 });
        assert_eq!(read(0x0040_1234_567f_f701, 2), Descriptor::Leaf { output: 0x1234_5660_0000 });
        assert_eq!(read(0x0040_1234_567f_f701, 1), Descriptor::Leaf { output: 0x1234_4000_0000 });
        for (raw, level) in [(0x1000, 3), (0x1001, 3), (0x1002, 2), (0x1001, 0)] {
            assert_eq!(read(raw, level), Descriptor::Invalid, "{raw:#x} at {level}");
        }
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
        let s1 = |raw| rwx(Rights::stage1(raw, Hierarchy::default(), Stage1Rules::default()));
        assert_eq!(s1(0x000), "--xrwx");
        assert_eq!(s1(0x040), "rwxrw-");
        assert_eq!(s1(0x080), "--xr-x");
        assert_eq!(s1(0x0c0), "r-xr-x");
        assert_eq!(s1(0x0040_0000_0000_00c0), "r--r-x", "UXN");
        assert_eq!(s1(0x0020_0000_0000_00c0), "r-xr--", "PXN");
    }

    #[test]
    fn banks_take_execution_away_and_hypervisors_have_one_privilege() {
        let with = |rules, raw| rwx(Rights::stage1(raw, Hierarchy::default(), rules));
        let wxn = Stage1Rules { write_execute_never: true, ..Stage1Rules::default() };
        assert_eq!([with(wxn, 0x040), with(wxn, 0x000)], ["rw-rw-", "---rw-"]);
        let uwxn = Stage1Rules { unprivileged_write_execute_never: true, ..Stage1Rules::default() };
        assert_eq!([with(uwxn, 0x040), with(uwxn, 0x000)], ["rw-rw-", "--xrwx"]);
        let hyp = Stage1Rules { hypervisor: true, ..Stage1Rules::default() };
        assert_eq!([with(hyp, 0x000), with(hyp, 0x0040_0000_0000_0080)], ["rwxrwx", "r--r--"]);
    }

    #[test]
    fn tables_take_rights_away() {
        let under =
            |table, raw| rwx(Rights::stage1(raw, Hierarchy::default().under(table), Stage1Rules::default()));
        assert_eq!(under(1 << 61, 0x040), "--xrwx", "APTable[0]");
        assert_eq!(under(1 << 62, 0x040), "r-xr-x", "APTable[1]");
        assert_eq!(under(1 << 60, 0x040), "rw-rw-", "XNTable");
        assert_eq!(under(1 << 59, 0x0c0), "r-xr--", "PXNTable");
    }

    #[test]
    fn stage_2_permissions_follow_the_table() {
        let s2 = |raw| rwx(Rights::stage2(raw));
        assert_eq!([s2(0x000), s2(0x040), s2(0x080), s2(0x0c0)], ["------", "r-xr-x", "-w--w-", "rwxrwx"]);
        assert_eq!(s2(0x0040_0000_0000_00c0), "rw-rw-", "XN");
    }
}
