//! Who may raise which interrupt: what each entry of a remapping table is, told by those who asked for it, held against every interrupt that a unit delivers.
//!
//! No two entries that were ever set in a life mean the same interrupt, so that one that is delivered says which entry it came by.

use std::collections::BTreeMap;

use model_bus::KeyMap;

use super::wrong::Wrong;
use crate::promise::Promise;

/// An interrupt as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Raised {
    pub(crate) destination: u32,
    pub(crate) logical: bool,
    pub(crate) vector: u8,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// Who may raise it.
    pub(crate) sources: Vec<u32>,
    pub(crate) raised: Raised,
}

/// A unit, and an entry of its table.
pub(crate) type EntryKey = (usize, u16);

/// How a change of an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is so, and hardware has forgotten what was before.
    Confirmed,
    /// Hardware may go by what was before, and by what was to be.
    Unconfirmed,
    /// It was refused, and nothing was changed.
    Untouched,
}

#[derive(Debug, Default)]
struct Entry {
    now: Option<Meaning>,
    /// What it is becoming, or may be still.
    perhaps: Vec<Meaning>,
    /// Changes that are under way, or that hardware did not confirm.
    unsettled: bool,
    /// It is nobody's, and hardware may go by what it was.
    left: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Vectors {
    entries: BTreeMap<EntryKey, Entry>,
    /// Which entry each interrupt was made up for: where it is looked for first.
    made_for: KeyMap<Raised, EntryKey>,
    /// How many interrupts have been made up.
    made: u32,
    /// What was delivered last, and for whom.
    last: Option<(u32, Raised)>,
}

/// Vectors of devices begin here. Spec: Intel SDM volume 3A, 11.5.2 "Valid Interrupt Vectors": 16 to 255.
const FIRST_VECTOR: u32 = 0x20;
const VECTORS: u32 = 0xd0;

impl Vectors {
    /// An interrupt that no entry was before.
    pub(crate) fn fresh(&mut self, logical: bool) -> Raised {
        let number = self.made;
        self.made += 1;
        let vector = u8::try_from(FIRST_VECTOR + number % VECTORS).expect("below 256");
        Raised { destination: (number / VECTORS) & 0xff, logical, vector }
    }

    /// An entry is about to be something; or nothing.
    pub(crate) fn begin(&mut self, key: EntryKey, next: Option<&Meaning>) {
        self.made_for.extend(next.map(|next| (next.raised, key)));
        let entry = self.entries.entry(key).or_default();
        entry.perhaps.extend(next.cloned());
        entry.unsettled = true;
    }

    /// It is, or not.
    pub(crate) fn end(&mut self, key: EntryKey, next: Option<Meaning>, ended: Ended) {
        let entry = self.entries.entry(key).or_default();
        match ended {
            Ended::Confirmed => *entry = Entry { now: next, ..Entry::default() },
            Ended::Unconfirmed => {}
            Ended::Untouched => {
                entry.perhaps.retain(|one| Some(one) != next.as_ref());
                entry.unsettled = !entry.perhaps.is_empty();
            }
        }
    }

    /// Its owner has given it back, and hardware did not confirm.
    pub(crate) fn left(&mut self, key: EntryKey) {
        self.entries.entry(key).or_default().left = true;
    }

    /// Somebody is given an entry. Of one that was left, that says that hardware has forgotten what it was: who raises that from now on breaks isolation.
    ///
    /// # Errors
    ///
    /// It may be another's.
    pub(crate) fn given(&mut self, key: EntryKey) -> Result<(), Wrong> {
        match self.entries.get_mut(&key) {
            Some(entry) if entry.left => {
                *entry = Entry::default();
                Ok(())
            }
            Some(entry) if entry.now.is_some() || entry.unsettled => {
                let what = format!("entry {key:?} was handed out, and is {entry:x?}");
                Err(Wrong::new(Promise::NoReuse, what))
            }
            _ => Ok(()),
        }
    }

    /// What a source must raise by an entry, if anything.
    pub(crate) fn expects(&self, key: EntryKey, source: u32) -> Option<Raised> {
        let entry = self.entries.get(&key).filter(|entry| !entry.unsettled)?;
        let now = entry.now.as_ref().filter(|now| now.sources.contains(&source))?;
        Some(now.raised)
    }

    /// An interrupt of a device is delivered.
    ///
    /// # Errors
    ///
    /// It is not its own.
    pub(crate) fn delivered(&mut self, source: u32, raised: Raised) -> Result<(), Wrong> {
        self.last = Some((source, raised));
        let may = |one: &Meaning| one.raised == raised && one.sources.contains(&source);
        let first = self.made_for.get(&raised).and_then(|key| self.entries.get(key));
        if first.is_some_and(|entry| entry.now.iter().chain(&entry.perhaps).any(may)) {
            return Ok(());
        }
        let all = self.entries.iter().flat_map(|(key, entry)| {
            entry.now.iter().chain(&entry.perhaps).map(move |meaning| (key, meaning))
        });
        let mut whose = None;
        for (key, meaning) in all {
            if may(meaning) {
                return Ok(());
            }
            if meaning.raised == raised {
                whose = Some((key, meaning));
            }
        }
        let what = format!("{source:#x} raised {raised:x?}, which is {whose:x?}");
        Err(Wrong::new(Promise::Isolation, what))
    }

