//! Hardware update of tables: the Access flag and the dirty state, set in the descriptor that a walk has just read.
//!
//! [`Updates`] is what a CD or STE enables. A walk that finds its leaf asks what the leaf should say ([`Leaf::wanted`]), and stores
//! that with a compare-exchange of the very word that it read. If somebody was faster, the walk begins again.
//!
//! * The Access flag is set by whatever walks, also by the hardware's own curiosity (3.14 "Speculative accesses" allows that).
//! * A leaf becomes dirty only for rights that are asked for and that nothing but AP\[2\] or S2AP\[1\] refuses. Stage 1 comes first: it may become
//!   dirty though stage 2 then refuses.
//! * What a write would gain that way ([`Split::clean`]) is cached beside the rights, so that the first write to a clean page walks again.
//! * A look that must leave no trace (`fresh`) sees what the update would make, and stores nothing.
//!
//! Spec: SMMUv3 H.a, 3.13.2 "Access flag hardware update", 3.13.3 "Dirty state hardware update", 3.13.5 "HTTU with two stages of translation".
//! Not here: the Access flag of table descriptors (IDR0.HTTU 3).

use portcullis_types::Pa;

use crate::config::{Config, HardwareUpdate};
use crate::descriptor::Rights;
use crate::engine::Engine;
use crate::event::{Asked, Class, EventKind, Fault};
use crate::ste::flag;
use crate::walk::{Leaf, Tables, Walker};

/// How often a walk begins again before it counts as failed. Each time somebody else has changed the descriptor.
pub(crate) const ATTEMPTS: usize = 256;

/// AF.
const ACCESSED: u64 = 1 << 10;
/// DBM.
const DIRTY_BIT_MODIFIER: u32 = 51;
/// AP\[2\] of stage 1, which refuses writes, and S2AP\[1\] of stage 2, which allows them.
const WRITE: u64 = 1 << 7;

/// What the hardware updates in the tables of one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Updates {
    pub(crate) access: bool,
    pub(crate) dirty: bool,
}

impl Updates {
    /// What HA and HD mean together; none if they ask for what the part does not have. HD without HA is Reserved, and does nothing.
    ///
    /// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", HA, 5.2 "STE, Stream Table Entry", S2HA.
    pub(crate) fn decode(access: bool, dirty: bool, config: &Config) -> Option<Self> {
        let needed = match (access, dirty) {
            (_, true) => HardwareUpdate::AccessAndDirty,
            (true, false) => HardwareUpdate::Access,
            (false, false) => HardwareUpdate::None,
        };
        (needed <= config.hardware_update).then_some(Self { access, dirty: access && dirty })
    }

    /// Bits in which the leaves of one contiguous group may differ: some of them have been written to, and others not.
    pub(crate) fn varying(self, raw: u64) -> u64 {
        if self.dirty && flag(raw, DIRTY_BIT_MODIFIER) { WRITE } else { 0 }
    }
}

/// What one leaf allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Split {
    /// As it is.
    pub(crate) now: Rights,
    /// What more it allows once it is dirty.
    pub(crate) clean: Rights,
}

impl Split {
    /// The rights of a leaf, where `rights` reads those of a descriptor.
    ///
    /// "For the purposes of determining execute permission, a writable-clean descriptor is considered to be writable."
    pub(crate) fn of(raw: u64, stage2: bool, updates: Updates, rights: impl Fn(u64) -> Rights) -> Self {
        let writable = if stage2 { raw | WRITE } else { raw & !WRITE };
        if !updates.dirty || !flag(raw, DIRTY_BIT_MODIFIER) || raw == writable {
            return Self { now: rights(raw), clean: Rights(0) };
        }
        let full = rights(writable);
        Self { now: full.without_writes(), clean: full.only_writes() }
    }

    /// Whether `needed` is allowed, but only of a dirty page.
    pub(crate) fn becomes_dirty_for(self, needed: Rights) -> bool {
        !self.now.allow(needed) && Rights(self.now.0 | self.clean.0).allow(needed)
    }
}

