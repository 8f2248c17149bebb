//! What a TLB command must find, and no more: which tags, which addresses, which leaves and tables.
//!
//! Spec: SMMUv3 H.a, 4.4 "TLB invalidation".
//! Not here: what the commands look like (`command`), what is searched (`tlb`).

use crate::command::{Invalidate, Span};
use crate::ste::World;
use crate::tlb::{Space, TableKey, Translation};

/// What a command must find.
pub(crate) struct Targets<'a> {
    pub(crate) what: &'a Invalidate,
    /// CR2.E2H: which of the two regimes of EL2 the EL2 commands mean.
    pub(crate) e2h: bool,
    /// It is no command, but a CPU's broadcast: then `e2h` is the CPU's, and nothing of the other regime of EL2 goes.
    pub(crate) broadcast: bool,
    /// What was filled through a CD with ASET=1 may stay.
    pub(crate) spares_private: bool,
}

impl Targets<'_> {
    fn el2(&self, world: World) -> bool {
        world == if self.e2h { World::El2E2h } else { World::El2 }
    }

    /// Whether the tag matches, whatever the address.
    fn space(&self, space: Space) -> bool {
        match (*self.what, space) {
            (
                Invalidate::Stage1All { vmid },
                Space::Private { world, vmid: tag, .. } | Space::Global { world, vmid: tag, .. },
            )
            | (
                Invalidate::Address { vmid, asid: None, .. },
                Space::Private { world, vmid: tag, .. } | Space::Global { world, vmid: tag, .. },
            ) => world == World::El1 && tag == vmid,
            (Invalidate::Asid { vmid, asid }, Space::Private { world, vmid: tag, asid: own })
            | (
                Invalidate::Address { vmid, asid: Some(asid), .. },
                Space::Private { world, vmid: tag, asid: own },
            ) => world == World::El1 && tag == vmid && own == asid,
            (Invalidate::Address { vmid, asid: Some(_), .. }, Space::Global { world, vmid: tag, .. }) => {
                world == World::El1 && tag == vmid
            }
            (Invalidate::El2All, Space::Private { world, .. } | Space::Global { world, .. }) => {
                if self.broadcast { self.el2(world) } else { world != World::El1 }
            }
            (Invalidate::El2Asid { asid }, Space::Private { world, asid: own, .. }) => {
                world == World::El2E2h && own == asid
            }
            (Invalidate::El2Address { asid, .. }, Space::Private { world, asid: own, .. }) => {
                self.el2(world) && (!self.e2h || asid.is_none_or(|asid| asid == own))
            }
            (Invalidate::El2Address { .. }, Space::Global { world, .. }) => self.el2(world),
            (
                Invalidate::BothStages { vmid },
                Space::Private { world, vmid: tag, .. } | Space::Global { world, vmid: tag, .. },
            ) => world == World::El1 && tag == vmid,
            (
                Invalidate::BothStages { vmid } | Invalidate::Stage2Address { vmid, .. },
                Space::Stage2 { vmid: tag },
            ) => tag == vmid,
            (Invalidate::EverythingButEl2, Space::Private { world, .. } | Space::Global { world, .. }) => {
                world == World::El1
            }
            (Invalidate::EverythingButEl2, Space::Stage2 { .. }) => true,
            _ => false,
        }
    }

    fn span(&self) -> Option<&Span> {
        self.what.span()
    }

    /// Whether a leaf must go.
    pub(crate) fn leaf(&self, leaf: &Translation) -> bool {
        self.space(leaf.space)
            && !(self.spares_private && leaf.private)
            && self.span().is_none_or(|span| {
                let hinted = leaf.origin().is_none_or(|origin| {
                    span.granule.is_none_or(|granule| granule == origin.granule)
                        && span.level.is_none_or(|level| level == origin.level)
                });
                hinted && leaf.overlaps(span.first, span.last)
            })
    }

    /// "For operations with Leaf=0, invalidation of cached Table descriptors additionally occurs at levels between the
    /// start of the walk and the level before the last level given by TTL."
    pub(crate) fn table(&self, key: &TableKey) -> bool {
        self.space(key.space)
            && self.span().is_none_or(|span| {
                let covered = key.granule.shift(key.level);
                let first = key.prefix << covered;
                let last = first + ((1u64 << covered) - 1);
                !span.leaf
                    && span.granule.is_none_or(|granule| granule == key.granule)
                    && span.level.is_none_or(|level| key.level < level)
                    && first <= span.last
                    && span.first <= last
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::Hierarchy;
    use crate::geometry::Granule;
    use crate::tlb::sample::*;
    use crate::tlb::{TableEntry, Tlb};

    /// Which of a fixed set of leaves each command removes: one row a command, one letter a leaf.
    #[test]
    fn each_command_removes_what_it_must_and_nothing_else() {
        let el2 = Space::Private { world: World::El2, vmid: 0, asid: 0 };
        let e2h = Space::Private { world: World::El2E2h, vmid: 0, asid: 2 };
        let e2h_global = Space::Global { world: World::El2E2h, vmid: 0, aset: false };
        let leaves = [
            ('p', leaf(OWN, 0x1000, 3)),
            ('q', leaf(OWN, 0x20_0000, 2)),
            ('a', leaf(Space::Private { world: EL1, vmid: 1, asid: 3 }, 0x1000, 3)),
            ('v', leaf(Space::Private { world: EL1, vmid: 4, asid: 2 }, 0x1000, 3)),
            ('g', leaf(GLOBAL, 0x5000, 3)),
            ('s', leaf(Space::Stage2 { vmid: 1 }, 0x1000, 3)),
            ('t', leaf(Space::Stage2 { vmid: 4 }, 0x1000, 3)),
            ('h', leaf(el2, 0x1000, 3)),
            ('e', leaf(e2h, 0x1000, 3)),
            ('f', leaf(e2h_global, 0x5000, 3)),
        ];
        let all = span(0, 0xffff_ffff);
        let level3 = Span { granule: Some(Granule::Kib4), level: Some(3), ..all };
        let rows = [
            (Invalidate::Stage1All { vmid: 1 }, false, "pqag"),
            (Invalidate::Asid { vmid: 1, asid: 2 }, false, "pq"),
            (Invalidate::Address { vmid: 1, asid: Some(2), span: span(0x1000, 0x1fff) }, false, "p"),
            (Invalidate::Address { vmid: 1, asid: Some(2), span: span(0x5000, 0x5fff) }, false, "g"),
            (Invalidate::Address { vmid: 1, asid: Some(2), span: span(0x2f_f000, 0x2f_ffff) }, false, "q"),
            (Invalidate::Address { vmid: 1, asid: Some(2), span: all }, false, "pqg"),
            (Invalidate::Address { vmid: 1, asid: Some(2), span: level3 }, false, "pg"),
            (
                Invalidate::Address {
                    vmid: 1,
                    asid: Some(2),
                    span: Span { granule: Some(Granule::Kib64), ..all },
                },
                false,
                "",
            ),
            (Invalidate::Address { vmid: 1, asid: None, span: all }, false, "pqag"),
            (Invalidate::El2All, false, "hef"),
            (Invalidate::El2Asid { asid: 2 }, true, "e"),
            (Invalidate::El2Address { asid: Some(7), span: all }, false, "h"),
            (Invalidate::El2Address { asid: Some(2), span: all }, true, "ef"),
            (Invalidate::El2Address { asid: Some(7), span: all }, true, "f"),
            (Invalidate::El2Address { asid: None, span: all }, true, "ef"),
            (Invalidate::BothStages { vmid: 1 }, false, "pqags"),
            (Invalidate::Stage2Address { vmid: 1, span: span(0x1000, 0x1fff) }, false, "s"),
            (Invalidate::Stage2Address { vmid: 1, span: span(0x2000, 0x2fff) }, false, ""),
            (Invalidate::EverythingButEl2, false, "pqavgst"),
        ];
        for (what, e2h, expected) in rows {
            let mut tlb = Tlb::default();
            for (_, leaf) in leaves {
                assert_eq!(tlb.fill(leaf, None), None);
            }
            let gone = tlb.invalidate(&what, e2h);
            let letters: String =
                leaves.iter().filter(|(_, leaf)| gone.contains(leaf)).map(|(name, _)| name).collect();
            assert_eq!(letters, expected, "{what:?}");
            assert_eq!(tlb.len(), leaves.len() - expected.len());
        }
    }

    #[test]
    fn tables_go_only_when_the_command_is_not_for_leaves() {
        let key = |level| TableKey { space: OWN, granule: Granule::Kib4, level, prefix: 0 };
        let entry = TableEntry { next: 0x9000, limits: Hierarchy::default() };
        let left = |span: Span| {
            let mut tlb = Tlb::default();
            (0..3).for_each(|level| tlb.keep_table(key(level), entry));
            tlb.invalidate(&Invalidate::Address { vmid: 1, asid: Some(2), span }, false);
            (0..3).filter(|&level| tlb.table(&key(level)).is_some()).collect::<Vec<_>>()
        };
        let page = span(0x1000, 0x1fff);
        let hint = |level| Span { granule: Some(Granule::Kib4), level: Some(level), ..page };
        assert_eq!(left(page), []);
        assert_eq!(left(Span { leaf: true, ..page }), [0, 1, 2]);
        assert_eq!(left(span(0x4000_0000, 0x4000_0fff)), [1, 2]);
        assert_eq!(left(hint(2)), [2], "level 2 tables may stay when the leaf was at level 2");
        assert_eq!(left(hint(3)), []);
    }
}
