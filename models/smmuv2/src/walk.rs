//! Table walks: stage 1, stage 2, and stage 1 through stage 2.
//!
//! A walk answers with a [`Translation`], or with the [`Fault`] that ends it. Only what can be used is cached.
//!
//! Spec: SMMUv2 D.c, 2.6.4 "The algorithm for finding the translation table descriptors", 3.5 "Recording stage 1 followed by stage 2 translation faults",
//! 3.7.2 "Recording a context fault", 16.5.11 "SMMU_CBn_FSYNRm", PLVL; Arm DDI 0487, D8.2 "Translation process".
//! Not here: which regime (`regime`), what a fault does to the access (`verdict`).

use model_bus::{Fabric, Notes};
use portcullis_types::Pa;

use crate::bits::{field, flag, ones};
use crate::config::Config;
use crate::counters::Counters;
use crate::descriptor::{Descriptor, Hierarchy, Rights};
use crate::fault::{Asked, Fault, FaultKind};
use crate::geometry::{Granule, LAST_LEVEL};
use crate::regime::{Regime, Stage1, Stage2};
use crate::strict::clause;
use crate::tlb::{Half, Space, TableEntry, TableKey, Tlb, Translation};

/// What a walk works with, borrowed for its time.
pub(crate) struct Engine<'a> {
    pub(crate) config: &'a Config,
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) tlb: &'a mut Tlb,
    pub(crate) notes: &'a mut Notes,
    pub(crate) counters: &'a mut Counters,
    /// Nothing cached is used or filled: to see what the tables say now.
    pub(crate) fresh: bool,
    /// A device asked for this, and not the hardware's own curiosity.
    pub(crate) demand: bool,
}

/// What one walk goes through.
struct Tables<'a> {
    space: Space,
    granule: Granule,
    root: u64,
    start: u8,
    input_bits: u32,
    output_bits: u32,
    flat_attributes: bool,
    big_endian: bool,
    /// The address that entered stage 2, if this is stage 2.
    ipa: Option<u64>,
    /// Descriptors lie in intermediate space, behind this stage 2.
    behind: Option<&'a Stage2>,
    /// An external abort is told by the bank of stage 2 that is there, even if it does not translate.
    nested: bool,
    filler: u8,
}

impl Tables<'_> {
    /// Which entry of the table at `level`. The first table may be smaller than the others, or, at stage 2, up to sixteen of them.
    fn index(&self, address: u64, level: u8) -> u64 {
        let index = (address & ones(self.input_bits)) >> self.granule.shift(level);
        if level == self.start { index } else { index & ones(self.granule.stride()) }
    }

    fn key(&self, address: u64, level: u8) -> TableKey {
        TableKey {
            space: self.space,
            granule: self.granule,
            level,
            prefix: address >> self.granule.shift(level),
        }
    }

    fn fault(&self, kind: FaultKind, level: u8) -> Fault {
        match self.ipa {
            Some(ipa) => Fault::stage2(kind, level, ipa),
            None => Fault::stage1(kind, level),
        }
    }
}

/// A leaf that a walk of one stage found.
struct Leaf {
    raw: u64,
    output: u64,
    size_lg2: u32,
    level: u8,
    limits: Hierarchy,
    contiguous: bool,
}

impl Leaf {
    fn half(&self, rights: Rights, memory: u64) -> Half {
        Half { rights, level: self.level, memory: memory as u16, contiguous: self.contiguous }
    }
}

