//! Table walks: stage 1, stage 2, and stage 1 through stage 2.
//!
//! A walk answers with a [`Translation`], or with the [`Fault`] that ends it. Only valid translations are cached.
//!
//! Spec: Arm DDI 0487, D8.2 "Translation process"; SMMUv3 H.a, 7.3.12 "F_WALK_EABT" to 7.3.16 "F_PERMISSION" for what a fault says.
//! Not here: choosing the regime (`contexts`), what a fault does to the access (`translate`).

use crate::cd::{Cd, Region};
use crate::contexts::{FETCH, Regime};
use crate::descriptor::{Descriptor, Format, Hierarchy, Rights};
use crate::engine::Engine;
use crate::event::{Asked, Class, EventKind, Fault};
use crate::geometry::{Granule, LAST_LEVEL};
use crate::ste::{Stage2, World, field, flag};
use crate::strict::clause;
use crate::tlb::{Origin, Space, TableEntry, TableKey, Translation};
use crate::update::{Split, Updates};

/// A leaf that a walk of one stage found.
pub(crate) struct Leaf {
    /// The descriptor, as it was read or as the hardware has made it.
    pub(crate) raw: u64,
    /// Where the descriptor lies: an intermediate address, if there is a stage 2 behind.
    pub(crate) place: u64,
    /// Where the first byte of the entry, or of its contiguous group, goes.
    output: u64,
    size_lg2: u32,
    level: i8,
    limits: Hierarchy,
    contiguous: bool,
}

/// What one walk goes through.
pub(crate) struct Tables {
    space: Space,
    format: Format,
    root: u64,
    start: i8,
    input_bits: u32,
    output_bits: u32,
    flat_attributes: bool,
    pub(crate) updates: Updates,
    /// They lie in write-back memory.
    pub(crate) write_back: bool,
}

impl Tables {
    /// Which entry of the table at `level`. The first table may be smaller than the others, or, at stage 2, up to sixteen of them.
    fn index(&self, address: u64, level: i8) -> u64 {
        let within = address & ((1 << self.input_bits) - 1);
        let index = within >> self.format.granule.shift(level);
        if level == self.start { index } else { index & ((1 << self.format.granule.stride()) - 1) }
    }

    fn key(&self, address: u64, level: i8) -> TableKey {
        let granule = self.format.granule;
        TableKey { space: self.space, granule, level, prefix: address >> granule.shift(level) }
    }
}

/// Who walks: what a fault of the walk itself is called, and where its descriptors are.
#[derive(Clone, Copy)]
pub(crate) struct Walker<'a> {
    pub(crate) stage2: bool,
    pub(crate) class: Class,
    /// The address that entered the stage.
    input: u64,
    /// Descriptors lie in intermediate space, behind this stage 2.
    pub(crate) behind: Option<&'a Stage2>,
}

impl Walker<'_> {
    pub(crate) fn fault(self, kind: EventKind) -> Fault {
        Fault {
            kind,
            stage2: self.stage2,
            class: self.class,
            ipa: if self.stage2 { self.input } else { 0 },
            fetch: 0,
        }
    }
}