    /// What was delivered since the last call.
    pub(crate) fn take_last(&mut self) -> Option<(u32, Raised)> {
        self.last.take()
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    const KEY: EntryKey = (0, 7);

    /// An entry that source 8 may use.
    fn set() -> (Vectors, Raised) {
        let mut vectors = Vectors::default();
        let raised = vectors.fresh(false);
        let meaning = Meaning { sources: vec![8], raised };
        vectors.begin(KEY, Some(&meaning));
        assert_eq!(vectors.expects(KEY, 8), None, "it is under way");
        vectors.end(KEY, Some(meaning), Ended::Confirmed);
        (vectors, raised)
    }

    fn broken(vectors: &mut Vectors, source: u32, raised: Raised) -> Option<Promise> {
        vectors.delivered(source, raised).err().map(|wrong| wrong.promise)
    }

    #[test]
    fn an_interrupt_that_is_anothers_or_nobodys_breaks_isolation() {
        let (mut vectors, raised) = set();
        assert_eq!(vectors.expects(KEY, 8), Some(raised));
        assert_eq!(vectors.expects(KEY, 9), None);
        assert_eq!(broken(&mut vectors, 8, raised), None);
        assert_eq!(vectors.take_last(), Some((8, raised)));
        assert_eq!(broken(&mut vectors, 9, raised), Some(Promise::Isolation));
        let other = vectors.fresh(false);
        assert_ne!(other, raised);
        assert_eq!(broken(&mut vectors, 8, other), Some(Promise::Isolation));
    }

    #[test]
    fn what_two_entries_may_mean_is_for_the_sources_of_either() {
        let (mut vectors, raised) = set();
        vectors.begin((0, 8), Some(&Meaning { sources: vec![9], raised }));
        let found = [8, 9, 10].map(|source| broken(&mut vectors, source, raised));
        assert_eq!(found, [None, None, Some(Promise::Isolation)]);
    }

    #[test]
    fn what_an_entry_was_is_over_once_that_is_confirmed_and_not_before() {
        for (ended, wanted) in [
            (Ended::Confirmed, [Some(Promise::Isolation), None]),
            (Ended::Unconfirmed, [None, None]),
            (Ended::Untouched, [None, Some(Promise::Isolation)]),
        ] {
            let (mut vectors, old) = set();
            let new = Meaning { sources: vec![8], raised: vectors.fresh(true) };
            vectors.begin(KEY, Some(&new));
            assert_eq!([old, new.raised].map(|raised| broken(&mut vectors, 8, raised)), [None; 2]);
            vectors.end(KEY, Some(new.clone()), ended);
            let found = [old, new.raised].map(|raised| broken(&mut vectors, 8, raised));
            assert_eq!(found, wanted, "{ended:?}");
        }
    }

    #[test]
    fn an_entry_is_given_to_somebody_else_only_once_it_is_nothing_for_sure() {
        let (mut vectors, _) = set();
        let given = |vectors: &mut Vectors| vectors.given(KEY).err().map(|wrong| wrong.promise);
        assert_eq!(given(&mut vectors), Some(Promise::NoReuse));
        vectors.begin(KEY, None);
        vectors.end(KEY, None, Ended::Unconfirmed);
        assert_eq!(given(&mut vectors), Some(Promise::NoReuse));
        vectors.end(KEY, None, Ended::Confirmed);
        assert_eq!(given(&mut vectors), None);
    }

    #[test]
    fn what_an_entry_was_that_was_left_is_nobodys_once_it_is_given_to_somebody_else() {
        let (mut vectors, raised) = set();
        vectors.begin(KEY, None);
        vectors.end(KEY, None, Ended::Unconfirmed);
        vectors.left(KEY);
        assert_eq!(broken(&mut vectors, 8, raised), None);
        assert!(vectors.given(KEY).is_ok());
        assert_eq!(broken(&mut vectors, 8, raised), Some(Promise::Isolation));
        let meaning = Meaning { sources: vec![9], raised: vectors.fresh(false) };
        vectors.begin(KEY, Some(&meaning));
        vectors.end(KEY, Some(meaning), Ended::Confirmed);
        let wrong = vectors.given(KEY).unwrap_err();
        assert_eq!(wrong.promise, Promise::NoReuse, "it is somebody's again");
    }
}
