//! What changed from one live translation to another while the first may have been in use.
//!
//! The book lets a processor go by either until the first has been invalidated, and asks software to be prepared for that: for a frame or a table that is
//! another's by then nobody can be. More or fewer rights over one frame are no matter: at worst a fault comes that need not have, or late.
//!
//! Spec: Intel SDM volume 3A, 4.10.2.3 "Details of TLB Use"; 4.10.4.2 "Recommended Invalidation"; 4.10.4.4 "Delayed Invalidation"; 4.10.5 "Propagation of
//! Paging-Structure Changes to Multiple Processors".
//! Not here: which CPUs' entries are compared (`walk`).

use super::tlb::{Entry, Step};

/// What is wrong with finding `new` for `va` in a table when `held` may be in use for it.
pub(crate) fn between(held: &Entry, new: &Entry, va: u64) -> Option<&'static str> {
    if held.address(va) != new.address(va) {
        return Some("a live page was given another frame without an invalidation between");
    }
    let what = |entry: &Entry| (entry.rights, entry.global, entry.memory_index);
    if held.leaf_lg2 != new.leaf_lg2 && what(held) != what(new) {
        return Some("the size of a live page and its rights or attributes were changed at once");
    }
    None
}

/// The same, for steps of a walk.
pub(crate) fn between_steps(held: &Step, new: &Step) -> Option<&'static str> {
    (held.table != new.table)
        .then_some("a live table was replaced by another without an invalidation between")
}