impl Engine<'_> {
    fn format(&self, granule: Granule, ds: bool) -> Format {
        Format { granule, ds, wide_64k: self.config.oas() == 52 }
    }

    /// Stage 1, and stage 2 behind it, for `address`, which is canonical if its top byte is ignored. `needed` rights
    /// are looked at between the stages: a stage 1 fault comes before any of stage 2.
    pub(crate) fn walk_stage1(
        &mut self,
        regime: &Regime,
        cd: &Cd,
        asked: &Asked,
        needed: Rights,
    ) -> Result<Translation, Fault> {
        let address = canonical(cd, asked.address);
        let walker =
            Walker { stage2: false, class: Class::In, input: address, behind: regime.stage2.as_ref() };
        // "The address failed the range check defined by TxSZ, or was within a disabled TTBx."
        let upper = cd.two_halves() && flag(address, 55);
        let region = cd.regions[usize::from(upper)].ok_or_else(|| walker.fault(EventKind::Translation))?;
        let above = u64::MAX << region.input_bits;
        if address & above != if upper { above } else { 0 } {
            return Err(walker.fault(EventKind::Translation));
        }
        let private = Space::Private { world: cd.world, vmid: regime.vmid, asid: cd.asid };
        let tables = self.stage1_tables(&region, cd, private);
        let one_privilege = cd.world == World::El2;
        let rights = |leaf: &Leaf, raw| {
            Rights::stage1(
                raw,
                leaf.limits,
                one_privilege,
                cd.write_execute_never,
                cd.privileged_access_never,
            )
        };
        let (leaf, split) = self.walk_and_update(&tables, address, walker, asked, needed, &rights)?;
        if !cd.ignore_access_flag && !flag(leaf.raw, 10) {
            return Err(walker.fault(EventKind::Access));
        }
        let rights = split.now;
        if !rights.allow(needed) {
            return Err(walker.fault(EventKind::Permission));
        }
        // nG: only where there are ASIDs.
        let global = !flag(leaf.raw, 11) && cd.world != World::El2;
        let space = if global {
            Space::Global { world: cd.world, vmid: regime.vmid, aset: cd.private }
        } else {
            private
        };
        let attribute = (cd.mair >> (field(leaf.raw, 4, 2) * 8)) & 0xff;
        let origin = origin_of(&leaf, region.granule, attribute << 2 | field(leaf.raw, 9, 8), split);
        let whole = Translation {
            space,
            first: address >> leaf.size_lg2 << leaf.size_lg2,
            size_lg2: leaf.size_lg2,
            output: leaf.output,
            ipa: leaf.output,
            stage1: Some((origin, rights)),
            stage2: None,
            private: cd.private,
            filler: (asked.stream, asked.substream),
        };
        let Some(stage2) = &regime.stage2 else { return self.kept(whole, Some(cd)) };
        let behind = self.stage2_leaf(stage2, whole.output_of(address), Class::In, asked, needed)?;
        let joined = join(&whole, &behind, address);
        self.kept(joined, Some(cd))
    }

    fn stage1_tables(&self, region: &Region, cd: &Cd, space: Space) -> Tables {
        Tables {
            space,
            format: self.format(region.granule, cd.ds && region.granule != Granule::Kib64),
            root: region.root,
            start: region.start,
            input_bits: region.input_bits,
            output_bits: cd.output_bits,
            flat_attributes: region.flat_attributes,
            updates: cd.updates,
            write_back: region.write_back,
        }
    }

    /// Stage 2 for `ipa`, from the cache or by a walk. Whether it gives the `needed` rights is not looked at, but what must become
    /// dirty for them is made dirty.
    pub(crate) fn stage2_leaf(
        &mut self,
        stage2: &Stage2,
        ipa: u64,
        class: Class,
        asked: &Asked,
        needed: Rights,
    ) -> Result<Translation, Fault> {
        let space = Space::Stage2 { vmid: stage2.vmid };
        if !self.fresh
            && let Some(&found) = self.caches.tlb.find(space, false, ipa)
            && !found.is_clean_for(needed)
        {
            return Ok(found);
        }
        let walker = Walker { stage2: true, class, input: ipa, behind: None };
        // "The address failed the range check defined by S2T0SZ."
        if ipa >> stage2.input_bits != 0 {
            return Err(walker.fault(EventKind::Translation));
        }
        let table_lg2 = stage2.input_bits - stage2.granule.shift(stage2.start) + 3;
        let tables = Tables {
            space,
            format: self.format(stage2.granule, stage2.ds),
            root: stage2.root >> table_lg2 << table_lg2,
            start: stage2.start,
            input_bits: stage2.input_bits,
            output_bits: stage2.output_bits,
            flat_attributes: true,
            updates: stage2.updates,
            write_back: stage2.write_back,
        };
        let extended = self.config.stage2_execute_never_extended;
        let rights = |_: &Leaf, raw| Rights::stage2(raw, extended);
        let (leaf, split) = self.walk_and_update(&tables, ipa, walker, asked, needed, &rights)?;
        if !stage2.ignore_access_flag && !flag(leaf.raw, 10) {
            return Err(walker.fault(EventKind::Access));
        }
        let rights = split.now;
        let memory = field(leaf.raw, 5, 2) << 2 | field(leaf.raw, 9, 8);
        let origin = origin_of(&leaf, stage2.granule, memory, split);
        let whole = Translation {
            space,
            first: ipa >> leaf.size_lg2 << leaf.size_lg2,
            size_lg2: leaf.size_lg2,
            output: leaf.output,
            ipa: 0,
            stage1: None,
            stage2: Some((origin, rights)),
            private: false,
            filler: (asked.stream, asked.substream),
        };
        self.kept(whole, None)
    }

    /// Stage 2 for something that stage 1 needs, with the rights it needs: the PA. An update writes; all else reads, and is no
    /// reason to make a page dirty.
    pub(crate) fn stage2_for_walk(
        &mut self,
        stage2: &Stage2,
        ipa: u64,
        class: Class,
        asked: &Asked,
    ) -> Result<u64, Fault> {
        let needed = if class == Class::TtUpdate { Rights::UPDATE } else { FETCH };
        let leaf = self.stage2_leaf(stage2, ipa, class, asked, needed)?;
        let (origin, rights) = leaf.stage2.unzip();
        // S2PTW: "CD fetch or stage 1 table walk to Device-mapped stage 2 address: stage 2 Permission fault". MemAttr[3:2] is 0.
        let device = origin.is_some_and(|origin| origin.memory >> 4 == 0);
        if !rights.unwrap_or_default().allow(needed) || (stage2.protected_walk && device) {
            let walker = Walker { stage2: true, class, input: ipa, behind: None };
            return Err(walker.fault(EventKind::Permission));
        }
        Ok(leaf.output_of(ipa))
    }

    /// Goes down the tables.
    pub(crate) fn walk(
        &mut self,
        tables: &Tables,
        address: u64,
        walker: Walker<'_>,
        asked: &Asked,
    ) -> Result<Leaf, Fault> {
        let (mut level, mut entry) = self.deepest(tables, address);
        loop {
            let place = entry.next + tables.index(address, level) * 8;
            let raw = self.read_descriptor(place, walker, asked)?;
            match tables.format.decode(raw, level) {
                Descriptor::Invalid => return Err(walker.fault(EventKind::Translation)),
                // "An intermediate or leaf translation table descriptor outputs an address outside of the effective xPS."
                Descriptor::Table { next } if next >> tables.output_bits != 0 => {
                    return Err(walker.fault(EventKind::AddressSize));
                }
                Descriptor::Leaf { output } if output >> tables.output_bits != 0 => {
                    return Err(walker.fault(EventKind::AddressSize));
                }
                Descriptor::Table { next } => {
                    let limits = if tables.flat_attributes { entry.limits } else { entry.limits.under(raw) };
                    entry = TableEntry { next, limits };
                    if !self.fresh {
                        self.caches.tlb.keep_table(tables.key(address, level), entry);
                    }
                    level += 1;
                }
                Descriptor::Leaf { output } => {
                    let limits = entry.limits;
                    return Ok(self.whole_leaf(
                        tables,
                        Found { raw, output, level, limits, place, address },
                        walker,
                        asked,
                    ));
                }
            }
        }
    }

    /// Where to begin: below the deepest table that is cached, or at the root.
    fn deepest(&self, tables: &Tables, address: u64) -> (i8, TableEntry) {
        let root = (tables.start, TableEntry { next: tables.root, limits: Hierarchy::default() });
        if self.fresh {
            return root;
        }
        let cached =
            |level: i8| self.caches.tlb.table(&tables.key(address, level)).map(|entry| (level + 1, entry));
        (tables.start..LAST_LEVEL).rev().find_map(cached).unwrap_or(root)
    }

    fn read_descriptor(&mut self, place: u64, walker: Walker<'_>, asked: &Asked) -> Result<u64, Fault> {
        let at = match walker.behind {
            Some(stage2) => self.stage2_for_walk(stage2, place, Class::Tt, asked)?,
            None => place,
        };
        self.counters.descriptor_reads += 1;
        // "A stage 1 table walk that encounters EABT is reported as S2 == 0, CLASS == TT."
        let class = if walker.stage2 { walker.class } else { Class::Tt };
        let abort = Fault { class, fetch: at, ..walker.fault(EventKind::WalkAbort) };
        self.read_words::<1>(at).map(|[raw]| raw).map_err(|_| abort)
    }

    /// The leaf, grown to its contiguous group where the group bears it out.
    fn whole_leaf(&mut self, tables: &Tables, found: Found, walker: Walker<'_>, asked: &Asked) -> Leaf {
        let granule = tables.format.granule;
        let size_lg2 = granule.shift(found.level);
        let entries = granule.contiguous_entries(found.level);
        let contiguous = flag(found.raw, 52) && entries > 1;
        let group_lg2 = size_lg2 + entries.ilog2();
        let alone = Leaf {
            raw: found.raw,
            place: found.place,
            output: found.output,
            size_lg2,
            level: found.level,
            limits: found.limits,
            contiguous,
        };
        let last = found.output | ((1 << group_lg2) - 1);
        // A group larger than the table or the address space cannot be; one that ends beyond the output size has entries that are
        // Address size faults, which a translation of the whole must not hide.
        if !contiguous
            || group_lg2 > tables.input_bits
            || last >> tables.output_bits != 0
            || !self.group_agrees(tables, &found, entries, walker, asked)
        {
            return alone;
        }
        Leaf { output: found.output >> group_lg2 << group_lg2, size_lg2: group_lg2, ..alone }
    }

    /// Whether all entries under one contiguous hint are there and say the same. Only what a device asked for is judged: software may
    /// be half way through making a group that nobody may use yet.
    ///
    /// It is not wrong that some are not valid: nobody can clear all at once. Spec: Arm DDI 0487 M.a, D8.7.1.1 "Misprogramming the Contiguous bit", I_PGVGZ.
    /// Nor that some carry the hint and others not, where it may be changed while the group is in use. Spec: SMMUv3 H.a, 3.21.1.2 "When SMMU_IDR3.BBML == 1
    /// (Level 1)".
    fn group_agrees(
        &mut self,
        tables: &Tables,
        found: &Found,
        entries: u64,
        walker: Walker<'_>,
        asked: &Asked,
    ) -> bool {
        let granule = tables.format.granule;
        let size_lg2 = granule.shift(found.level);
        let group_bytes = entries * 8;
        let first_place = found.place / group_bytes * group_bytes;
        let group_lg2 = size_lg2 + entries.ilog2();
        let base = found.output >> group_lg2 << group_lg2;
        let own = (found.address >> size_lg2) % entries;
        let mut sound = found.output == base + (own << size_lg2);
        let mut hinted = true;
        let mut missing = false;
        // All but the address, the access flag, the dirty state if the hardware keeps it, and what is left to software.
        let varying = tables.updates.varying(found.raw);
        let fixed = |raw: u64| raw & 0x0060_0000_0000_0bfc & !varying;
        for index in 0..entries {
            let Ok(raw) = self.read_descriptor(first_place + index * 8, walker, asked) else { return false };
            match tables.format.decode(raw, found.level) {
                Descriptor::Leaf { output } => {
                    sound &= output == base + (index << size_lg2) && fixed(raw) == fixed(found.raw);
                    hinted &= flag(raw, 52);
                }
                _ => missing = true,
            }
        }
        let hint_stays = self.config.break_before_make_level == 0;
        if self.demand && (!sound || hint_stays && !hinted) {
            let detail = format!("{} entries at {first_place:#x}, level {}", entries, found.level);
            self.notes.record(clause::CONTIGUOUS, detail);
        }
        sound && hinted && !missing
    }

    /// Keeps a translation, unless this is only a look, and judges what it contradicts.
    fn kept(&mut self, new: Translation, cd: Option<&Cd>) -> Result<Translation, Fault> {
        if self.fresh {
            return Ok(new);
        }
        if self.caches.tlb.len() >= self.config.policy.translations {
            self.caches.tlb.evict(new.first >> new.size_lg2);
        }
        let conflict = self.caches.tlb.fill(new, cd.map(|cd| (cd.asid, cd.private)));
        let wrong = conflict.is_some_and(|conflict| self.judge_conflict(&conflict));
        if wrong && self.config.policy.conflict_faults && self.config.break_before_make_level < 2 {
            return Err(Fault {
                kind: EventKind::TlbConflict,
                stage2: false,
                class: Class::In,
                ipa: 0,
                fetch: 0,
            });
        }
        Ok(new)
    }
}

