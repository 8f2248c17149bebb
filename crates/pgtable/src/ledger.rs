//! Which tables there are: where each lies, what hangs in which of its entries, how many entries live.
//!
//! Kept beside the tables, so that a walk reads no pointer back from memory that hardware may write, and that a word which nobody stored there is taken for no entry: by such
//! a word a table would seem to be empty that is not. A table above height 0 costs four bytes per entry here; one at height 0, of which there are hundreds for each above, a bit.
//!
//! A table is *spare* (allocated, nothing points to it), *linked* (in the tree), or *in limbo*: out of the
//! tree and all zero, but hardware may still have its address cached. A table in limbo keeps its place with its
//! parent and can be linked there again, until a [`Retired`](crate::Retired) has freed it; the ledger finds that out when it next looks.
//!
//! Where hardware may know a table, no other is put in its place: so a table goes into limbo only if the invalidation that it will wait for is one that
//! all in limbo below it wait for. Otherwise it could be freed before them, and hardware find them still where a new one was put.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use portcullis_hal::{BlockLayout, TableMemory};
use portcullis_types::{Pa, mutant};

use crate::retired::{Claim, Cut};
use crate::shape::Span;

/// A table's place in the ledger.
pub(crate) type Slot = u32;

/// No table.
pub(crate) const NONE: Slot = u32::MAX;

/// The root's slot.
pub(crate) const ROOT: Slot = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot is empty.
    Free,
    /// Allocated, and nothing points to it.
    Spare,
    /// An entry of its parent points to it (or it is the root).
    Linked,
    /// Nothing points to it any more, but hardware may know it.
    Limbo,
}

/// One table.
#[derive(Debug)]
pub(crate) struct Table {
    /// Where it lies.
    pub(crate) at: Pa,
    /// How many of its entries say something: as many as have their bit.
    pub(crate) live: u32,
    /// A bit for each entry that says something, the first one the lowest of the first word.
    stored: Box<[u64]>,
    pub(crate) state: State,
    /// Whether its entries can point to tables.
    interior: bool,
    parent: Slot,
    /// Which entry of the parent.
    index: u32,
    /// Neighbours in the list that the state puts it in.
    previous: Slot,
    next: Slot,
    /// Who has it, when in limbo, and under which number it went there.
    claim: Claim,
    number: usize,
    /// What was being unmapped when it went there.
    gone: Span,
    /// How many of its children are in limbo, freed ones among them until that is found out.
    limbo: u32,
    /// What hangs in each entry; empty at height 0.
    children: Box<[Slot]>,
}

/// How many tables are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// At height 0.
    pub(crate) bottom: usize,
    /// Above.
    pub(crate) interior: usize,
}

impl Need {
    /// One more, at `height`.
    pub(crate) fn add(&mut self, height: usize) {
        if height == 0 { self.bottom += 1 } else { self.interior += 1 }
    }
}

/// All tables of one tree.
#[derive(Debug)]
pub(crate) struct Ledger {
    tables: Vec<Table>,
    /// Heads of the lists of empty slots and of spare tables: at height 0, above.
    free: [Slot; 2],
    spare: [Slot; 2],
    limbo: Slot,
    layout: BlockLayout,
    root_layout: BlockLayout,
    entries: usize,
    output_last: u64,
}

