//! Whether tables let through what the shadow grants: not more, and not less.
//!
//! What is leaving or arriving may be there or not, until its memory is somebody else's. What was granted and never promised (a page of firmware's whose device does not
//! come) need not be there.

use super::shadow::{Arriving, Grant, Shadow, Space, SpaceId};
use super::tables::Leaf;
use super::wrong::Wrong;
use crate::promise::Promise;

impl Shadow {
    /// Holds what a table lets through, in the order of addresses, against a space.
    ///
    /// # Errors
    ///
    /// Something is mapped that is not granted, or not mapped that is.
    pub(crate) fn compare(&mut self, id: SpaceId, leaves: &[Leaf]) -> Result<(), Wrong> {
        self.compare_reach(id, leaves)?;
        self.check(Promise::Service);
        self.spaces[id].live.values().try_for_each(|grant| nothing_less(id, grant, leaves))
    }

    /// The same, where what is granted need not be there.
    fn compare_reach(&mut self, id: SpaceId, leaves: &[Leaf]) -> Result<(), Wrong> {
        self.check(Promise::Isolation);
        let space = &self.spaces[id];
        leaves.iter().try_for_each(|leaf| nothing_more(id, space, leaf))
    }
}

fn nothing_more(id: SpaceId, space: &Space, leaf: &Leaf) -> Result<(), Wrong> {
    let end = leaf.iova + (leaf.len - 1);
    let mut at = leaf.iova;
    loop {
        let pa = leaf.pa + (at - leaf.iova);
        let covers = |grant: &Grant| {
            let fits = grant.first <= at && grant.last >= at && grant.pa + (at - grant.first) == pa;
            fits && (grant.read || !leaf.read) && (grant.write || !leaf.write)
        };
        let lives = space.live.range(..=at).next_back().map(|(_, grant)| *grant).filter(covers);
        let leaving =
            || space.leaving.iter().filter(|one| one.may_be_there()).map(|one| one.grant).find(covers);
        let until = lives.or_else(leaving).map(|grant| grant.last).or_else(|| {
            let arrives = |one: &&Arriving| {
                one.may_be_there() && one.pa <= pa && one.last_pa >= pa && (one.write || !leaf.write)
            };
            space.arriving.iter().find(arrives).map(|one| at + (one.last_pa - pa))
        });
        match until {
            Some(until) if until >= end => return Ok(()),
            Some(until) => at = until + 1,
            None => {
                let there = space.live.range(..=at).next_back().map(|(_, grant)| *grant);
                let what = format!(
                    "the tables of space {id} let through {leaf:x?}, of which {at:#x} is not granted; there is {there:x?}"
                );
                return Err(Wrong::new(Promise::Isolation, what));
            }
        }
    }
}

fn nothing_less(id: SpaceId, grant: &Grant, leaves: &[Leaf]) -> Result<(), Wrong> {
    if !(grant.owed_read || grant.owed_write) {
        return Ok(());
    }
    let mut at = grant.first;
    loop {
        let place = leaves.partition_point(|leaf| leaf.iova <= at);
        let leaf = place.checked_sub(1).map(|place| leaves[place]);
        let there = leaf.filter(|leaf| {
            let offset = at - leaf.iova;
            let fits = offset < leaf.len && leaf.pa + offset == grant.pa + (at - grant.first);
            fits && (leaf.read || !grant.owed_read) && (leaf.write || !grant.owed_write)
        });
        let Some(leaf) = there else {
            let what = format!(
                "the tables of space {id} do not let through {at:#x} of {grant:x?}; there is {leaf:x?}"
            );
            return Err(Wrong::new(Promise::Service, what));
        };
        let last = leaf.iova + (leaf.len - 1);
        if last >= grant.last {
            return Ok(());
        }
        at = last + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(first: u64, last: u64, pa: u64) -> Grant {
        let (read, write) = (true, true);
        Grant { first, last, pa, read, owed_read: read, write, owed_write: write, since: 0 }
    }

    fn leaf(iova: u64, pa: u64) -> Leaf {
        Leaf { iova, len: 0x1000, pa, read: true, write: true }
    }

    fn compared(leaves: &[Leaf]) -> Result<(), Promise> {
        let mut shadow = Shadow::default();
        let space = shadow.add_space();
        shadow.grant_over(space, grant(0x1000, 0x2fff, 0x8000));
        shadow.compare(space, leaves).map_err(|wrong| wrong.promise)
    }

    #[test]
    fn tables_that_say_what_was_granted_are_found_right() {
        assert_eq!(compared(&[leaf(0x1000, 0x8000), leaf(0x2000, 0x9000)]), Ok(()));
        let block = Leaf { len: 0x2000, ..leaf(0x1000, 0x8000) };
        assert_eq!(compared(&[block]), Ok(()));
    }

    #[test]
    fn a_page_too_many_one_that_lies_elsewhere_and_one_too_few_are_objected_to() {
        let both = [leaf(0x1000, 0x8000), leaf(0x2000, 0x9000)];
        assert_eq!(compared(&[both[0], both[1], leaf(0x3000, 0xa000)]), Err(Promise::Isolation));
        assert_eq!(compared(&[both[0], leaf(0x2000, 0xa000)]), Err(Promise::Isolation));
        assert_eq!(compared(&both[..1]), Err(Promise::Service));
        assert_eq!(compared(&[both[0], Leaf { write: false, ..both[1] }]), Err(Promise::Service));
    }

    /// A page is found in a space, whatever is not.
    fn reached(shadow: &mut Shadow, space: SpaceId) -> Result<(), Promise> {
        shadow.compare_reach(space, &[leaf(0x1000, 0x8000)]).map_err(|wrong| wrong.promise)
    }

    #[test]
    fn what_leaves_may_be_there_until_its_memory_is_anothers() {
        let mut shadow = Shadow::default();
        let space = shadow.add_space();
        shadow.grant_over(space, grant(0x1000, 0x1fff, 0x8000));
        let token = shadow.begin_unmap(space, &[(0x1000, 0x1fff)]);
        assert_eq!(reached(&mut shadow, space), Ok(()));
        shadow.linger(space, token, 0, false);
        assert_eq!(reached(&mut shadow, space), Ok(()));
        shadow.unpinned(&[space], 0x8000, 0x8fff).expect("it is granted no more");
        assert_eq!(reached(&mut shadow, space), Err(Promise::Isolation));
    }

    #[test]
    fn what_may_come_may_be_there_until_its_memory_is_anothers() {
        let mut shadow = Shadow::default();
        let space = shadow.add_space();
        let token = shadow.begin_map(space, &[(0x8000, 0x1000)], true, true);
        assert_eq!(reached(&mut shadow, space), Ok(()));
        shadow.nothing_arrives(space, token);
        assert_eq!(reached(&mut shadow, space), Err(Promise::Isolation));
    }
}