impl Engine<'_> {
    /// Stage 1, and stage 2 behind it, for an address in its place. Rights are looked at by the caller.
    pub(crate) fn walk_stage1(
        &mut self,
        regime: &Regime,
        stage1: &Stage1,
        half: usize,
        address: u64,
        asked: &Asked,
    ) -> Result<Translation, Fault> {
        let region = &stage1.regions[half];
        let early = stage1.level_before_tables();
        let fault = |kind, level| Fault::stage1(kind, level);
        let input_bits = region.input_bits.ok_or(fault(FaultKind::Translation, early))?;
        // "The 48-bit address in SMMU_CBn_TTBR0 or SMMU_CBn_TTBR1."
        if region.root >> stage1.output_bits != 0 {
            return Err(fault(FaultKind::AddressSize, early));
        }
        let behind = regime.stage2.as_ref().filter(|stage2| stage2.on);
        let own = space_of(stage1, behind.is_some());
        let tables = Tables {
            space: own,
            granule: region.granule,
            root: region.root,
            start: region.granule.stage1_start(input_bits),
            input_bits,
            output_bits: stage1.output_bits,
            flat_attributes: region.flat_attributes,
            big_endian: stage1.big_endian,
            ipa: None,
            behind,
            nested: regime.second.is_some(),
            filler: regime.first,
        };
        let leaf = self.walk(&tables, address)?;
        if !stage1.ignore_access_flag && !flag(leaf.raw, 10) {
            return Err(fault(FaultKind::AccessFlag, leaf.level));
        }
        let rights = Rights::stage1(leaf.raw, leaf.limits, stage1.rules);
        let attribute = (stage1.mair >> (field(leaf.raw, 4, 2) * 8)) & 0xff;
        let own_half = leaf.half(rights, attribute << 2 | field(leaf.raw, 9, 8));
        // A stage 1 permission fault comes before any fault of stage 2.
        check_stage1(&own_half, asked)?;
        let space = match own {
            Space::Private { vmid, nested, .. } if !flag(leaf.raw, 11) => Space::Global { vmid, nested },
            space => space,
        };
        let alone = Translation {
            space,
            first: address >> leaf.size_lg2 << leaf.size_lg2,
            size_lg2: leaf.size_lg2,
            output: leaf.output,
            ipa: leaf.output,
            stage1: Some(own_half),
            stage2: None,
            filler: regime.first,
        };
        let whole = match behind {
            None => alone,
            Some(stage2) => {
                let second = self.stage2_leaf(stage2, alone.output_of(address), regime.bank_of(true))?;
                join(&alone, &second, address)
            }
        };
        self.kept(whole, stage1.asid)
    }

    /// Stage 2 for `ipa`, from the cache or by a walk. Rights are looked at by the caller.
    pub(crate) fn stage2_leaf(
        &mut self,
        stage2: &Stage2,
        ipa: u64,
        filler: u8,
    ) -> Result<Translation, Fault> {
        let space = Space::Stage2 { vmid: stage2.vmid };
        // "IPA > IPA size", or "greater than the size indicated by SMMU_CBn_TCR.T0SZ". 17.3.1: told for level 1.
        let size = stage2.input_bits.min(self.config.ipa_bits.into());
        let outside = Fault::stage2(FaultKind::Translation, 1, ipa);
        if ipa >> size != 0 {
            return Err(outside);
        }
        if !self.fresh
            && let Some(found) = self.tlb.find(space, ipa)
        {
            return Ok(found);
        }
        let start = stage2.start.ok_or(outside)?;
        if stage2.root >> stage2.output_bits != 0 {
            return Err(Fault::stage2(FaultKind::AddressSize, u8::from(!stage2.wide), ipa));
        }
        let tables = Tables {
            space,
            granule: stage2.granule,
            root: stage2.root,
            start,
            input_bits: stage2.input_bits,
            output_bits: stage2.output_bits,
            flat_attributes: true,
            big_endian: stage2.big_endian,
            ipa: Some(ipa),
            behind: None,
            nested: false,
            filler,
        };
        let leaf = self.walk(&tables, ipa)?;
        if !stage2.ignore_access_flag && !flag(leaf.raw, 10) {
            return Err(tables.fault(FaultKind::AccessFlag, leaf.level));
        }
        let memory = field(leaf.raw, 5, 2) << 2 | field(leaf.raw, 9, 8);
        let whole = Translation {
            space,
            first: ipa >> leaf.size_lg2 << leaf.size_lg2,
            size_lg2: leaf.size_lg2,
            output: leaf.output,
            ipa: 0,
            stage1: None,
            stage2: Some(leaf.half(Rights::stage2(leaf.raw), memory)),
            filler,
        };
        self.kept(whole, 0)
    }

    /// Stage 2 for a descriptor of stage 1.
    fn stage2_for_walk(&mut self, stage2: &Stage2, ipa: u64, filler: u8) -> Result<u64, Fault> {
        let in_walk = |fault: Fault| Fault { in_stage1_walk: true, ..fault };
        let found = self.stage2_leaf(stage2, ipa, filler).map_err(in_walk)?;
        let (rights, level, memory) =
            found.stage2.map_or((Rights::default(), 0, 0), |half| (half.rights, half.level, half.memory));
        // PTW: "a stage 1 translation walk ... to an area of memory that has the Device or Strongly-ordered memory attribute". MemAttr[3:2] is 0.
        if !rights.allow(Rights::WALK) || (stage2.protected_walk && memory >> 4 == 0) {
            return Err(in_walk(Fault::stage2(FaultKind::Permission, level, ipa)));
        }
        Ok(found.output_of(ipa))
    }

    /// Goes down the tables.
    fn walk(&mut self, tables: &Tables<'_>, address: u64) -> Result<Leaf, Fault> {
        let (mut level, mut entry) = self.deepest(tables, address);
        loop {
            let place = entry.next + tables.index(address, level) * 8;
            let raw = self.read_descriptor(tables, place, level)?;
            match Descriptor::decode(raw, level, tables.granule) {
                Descriptor::Invalid => return Err(tables.fault(FaultKind::Translation, level)),
                Descriptor::Table { next: address } | Descriptor::Leaf { output: address }
                    if address >> tables.output_bits != 0 =>
                {
                    return Err(tables.fault(FaultKind::AddressSize, level));
                }
                Descriptor::Table { next } => {
                    let limits = if tables.flat_attributes { entry.limits } else { entry.limits.under(raw) };
                    entry = TableEntry { next, limits };
                    if !self.fresh {
                        self.tlb.keep_table(tables.key(address, level), entry);
                    }
                    level += 1;
                }
                Descriptor::Leaf { output } => {
                    let size_lg2 = tables.granule.shift(level);
                    let leaf = Leaf { raw, output, size_lg2, level, limits: entry.limits, contiguous: false };
                    return Ok(self.whole_leaf(tables, leaf, place, address));
                }
            }
        }
    }

    /// Where to begin: below the deepest table that is cached, or at the root.
    fn deepest(&self, tables: &Tables<'_>, address: u64) -> (u8, TableEntry) {
        let root = (tables.start, TableEntry { next: tables.root, limits: Hierarchy::default() });
        if self.fresh {
            return root;
        }
        let cached = |level: u8| self.tlb.table(&tables.key(address, level)).map(|entry| (level + 1, entry));
        (tables.start..LAST_LEVEL).rev().find_map(cached).unwrap_or(root)
    }

    fn read_descriptor(&mut self, tables: &Tables<'_>, place: u64, level: u8) -> Result<u64, Fault> {
        let at = match tables.behind {
            Some(stage2) => self.stage2_for_walk(stage2, place, tables.filler)?,
            None => place,
        };
        self.counters.descriptor_reads += 1;
        let mut bytes = [0; 8];
        // 3.5, 3.10: external aborts of a translation of two stages are told by the bank of stage 2.
        let abort = Fault {
            stage2: tables.ipa.is_some() || tables.nested,
            in_stage1_walk: tables.ipa.is_none(),
            ipa: tables.ipa.unwrap_or(place),
            ..tables.fault(FaultKind::External, level)
        };
        self.fabric.read(Pa::new(at), &mut bytes).map_err(|_| abort)?;
        Ok(if tables.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    /// The leaf, grown to its contiguous group where the group bears it out.
    fn whole_leaf(&mut self, tables: &Tables<'_>, leaf: Leaf, place: u64, address: u64) -> Leaf {
        let entries = tables.granule.contiguous_entries(leaf.level);
        if !flag(leaf.raw, 52) || entries == 1 {
            return leaf;
        }
        let leaf = Leaf { contiguous: true, ..leaf };
        let group_lg2 = leaf.size_lg2 + entries.ilog2();
        if group_lg2 > tables.input_bits
            || (leaf.output | ones(group_lg2)) >> tables.output_bits != 0
            || !self.group_agrees(tables, &leaf, place, address)
        {
            return leaf;
        }
        Leaf { output: leaf.output >> group_lg2 << group_lg2, size_lg2: group_lg2, ..leaf }
    }

    /// Whether all entries under one contiguous hint are there and say the same. Only what a device asked for is judged: software may
    /// be half way through making a group that nobody may use yet.
    ///
    /// It is not wrong that some are not valid: nobody can clear all at once. Spec: Arm DDI 0487 M.a, D8.7.1.1 "Misprogramming the Contiguous bit", I_PGVGZ.
    fn group_agrees(&mut self, tables: &Tables<'_>, leaf: &Leaf, place: u64, address: u64) -> bool {
        let entries = tables.granule.contiguous_entries(leaf.level);
        let first_place = place / (entries * 8) * (entries * 8);
        let group_lg2 = leaf.size_lg2 + entries.ilog2();
        let base = leaf.output >> group_lg2 << group_lg2;
        let own = (address >> leaf.size_lg2) % entries;
        let mut sound = leaf.output == base + (own << leaf.size_lg2);
        let mut missing = false;
        // All but the address, the access flag, and what is left to software.
        let fixed = |raw: u64| raw & 0x0070_0000_0000_0bfc;
        for index in 0..entries {
            let Ok(raw) = self.read_descriptor(tables, first_place + index * 8, leaf.level) else {
                return false;
            };
            match Descriptor::decode(raw, leaf.level, tables.granule) {
                Descriptor::Leaf { output } => {
                    sound &= output == base + (index << leaf.size_lg2) && fixed(raw) == fixed(leaf.raw);
                }
                _ => missing = true,
            }
        }
        if self.demand && !sound {
            let detail = format!("{entries} entries at {first_place:#x}, level {}", leaf.level);
            self.notes.record(clause::CONTIGUOUS, detail);
        }
        sound && !missing
    }

    /// Keeps a translation, unless this is only a look, and judges what it contradicts.
    fn kept(&mut self, new: Translation, asid: u16) -> Result<Translation, Fault> {
        if self.fresh {
            return Ok(new);
        }
        if self.tlb.len() >= self.config.policy.translations {
            self.tlb.evict(new.first >> new.size_lg2);
        }
        let Some(old) = self.tlb.fill(new, asid) else { return Ok(new) };
        self.judge_conflict(&old, &new);
        if self.config.policy.conflict_faults {
            let stage2 = new.stage1.is_none();
            let level = new.stage1.or(new.stage2).map_or(3, |half| half.level);
            return Err(Fault {
                stage2,
                ipa: if stage2 { new.first } else { 0 },
                ..Fault::stage1(FaultKind::TlbConflict, level)
            });
        }
        Ok(new)
    }

    /// Notes a live translation that the tables contradict.
    pub(crate) fn judge_conflict(&mut self, old: &Translation, new: &Translation) {
        let shared = old.filler != new.filler;
        let rule = if shared { clause::SHARED_TAGS } else { clause::BREAK_BEFORE_MAKE };
        self.notes.record(
            rule,
            format!(
                "{:#x}, 2^{} bytes to {:#x}, is live, by bank {}; the tables of bank {} now say {:#x}, 2^{} bytes to {:#x}",
                old.first, old.size_lg2, old.output, old.filler, new.filler, new.first, new.size_lg2, new.output
            ),
        );
    }
}

/// Where translations of stage 1 are cached.
pub(crate) fn space_of(stage1: &Stage1, nested: bool) -> Space {
    if stage1.hypervisor {
        Space::Hypervisor
    } else {
        Space::Private { vmid: stage1.vmid, asid: stage1.asid, nested }
    }
}

/// Whether stage 1 allows an access.
pub(crate) fn check_stage1(half: &Half, asked: &Asked) -> Result<(), Fault> {
    let needed = Rights::needed(asked.kind, asked.privileged);
    // DIPANS: "a permission fault is generated if a transaction attempts to access a memory region that is accessible by unprivileged accesses".
    let forbidden = asked.access_never && half.rights.reaches_unprivileged();
    if half.rights.allow(needed) && !forbidden {
        Ok(())
    } else {
        Err(Fault::stage1(FaultKind::Permission, half.level))
    }
}

/// Both stages in one: as large as the smaller of the two.
fn join(stage1: &Translation, stage2: &Translation, address: u64) -> Translation {
    let size_lg2 = stage1.size_lg2.min(stage2.size_lg2);
    let first = address >> size_lg2 << size_lg2;
    let ipa = stage1.output_of(first);
    Translation { first, size_lg2, ipa, output: stage2.output_of(ipa), stage2: stage2.stage2, ..*stage1 }
}