impl Ledger {
    /// A ledger with one table, the root, allocated. None if there is no memory. `entries` are those of a table and of the root, which is `interior` if
    /// there are heights above 0.
    pub(crate) fn new(
        mem: &impl TableMemory,
        layout: BlockLayout,
        root_layout: BlockLayout,
        [table_entries, root_entries]: [usize; 2],
        interior: bool,
        output_last: u64,
    ) -> Option<Self> {
        let lists = [NONE; 2];
        let mut tables = Vec::new();
        tables.try_reserve(1).ok()?;
        let stored = new_list(root_entries.div_ceil(BITS), 0)?;
        let children = new_list(if interior { root_entries } else { 0 }, NONE)?;
        let at = alloc_below(mem, root_layout, output_last)?;
        tables.push(Table {
            at,
            live: 0,
            stored,
            state: State::Linked,
            interior,
            parent: NONE,
            index: 0,
            previous: NONE,
            next: NONE,
            claim: Claim::default(),
            number: 0,
            gone: Span::NONE,
            limbo: 0,
            children,
        });
        Some(Self {
            tables,
            free: lists,
            spare: lists,
            limbo: NONE,
            layout,
            root_layout,
            entries: table_entries,
            output_last,
        })
    }

    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> &Table {
        &self.tables[slot as usize]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Table {
        &mut self.tables[slot as usize]
    }

    /// The table that hangs in entry `index`, linked or in limbo; `NONE` if there is none.
    #[inline]
    pub(crate) fn child(&self, slot: Slot, index: usize) -> Slot {
        self.get(slot).children.get(index).copied().unwrap_or(NONE)
    }

    /// Notes that so many entries of a table say something from now on, from `index` on.
    #[inline]
    pub(crate) fn fill(&mut self, slot: Slot, index: usize, count: usize) {
        let table = self.get_mut(slot);
        for (at, mask) in masks(index..index + count) {
            let word = &mut table.stored[at];
            table.live += (mask & !*word).count_ones();
            *word |= mask;
        }
    }

    /// Notes that entries of a table say nothing any more. Answers how many did.
    #[inline]
    pub(crate) fn clear(&mut self, slot: Slot, entries: Range<usize>) -> u32 {
        let table = self.get_mut(slot);
        let mut gone = 0;
        for (at, mask) in masks(entries) {
            let word = &mut table.stored[at];
            gone += (mask & *word).count_ones();
            *word &= !mask;
        }
        table.live -= gone;
        gone
    }

    /// Whether a table would be empty without these entries.
    #[inline]
    pub(crate) fn has_nothing_but(&self, slot: Slot, entries: Range<usize>) -> bool {
        let table = self.get(slot);
        table.live == masks(entries).map(|(at, mask)| (mask & table.stored[at]).count_ones()).sum::<u32>()
    }

    /// Where entry `index` of a table lies.
    #[inline]
    pub(crate) fn entry_at(&self, slot: Slot, index: usize) -> Pa {
        Pa::new(self.get(slot).at.get() + 8 * index as u64)
    }

    /// Allocates `need` spare tables. If not, frees those that are and answers false.
    pub(crate) fn stock(&mut self, mem: &impl TableMemory, need: Need) -> bool {
        self.sweep();
        let enough = (0..need.bottom).all(|_| self.add_spare(mem, false).is_some())
            && (0..need.interior).all(|_| self.add_spare(mem, true).is_some());
        if !enough && !mutant!("tables-kept-when-stock-falls-short") {
            self.drop_spares(mem);
        }
        enough
    }

    fn add_spare(&mut self, mem: &impl TableMemory, interior: bool) -> Option<()> {
        let slot = self.free_slot(interior)?;
        let kind = usize::from(interior);
        let at = alloc_below(mem, self.layout, self.output_last)?;
        let spare = self.spare[kind];
        self.free[kind] = self.get(slot).next;
        let table = self.get_mut(slot);
        debug_assert!(table.live == 0, "a table that goes is empty");
        (table.at, table.state, table.next) = (at, State::Spare, spare);
        self.spare[kind] = slot;
        Some(())
    }

    /// The first slot of the list of empty ones, which is made longer if there is none.
    fn free_slot(&mut self, interior: bool) -> Option<Slot> {
        let kind = usize::from(interior);
        if self.free[kind] == NONE {
            self.tables.try_reserve(1).ok()?;
            let stored = new_list(self.entries.div_ceil(BITS), 0)?;
            let children = new_list(if interior { self.entries } else { 0 }, NONE)?;
            let slot = Slot::try_from(self.tables.len()).ok().filter(|&slot| slot != NONE)?;
            self.tables.push(Table {
                at: Pa::new(0),
                live: 0,
                stored,
                state: State::Free,
                interior,
                parent: NONE,
                index: 0,
                previous: NONE,
                next: NONE,
                claim: Claim::default(),
                number: 0,
                gone: Span::NONE,
                limbo: 0,
                children,
            });
            self.free[kind] = slot;
        }
        Some(self.free[kind])
    }

    /// Frees spare tables, which no hardware has seen.
    pub(crate) fn drop_spares(&mut self, mem: &impl TableMemory) {
        for kind in 0..2 {
            while self.spare[kind] != NONE {
                let slot = self.spare[kind];
                self.spare[kind] = self.get(slot).next;
                mem.free(self.get(slot).at, self.layout);
                self.empty_slot(slot);
            }
        }
    }

    /// Takes a spare table and hangs it in entry `index` of `parent`.
    pub(crate) fn attach_spare(&mut self, parent: Slot, index: usize, height: usize) -> Slot {
        let kind = usize::from(height > 0);
        let slot = self.spare[kind];
        assert!(slot != NONE, "as many tables were stocked as the plan counted");
        self.spare[kind] = self.get(slot).next;
        let table = self.get_mut(slot);
        (table.state, table.parent, table.next) = (State::Linked, parent, NONE);
        table.index = u32::try_from(index).expect("a table has far fewer than 2^32 entries");
        self.get_mut(parent).children[index] = slot;
        slot
    }

    /// Whether something below a table waits in limbo for an invalidation that one of `span` is not. `just_now` of its children were cut off in unmapping
    /// that.
    pub(crate) fn holds_others(&self, slot: Slot, span: Span, just_now: u32) -> bool {
        let table = self.get(slot);
        let waits = |child: &Slot| {
            let child = self.get(*child);
            child.claim.is_open(child.number) && !span.covers(child.gone)
        };
        // Mostly there are no others, and then the hundreds of entries are not looked through.
        table.limbo > just_now && table.children.iter().filter(|&&child| child != NONE).any(waits)
    }

    /// Puts a linked table, empty now, into limbo, in unmapping `span`. Answers what is to free it.
    pub(crate) fn retire(&mut self, slot: Slot, span: Span) -> Cut {
        let head = self.limbo;
        let parent = self.get(slot).parent;
        self.get_mut(parent).limbo += 1;
        let table = self.get_mut(slot);
        debug_assert!(table.state == State::Linked && table.live == 0);
        let number = table.claim.open();
        (table.state, table.number, table.previous, table.next) = (State::Limbo, number, NONE, head);
        table.gone = span;
        let cut = Cut { at: table.at, claim: table.claim.clone(), number };
        if head != NONE {
            self.get_mut(head).previous = slot;
        }
        self.limbo = slot;
        cut
    }

    /// The table in entry `index`, taken out of limbo if it was there, and whether it was. `NONE` if there is none, or it has been freed.
    pub(crate) fn revive(&mut self, slot: Slot, index: usize) -> (Slot, bool) {
        let child = self.child(slot, index);
        if child == NONE || self.get(child).state != State::Limbo {
            return (child, false);
        }
        if !self.get(child).claim.take(self.get(child).number) {
            self.forget(child);
            return (NONE, false);
        }
        self.leave_limbo(child);
        self.get_mut(child).state = State::Linked;
        (child, true)
    }

    fn leave_limbo(&mut self, slot: Slot) {
        let (previous, next) = (self.get(slot).previous, self.get(slot).next);
        if previous == NONE {
            self.limbo = next
        } else {
            self.get_mut(previous).next = next
        }
        if next != NONE {
            self.get_mut(next).previous = previous;
        }
        let table = self.get_mut(slot);
        (table.previous, table.next) = (NONE, NONE);
        let parent = table.parent;
        if parent != NONE {
            self.get_mut(parent).limbo -= 1;
        }
    }

    /// Forgets the tables in limbo that have been freed.
    fn sweep(&mut self) {
        let mut slot = self.limbo;
        while slot != NONE {
            let table = self.get(slot);
            let next = table.next;
            if !table.claim.is_open(table.number) {
                self.forget(slot);
            }
            slot = next;
        }
    }

    /// Empties the slot of a table in limbo that has been freed.
    fn forget(&mut self, slot: Slot) {
        self.leave_limbo(slot);
        self.orphan(slot);
        self.empty_slot(slot);
    }

    /// Takes a table's place with its parent away, and that of its children, all in limbo, with it.
    fn orphan(&mut self, slot: Slot) {
        let (parent, index) = (self.get(slot).parent, self.get(slot).index as usize);
        if parent != NONE {
            self.get_mut(parent).children[index] = NONE;
        }
        for index in 0..self.get(slot).children.len() {
            let child = core::mem::replace(&mut self.get_mut(slot).children[index], NONE);
            if child != NONE {
                self.get_mut(child).parent = NONE;
            }
        }
    }

    fn empty_slot(&mut self, slot: Slot) {
        let kind = usize::from(self.get(slot).interior);
        let free = self.free[kind];
        let table = self.get_mut(slot);
        (table.state, table.parent, table.next, table.limbo) = (State::Free, NONE, free, 0);
        self.free[kind] = slot;
    }

    /// Frees the root, linked and spare tables. Those in limbo are freed by what they were retired with.
    pub(crate) fn destroy(self, mem: &impl TableMemory) {
        for (slot, table) in self.tables.iter().enumerate() {
            if matches!(table.state, State::Linked | State::Spare) {
                mem.free(table.at, if slot == ROOT as usize { self.root_layout } else { self.layout });
            }
        }
    }
}

fn new_list<T: Clone>(count: usize, value: T) -> Option<Box<[T]>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).ok()?;
    list.resize(count, value);
    Some(list.into_boxed_slice())
}

/// Bits of a word.
const BITS: usize = 64;

/// The words that have the bits of these entries, and which of their bits those are.
#[inline]
fn masks(entries: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start, end } = entries;
    (start / BITS..end.div_ceil(BITS)).map(move |word| {
        let (from, to) = (start.saturating_sub(BITS * word), (end - BITS * word).min(BITS));
        (word, u64::MAX << from & u64::MAX >> (BITS - to))
    })
}

/// Memory for a table, which must lie where the format can point to.
fn alloc_below(mem: &impl TableMemory, layout: BlockLayout, last: u64) -> Option<Pa> {
    let at = mem.alloc(layout)?;
    if at.get() > last {
        mem.free(at, layout);
        return None;
    }
    Some(at)
}
