//! What those who are gone left behind, until hardware has confirmed that it has forgotten it.
//!
//! Who drops a domain cannot be told that hardware did not confirm, and has nothing left with which to ask again. So what tagged the domain's entries, and the tables that they lead to, are
//! left here. Whoever handles the hardware's errors has it asked again ([`Estate::settle`]), and so has who turned the hardware off, which remembers nothing then. What is never
//! settled keeps its numbers and its memory.
//!
//! # Locks
//!
//! The list is locked for moments, never while hardware is waited for: what is being asked about is in nobody's sight then, and comes back if hardware does not confirm.
//!
//! Not here: how hardware is made to forget, and what is given back then (a driver, by the function that it passes in).

use alloc::vec::Vec;
use core::fmt;

use portcullis_core::iommu::SyncError;
use portcullis_hal::lock_api::{Mutex, RawMutex};
use portcullis_types::mutant;

/// What was left behind.
pub struct Estate<M, T>(Mutex<M, Vec<T>>);

impl<M, T> fmt::Debug for Estate<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Estate").finish_non_exhaustive()
    }
}

impl<M: RawMutex, T> Default for Estate<M, T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<M: RawMutex, T> Estate<M, T> {
    /// Whoever had this is gone: `give_up` makes hardware forget it, and gives back what it was for once it has. If hardware does not confirm, `kept` is told of it, and it is left.
    ///
    /// Hardware may have been turned off since it was asked (`is_off`), and whoever did that may have settled before this was left: then it is asked once more.
    pub fn bury(
        &self,
        mut what: T,
        mut give_up: impl FnMut(&mut T) -> Result<(), SyncError>,
        kept: impl FnOnce(&T),
        is_off: impl FnOnce() -> bool,
    ) {
        if give_up(&mut what).is_ok() {
            return;
        }
        kept(&what);
        self.leave(what);
        if is_off() {
            self.ask(&mut give_up);
        }
    }

    fn leave(&self, what: T) {
        self.0.lock().push(what);
    }

    /// Has hardware asked again, oldest first, until it does not confirm: `give_up` makes it forget one, and gives back what that was for once it has. What it does not confirm stays, with
    /// all behind it.
    ///
    /// Hardware may have been turned off since it was asked (`is_off`), and whoever did that found nothing here: then it is asked once more.
    pub fn settle(
        &self,
        mut give_up: impl FnMut(&mut T) -> Result<(), SyncError>,
        is_off: impl FnOnce() -> bool,
    ) {
        if !self.ask(&mut give_up) && is_off() {
            self.ask(&mut give_up);
        }
    }

    /// Answers whether hardware confirmed it of all that was here.
    fn ask(&self, give_up: &mut impl FnMut(&mut T) -> Result<(), SyncError>) -> bool {
        if mutant!("left-behind-for-good") {
            return true;
        }
        let left = core::mem::take(&mut *self.0.lock());
        let mut left = left.into_iter();
        while let Some(mut one) = left.next() {
            if give_up(&mut one).is_err() {
                let mut kept = self.0.lock();
                // Before what was left meanwhile.
                kept.splice(..0, core::iter::once(one).chain(left));
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    const SILENT: SyncError = SyncError::Failed { code: 1 };

    fn left(estate: &Estate<spin::Mutex<()>, u16>) -> Vec<u16> {
        estate.0.lock().clone()
    }

    #[test]
    fn what_hardware_confirms_is_gone_and_what_it_does_not_stays_with_all_behind_it() {
        let estate = Estate::default();
        (1..=4).for_each(|id| estate.leave(id));
        let mut asked = Vec::new();
        let give_up = |&mut id: &mut u16| {
            asked.push(id);
            if id == 3 { Err(SILENT) } else { Ok(()) }
        };
        estate.settle(give_up, || false);
        assert_eq!((asked, left(&estate)), (Vec::from([1, 2, 3]), Vec::from([3, 4])));
        estate.settle(|_| Ok(()), || false);
        assert_eq!(left(&estate), []);
        estate.settle(|_| panic!("nothing is left"), || true);
    }

    #[test]
    fn what_hardware_did_not_confirm_that_was_turned_off_meanwhile_is_asked_of_once_more() {
        let (estate, off, asked) = (Estate::default(), Cell::new(false), Cell::new(0));
        (1..=2).for_each(|id| estate.leave(id));
        let give_up = |_: &mut u16| {
            asked.set(asked.get() + 1);
            if off.replace(true) {
                return Ok(());
            }
            // Whoever turns it off finds nothing here.
            estate.settle(|_| panic!("it is being asked of"), || true);
            Err(SILENT)
        };
        estate.settle(give_up, || off.get());
        assert_eq!((asked.get(), left(&estate)), (3, Vec::new()));
    }

    #[test]
    fn whoever_goes_leaves_what_hardware_does_not_confirm_and_nothing_if_it_was_turned_off_meanwhile() {
        for (answers, off, wanted) in [
            (&[true][..], false, (1, 0, 0)),
            (&[false], false, (1, 1, 1)),
            (&[false, true], true, (2, 1, 0)),
            (&[false, false], true, (2, 1, 1)),
        ] {
            let (estate, asked, kept) = (Estate::default(), Cell::new(0), Cell::new(0));
            let give_up = |_: &mut u16| {
                let confirmed = answers[asked.get()];
                asked.set(asked.get() + 1);
                if confirmed { Ok(()) } else { Err(SILENT) }
            };
            estate.bury(1, give_up, |_| kept.set(kept.get() + 1), || off);
            assert_eq!((asked.get(), kept.get(), left(&estate).len()), wanted, "{answers:?}, {off}");
        }
    }

    #[test]
    fn what_is_left_while_hardware_is_asked_comes_behind_and_is_asked_of_the_next_time() {
        let estate = Estate::default();
        (1..=2).for_each(|id| estate.leave(id));
        let asked = Cell::new(0);
        let give_up = |_: &mut u16| {
            asked.set(asked.get() + 1);
            estate.leave(9);
            // Somebody else handles errors: what is being asked about is not asked of twice.
            estate.settle(|_| Err(SILENT), || false);
            Err(SILENT)
        };
        estate.settle(give_up, || false);
        assert_eq!((asked.get(), left(&estate)), (1, Vec::from([1, 2, 9])));
    }
}