impl Engine<'_> {
    /// Goes down the tables, and has the leaf say what it must say for `needed` rights, as far as the hardware may.
    pub(crate) fn walk_and_update(
        &mut self,
        tables: &Tables,
        address: u64,
        walker: Walker<'_>,
        asked: &Asked,
        needed: Rights,
        rights: &dyn Fn(&Leaf, u64) -> Rights,
    ) -> Result<(Leaf, Split), Fault> {
        for _ in 0..ATTEMPTS {
            let mut leaf = self.walk(tables, address, walker, asked)?;
            let split =
                |leaf: &Leaf| Split::of(leaf.raw, walker.stage2, tables.updates, |raw| rights(leaf, raw));
            let wanted = leaf.wanted(tables.updates, split(&leaf).becomes_dirty_for(needed), walker.stage2);
            if wanted == leaf.raw || self.fresh || self.store(tables, &leaf, wanted, walker, asked)? {
                leaf.raw = wanted;
                let split = split(&leaf);
                return Ok((leaf, split));
            }
        }
        Err(walker.fault(EventKind::WalkAbort))
    }

    /// Stores what a leaf is to say. Answers whether it still said what was read.
    ///
    /// "Because a stage 1 descriptor hardware update is a write, the stage 2 mapping for its IPA must allow writes."
    fn store(
        &mut self,
        tables: &Tables,
        leaf: &Leaf,
        wanted: u64,
        walker: Walker<'_>,
        asked: &Asked,
    ) -> Result<bool, Fault> {
        let at = match walker.behind {
            Some(stage2) => self.stage2_for_walk(stage2, leaf.place, Class::TtUpdate, asked)?,
            None => leaf.place,
        };
        // "An external abort occurred fetching (or updating) a translation table descriptor."
        let class = if walker.stage2 { walker.class } else { Class::Tt };
        let abort = Fault { class, fetch: at, ..walker.fault(EventKind::WalkAbort) };
        // Choice: of what IR and OR other than write-back allow, "the hardware update is attempted but fails and generates an F_WALK_EABT".
        if !tables.write_back {
            return Err(abort);
        }
        let found = self.fabric.compare_exchange(Pa::new(at), leaf.raw, wanted).map_err(|_| abort)?;
        if found != leaf.raw {
            return Ok(false);
        }
        let changed = leaf.raw ^ wanted;
        self.counters.access_flag_updates += u64::from(changed & ACCESSED != 0);
        self.counters.dirty_updates += u64::from(changed & WRITE != 0);
        Ok(true)
    }
}

impl Leaf {
    /// What the descriptor is to say. "If the update of the dirty state takes place, the final descriptor will also have AF == 1."
    fn wanted(&self, updates: Updates, dirty: bool, stage2: bool) -> u64 {
        let accessed = if updates.access { self.raw | ACCESSED } else { self.raw };
        match (dirty, stage2) {
            (false, _) => accessed,
            (true, false) => accessed & !WRITE,
            (true, true) => accessed | WRITE,
        }
    }
}

/// Whether IR and OR, side by side, both say write-back. Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", IR0, OR0.
pub(crate) fn is_write_back(attributes: u64) -> bool {
    attributes & 0b0101 == 0b0101
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ha_and_hd_mean_depends_on_the_part() {
        let decode = |access, dirty, hardware_update| {
            Updates::decode(access, dirty, &Config { hardware_update, ..Config::default() })
                .map(|updates| (updates.access, updates.dirty))
        };
        use HardwareUpdate::{Access, AccessAndDirty, None as Nothing};
        assert_eq!(decode(false, false, Nothing), Some((false, false)));
        assert_eq!((decode(true, false, Nothing), decode(false, true, Nothing)), (None, None));
        assert_eq!(decode(true, false, Access), Some((true, false)));
        assert_eq!((decode(true, true, Access), decode(false, true, Access)), (None, None));
        assert_eq!(decode(true, true, AccessAndDirty), Some((true, true)));
        assert_eq!(decode(false, true, AccessAndDirty), Some((false, false)), "Reserved");
    }

    #[test]
    fn a_clean_leaf_would_allow_writes_and_is_otherwise_as_a_writable_one() {
        let stage1 = |raw| Rights::stage1(raw, Default::default(), false, false, false);
        let on = Updates { access: true, dirty: true };
        let split = Split::of(1 << 51 | 0xc0, false, on, stage1);
        assert_eq!(split.now.0, 0b001_101, "no execution for the privileged, as of a page they may write");
        assert_eq!(split.clean.0, 0b010_010);
        assert_eq!(Split::of(0xc0, false, on, stage1).clean, Rights(0), "no DBM");
        assert_eq!(Split::of(1 << 51 | 0x40, false, on, stage1).clean, Rights(0), "dirty");
        let off = Updates { access: true, dirty: false };
        assert_eq!(Split::of(1 << 51 | 0xc0, false, off, stage1).now, stage1(0xc0));
        let stage2 = Split::of(1 << 51 | 0x40, true, on, |raw| Rights::stage2(raw, true));
        assert_eq!((stage2.now.0, stage2.clean.0), (0b101_101, 0b010_010));
        assert!(stage2.becomes_dirty_for(Rights(2)) && !stage2.becomes_dirty_for(Rights(1)));
    }

    #[test]
    fn only_write_back_on_both_sides_is_write_back() {
        let all: Vec<u64> = (0..16).filter(|&attributes| is_write_back(attributes)).collect();
        assert_eq!(all, [0b0101, 0b0111, 0b1101, 0b1111]);
    }
}