/// A leaf as the walk comes upon it.
struct Found {
    raw: u64,
    output: u64,
    level: i8,
    limits: Hierarchy,
    place: u64,
    address: u64,
}

fn origin_of(leaf: &Leaf, granule: Granule, memory: u64, split: Split) -> Origin {
    Origin {
        granule,
        level: leaf.level,
        memory: u16::try_from(memory).unwrap_or(0),
        contiguous: leaf.contiguous,
        clean: split.clean,
        no_translate: leaf.level < LAST_LEVEL && flag(leaf.raw, 16),
    }
}

/// The address with an ignored top byte made a copy of bit 55, as tags have it.
pub(crate) fn canonical(cd: &Cd, address: u64) -> u64 {
    let upper = cd.two_halves() && flag(address, 55);
    if !cd.ignore_top_byte[usize::from(upper)] {
        return address;
    }
    let low = address & 0x00ff_ffff_ffff_ffff;
    if upper { low | 0xff00_0000_0000_0000 } else { low }
}

/// Both stages in one: as large as the smaller of the two.
fn join(stage1: &Translation, stage2: &Translation, address: u64) -> Translation {
    let size_lg2 = stage1.size_lg2.min(stage2.size_lg2);
    let first = address >> size_lg2 << size_lg2;
    let ipa = stage1.output_of(first);
    Translation { first, size_lg2, ipa, output: stage2.output_of(ipa), stage2: stage2.stage2, ..*stage1 }
}
