//! Which flavours there are, and joins that fail half way.

extern crate std;

use alloc::vec;
use std::sync::Mutex;

use super::*;

/// A group with two windows that only notes what it is told.
#[derive(Debug, Default)]
struct Fake {
    ownership: bool,
    tables: bool,
    whole: bool,
    windows: Mutex<[Option<usize>; MAX_WINDOWS]>,
    /// Windows that cannot be set, and windows that cannot be removed.
    refuses: [bool; MAX_WINDOWS],
    sticks: [bool; MAX_WINDOWS],
}

#[derive(Debug)]
struct FakeTable(TableSpec);

const NO_ANSWER: SyncError = SyncError::Failed { code: 1 };

fn starts() -> [Iova; MAX_WINDOWS] {
    [Iova::new(0), Iova::new(1 << 59)]
}

fn table(window: usize, page_lg2: u8, levels: u8) -> Arc<dyn DmaTable> {
    let page = SizeLg2::new(page_lg2).unwrap();
    Arc::new(FakeTable(TableSpec { window, page, window_bytes: 1 << 30, levels }))
}

fn on_demand() -> Fake {
    Fake { ownership: true, tables: true, ..Fake::default() }
}

impl TableGroup for Fake {
    fn name(&self) -> String {
        "fake".into()
    }

    fn info(&self) -> TableGroupInfo {
        TableGroupInfo {
            window32: IovaRange::new(Iova::new(0), 1 << 31).unwrap(),
            windows: starts().map(Some),
            page_sizes: PageSizes::from_bits(0x1_1000),
            max_levels: 2,
        }
    }

    fn ownership(&self) -> Option<&dyn Ownership> {
        self.ownership.then_some(self)
    }

    fn tables(&self) -> Option<&dyn TableOps> {
        self.tables.then_some(self)
    }

    fn whole(&self) -> Option<&dyn WholeTable> {
        self.whole.then_some(self)
    }

    fn eeh(&self) -> Option<&dyn Eeh> {
        None
    }
}

impl Ownership for Fake {
    fn take_ownership(&self) -> Result<(), OwnershipError> {
        Ok(())
    }

    fn release_ownership(&self) -> Result<(), OwnershipError> {
        Ok(())
    }
}

impl WholeTable for Fake {
    fn take_table(&self) -> Result<Arc<dyn DmaTable>, OwnershipError> {
        Err(OwnershipError::Taken)
    }

    fn give_back_table(&self) -> Result<(), OwnershipError> {
        Ok(())
    }
}

impl TableOps for Fake {
    fn table_bytes(&self, _: TableSpec) -> Result<u64, TableError> {
        Err(TableError::NoMemory)
    }

    fn create_table(&self, _: TableSpec) -> Result<Arc<dyn DmaTable>, TableError> {
        Err(TableError::NoMemory)
    }

    fn set_window(&self, table: &Arc<dyn DmaTable>) -> Result<(), WindowError> {
        let window = table.spec().window;
        if self.refuses[window] {
            return Err(WindowError::NoMemory);
        }
        self.windows.lock().unwrap()[window] = Some(window);
        Ok(())
    }

    fn unset_window(&self, window: usize) -> Result<Arc<dyn DmaTable>, WindowError> {
        if self.sticks[window] {
            return Err(WindowError::Sync(NO_ANSWER));
        }
        self.windows.lock().unwrap()[window].take().ok_or(WindowError::NotSet(window))?;
        Ok(table(window, 12, 1))
    }

    fn window(&self, window: usize) -> Option<Arc<dyn DmaTable>> {
        self.windows.lock().unwrap()[window].map(|window| table(window, 12, 1))
    }
}

impl DmaTable for FakeTable {
    fn spec(&self) -> TableSpec {
        self.0
    }

    fn range(&self) -> IovaRange {
        let first = starts().get(self.0.window).copied().unwrap_or(Iova::new(1 << 60));
        IovaRange::new(first, self.0.window_bytes).unwrap()
    }

    fn accounted_bytes(&self) -> u64 {
        0
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn live(&self) -> u64 {
        0
    }

    fn prepare(&self, _: IovaRange) -> Result<(), EntryError> {
        Ok(())
    }

    fn exchange(&self, _: Iova, _: Option<TableEntry>) -> Result<Option<TableEntry>, EntryError> {
        Ok(None)
    }

    fn entry(&self, _: Iova) -> Option<TableEntry> {
        None
    }

    fn next(&self, _: Iova) -> Option<(Iova, TableEntry)> {
        None
    }

    fn flush(&self, _: &mut Gather) -> Result<Flushed, SyncError> {
        Err(NO_ANSWER)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn who_offers_ownership_without_tables_is_refused() {
    assert!(matches!(kind(&on_demand()), Ok(Kind::OnDemand(..))));
    let whole = Fake { whole: true, ..Fake::default() };
    assert!(matches!(kind(&whole), Ok(Kind::Whole(_))));
    let half = Fake { ownership: true, ..Fake::default() };
    let half_and_whole = Fake { ownership: true, whole: true, ..Fake::default() };
    for group in [&half, &half_and_whole, &Fake::default()] {
        let refused = kind(group).map(|_| ()).unwrap_err();
        assert_eq!((refused, refused.errno()), (OwnershipError::Incomplete, crate::owner::Errno::Efault));
    }
    assert_eq!(join(&whole, &[]), Err(JoinError::NotOnDemand));
}

#[test]
fn what_does_not_fit_joins_nobody() {
    let group = on_demand();
    let first = table(0, 12, 1);
    for (second, error) in [
        (table(1, 24, 1), JoinError::PageSize(SizeLg2::new(24).unwrap())),
        (table(1, 16, 3), JoinError::Levels(3)),
        (table(2, 16, 1), JoinError::Window(2)),
    ] {
        assert_eq!(error.errno(), crate::owner::Errno::Einval);
        assert_eq!(join(&group, &[first.clone(), second]), Err(error));
        assert_eq!(*group.windows.lock().unwrap(), [None, None]);
    }
}

#[test]
fn a_window_that_is_refused_takes_those_before_it_away_again() {
    let tables = [table(0, 12, 1), table(1, 12, 1)];
    let refuses = [false, true];
    let group = Fake { refuses, ..on_demand() };
    let error = JoinError::Set { window: 1, error: WindowError::NoMemory, left: vec![] };
    assert_eq!(join(&group, &tables), Err(error));
    assert_eq!(*group.windows.lock().unwrap(), [None, None]);
    let group = Fake { refuses, sticks: [true, false], ..on_demand() };
    let error = JoinError::Set { window: 1, error: WindowError::NoMemory, left: vec![0] };
    assert_eq!(join(&group, &tables), Err(error));
}

#[test]
fn who_leaves_gets_back_what_was_removed_even_if_the_rest_sticks() {
    let group = Fake { sticks: [false, true], ..on_demand() };
    join(&group, &[table(0, 12, 1), table(1, 12, 1)]).unwrap();
    let mut removed = vec![];
    assert_eq!(leave(&group, &mut removed), Err(WindowError::Sync(NO_ANSWER)));
    assert_eq!(removed.len(), 1);
    assert_eq!(*group.windows.lock().unwrap(), [None, Some(1)]);
}
