//! Marks: what leaves say of their use, read, set and cleared while hardware may be setting them.
//!
//! Every change of a live leaf here is an exchange with what was seen: a mark that hardware sets in between is seen in the next turn, and never
//! overwritten. A mark that was cleared tells of later uses only once hardware has forgotten the leaf: until then it may use what it remembers
//! without another mark. So a caller who clears marks invalidates, and then looks at the pages.
//!
//! Spec: Arm ARM DDI 0487 M.a, D8.5 "Hardware updates to the translation tables"; SMMUv3 H.a, 3.13 "Translation table entries and Access/Dirty
//! flags".

use portcullis_hal::TableMemory;
use portcullis_types::{Iova, IovaRange, Pa};

use crate::ledger::{NONE, ROOT, Slot, State};
use crate::shape::{Shape, Span};
use crate::table::PageTable;
use crate::{Format, Item, Marks, Memory};

impl<F: Format> PageTable<F> {
    /// The marks of the leaf that maps `iova`; none if there is none.
    pub fn marks(&self, mem: &impl TableMemory, iova: Iova) -> Option<Marks> {
        let at = self.leaf_for(mem, iova)?;
        Some(self.format.marks(mem.load(at)))
    }

    /// Sets marks of the leaf that maps `iova`, beside those that it has, and answers those that it had; none if there is none. For who cannot have
    /// hardware do it. Visible to hardware on return.
    pub fn set_marks(&mut self, mem: &impl Memory, iova: Iova, marks: Marks) -> Option<Marks> {
        let at = self.leaf_for(mem, iova)?;
        let format = &self.format;
        let word = self.exchange(mem, at, |word| format.with_marks(word, format.marks(word).or(marks)));
        mem.write_barrier();
        Some(self.format.marks(word))
    }

    /// Clears `which` marks of every leaf in `range`, and tells of each leaf that had one of them where it is and which. A leaf that keeps no such
    /// mark keeps what it says, and is told of each time. Leaves that lie partly in the range are among them. Visible to hardware on return.
    pub fn clear_marks(
        &mut self,
        mem: &impl Memory,
        range: IovaRange,
        which: Marks,
        mut tell: impl FnMut(IovaRange, Marks),
    ) {
        let last = range.last().get().min(self.shape.input_last);
        if range.first().get() <= last {
            let span = Span { first: range.first().get(), last };
            self.clear_below(mem, ROOT, self.shape.top, span, which, &mut tell);
        }
        mem.write_barrier();
    }

    fn clear_below(
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        span: Span,
        which: Marks,
        tell: &mut dyn FnMut(IovaRange, Marks),
    ) {
        let info = self.shape.heights[height];
        let mut first = span.first;
        loop {
            let part = info.clip(span, first);
            let index = info.index(first);
            let child = self.ledger.child(slot, index);
            if child != NONE && self.ledger.get(child).state == State::Linked {
                self.clear_below(mem, child, height - 1, part, which, tell);
            } else if self.ledger.get(slot).live > 0 {
                self.clear_leaf(mem, slot, height, first, which, tell);
            }
            if part.last == span.last {
                return;
            }
            first = part.last + 1;
        }
    }

    fn clear_leaf(
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        iova: u64,
        which: Marks,
        tell: &mut dyn FnMut(IovaRange, Marks),
    ) {
        let (info, format) = (self.shape.heights[height], &self.format);
        let height = Shape::format_height(height);
        let is_leaf = |word| matches!(format.decode(word, height), Item::Leaf { .. });
        let cleared = |word| format.with_marks(word, format.marks(word).without(which));
        let at = self.ledger.entry_at(slot, info.index(iova));
        let word = self.exchange(mem, at, |word| if is_leaf(word) { cleared(word) } else { word });
        let had = format.marks(word);
        let told = Marks { accessed: had.accessed && which.accessed, dirty: had.dirty && which.dirty };
        let size = info.size();
        if let Some(range) = IovaRange::new(Iova::new(iova & !(size - 1)), size)
            && is_leaf(word)
            && told != Marks::NONE
        {
            tell(range, told);
        }
    }

    /// Where the leaf lies that maps `iova`.
    fn leaf_for(&self, mem: &impl TableMemory, iova: Iova) -> Option<Pa> {
        if iova.get() > self.shape.input_last {
            return None;
        }
        let (mut slot, mut height) = (ROOT, self.shape.top);
        loop {
            let index = self.shape.heights[height].index(iova.get());
            let child = self.ledger.child(slot, index);
            if child == NONE || self.ledger.get(child).state != State::Linked {
                let at = self.ledger.entry_at(slot, index);
                let item = self.format.decode(mem.load(at), Shape::format_height(height));
                return matches!(item, Item::Leaf { .. }).then_some(at);
            }
            (slot, height) = (child, height - 1);
        }
    }

    /// Stores what `next` makes of a word, in one step, and answers what the word was. Nothing is stored that changes nothing.
    pub(crate) fn exchange(&self, mem: &impl TableMemory, at: Pa, next: impl Fn(u64) -> u64) -> u64 {
        let mut word = mem.load(at);
        loop {
            let wanted = next(word);
            if wanted == word {
                return word;
            }
            match mem.compare_exchange(at, word, wanted) {
                Ok(_) => {
                    self.clean(mem, at, 1);
                    return word;
                }
                Err(found) => word = found,
            }
        }
    }
}
