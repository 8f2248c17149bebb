//! Tables that an unmap emptied: cut off, taken back or freed, each once.

mod support;

use portcullis_hal::{Barriers, TableMemory};
use portcullis_pgtable::arm::{Config, Stage1};
use portcullis_pgtable::{PageTable, Retired};
use portcullis_types::{Iova, Pa, PageSizes, SizeLg2};
use support::{RW, Tables, range};

fn table() -> (PageTable<Stage1>, Tables) {
    let tables = Tables::default();
    let config = Config { input_bits: 39, ..Config::new(SizeLg2::KIB_4) };
    (PageTable::new(Stage1::new(config).unwrap(), &tables).unwrap(), tables)
}

fn map(table: &mut PageTable<Stage1>, tables: &Tables, at: u64, len: u64) {
    table.map(tables, Iova::new(at), Pa::new(at), len, RW).unwrap();
}

#[test]
fn an_emptied_table_is_cut_off_and_freed_with_its_ticket() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x1000, 0x1000);
    map(&mut table, &tables, 0x5000, 0x1000);
    let first = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
    assert!(first.retired.is_empty() && !first.tables, "a page is left");
    let second = table.unmap(&tables, range(0x5000, 0x1000)).unwrap();
    assert!(second.tables && !second.retired.is_empty());
    assert_eq!((tables.load(table.root()), tables.live_blocks()), (0, 3), "cut off, and not freed");
    second.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 1);
}

#[test]
fn what_was_cut_off_is_all_zero_so_that_a_cached_walk_finds_nothing() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x1000, 0x3f_0000);
    let gone = table.unmap(&tables, range(0, 0x40_0000)).unwrap();
    assert_eq!(gone.bytes, 0x3f_0000);
    assert!(tables.live_words().iter().all(|(_, words)| words.iter().all(|&word| word == 0)));
    gone.retired.free(table.format(), &tables);
}

/// The page of another owner is mapped before what was unmapped beside it has been invalidated. Hardware may have cached where the
/// table was: the new page must be found there, and no other table may be put in its place.
#[test]
fn an_entry_never_goes_from_one_table_to_another_before_the_invalidation() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x1000, 0x1000);
    let link = tables.load(table.root());
    let gone = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
    map(&mut table, &tables, 0x5000, 0x1000);
    assert_eq!((tables.load(table.root()), tables.live_blocks()), (link, 3));
    gone.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 3, "tables in use are not freed");
    assert_eq!(table.lookup(&tables, Iova::new(0x5000)).unwrap().pa, Pa::new(0x5000));
}

#[test]
fn a_block_is_not_put_where_a_table_waits_to_be_freed() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x20_1000, 0x1000);
    let gone = table.unmap(&tables, range(0x20_0000, 0x20_0000)).unwrap();
    map(&mut table, &tables, 0x20_0000, 0x20_0000);
    assert_eq!(table.lookup(&tables, Iova::new(0x20_0000)).unwrap().size, SizeLg2::KIB_4);
    gone.retired.free(table.format(), &tables);
    let gone = table.unmap(&tables, range(0x20_0000, 0x20_0000)).unwrap();
    gone.retired.free(table.format(), &tables);
    map(&mut table, &tables, 0x20_0000, 0x20_0000);
    assert_eq!(table.lookup(&tables, Iova::new(0x20_0000)).unwrap().size, SizeLg2::MIB_2);
}

/// Hardware may have leaves of 4 KiB and of 1 GiB, and none between.
#[test]
fn where_a_size_of_leaf_is_missing_larger_ones_are_neither_split_into_it_nor_made_where_a_table_waits() {
    let tables = Tables::default();
    let page_sizes = PageSizes::default().with(SizeLg2::KIB_4).with(SizeLg2::GIB_1);
    let config = Config { input_bits: 39, page_sizes, ..Config::new(SizeLg2::KIB_4) };
    let mut table = PageTable::new(Stage1::new(config).unwrap(), &tables).unwrap();
    let gib = 1 << 30;
    map(&mut table, &tables, 0x1000, 0x1000);
    let gone = table.unmap(&tables, range(0, gib)).unwrap();
    map(&mut table, &tables, 0, gib);
    gone.retired.free(table.format(), &tables);
    let part = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
    part.retired.free(table.format(), &tables);
    for at in [0, 0x2000, 0x20_0000, gib - 0x1000] {
        let found = table.lookup(&tables, Iova::new(at)).unwrap();
        assert_eq!((found.pa, found.size), (Pa::new(at), SizeLg2::KIB_4), "{at:#x}");
    }
    assert_eq!(table.lookup(&tables, Iova::new(0x1000)), None);
    // Alone, and never in the way of anything.
    map(&mut table, &tables, gib, gib);
    let part = table.unmap(&tables, range(gib + 0x1000, 0x1000)).unwrap();
    assert_eq!(table.lookup(&tables, Iova::new(gib + 0x40_0000)).unwrap().size, SizeLg2::KIB_4);
    part.retired.free(table.format(), &tables);
}

#[test]
fn a_table_that_is_retired_twice_is_freed_by_the_second_ticket_only() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x1000, 0x1000);
    let first = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
    map(&mut table, &tables, 0x5000, 0x1000);
    let second = table.unmap(&tables, range(0x5000, 0x1000)).unwrap();
    first.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 3, "the invalidation of 0x5000 has not been waited for");
    second.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 1);
}

/// Hardware may know where a table was whose invalidation has not been confirmed. If the table above it could be freed meanwhile, the next map would put
/// another in its place, and hardware go on looking into the old one.
#[test]
fn a_parent_is_not_cut_off_while_a_child_waits_for_an_earlier_invalidation() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x1000, 0x1000);
    map(&mut table, &tables, 0x20_0000, 0x1000);
    let link = |table: &PageTable<Stage1>| {
        let above = tables.load(table.root()) & 0xffff_ffff_f000;
        tables.load(Pa::new(above))
    };
    let known = link(&table);
    let child = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
    let rest = table.unmap(&tables, range(0x20_0000, 0x1000)).unwrap();
    rest.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 3, "the root, the child, and what is above it");
    map(&mut table, &tables, 0x5000, 0x1000);
    assert_eq!(link(&table), known, "where hardware may look");
    child.retired.free(table.format(), &tables);
    assert_eq!(table.lookup(&tables, Iova::new(0x5000)).unwrap().pa, Pa::new(0x5000));
    table.destroy(&tables);
    assert_eq!(tables.live_blocks(), 0);
}

#[test]
fn a_parent_that_waited_for_a_child_goes_with_the_next_unmap_there() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x1000, 0x1000);
    map(&mut table, &tables, 0x20_0000, 0x1000);
    let child = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
    let rest = table.unmap(&tables, range(0x20_0000, 0x1000)).unwrap();
    child.retired.free(table.format(), &tables);
    rest.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 2, "the root, and the empty one that nobody has looked at since");
    let looked = table.unmap(&tables, range(0x5000, 0x1000)).unwrap();
    assert_eq!((looked.bytes, looked.tables), (0, true));
    looked.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 1);
}

/// Whoever waits for the invalidation of a range has waited for those within it: what one of these cut off holds nothing back. Such is the second try of an
/// unmap that was not confirmed.
#[test]
fn a_parent_goes_with_an_unmap_of_all_that_its_children_wait_for() {
    for (first, len) in [(0x1000, 0x1000), (0, 0x20_0000), (0, 1 << 30)] {
        let (mut table, tables) = table();
        map(&mut table, &tables, 0x1000, 0x1000);
        map(&mut table, &tables, 0x20_0000, 0x1000);
        let child = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
        let rest = table.unmap(&tables, range(0x20_0000, 0x1000)).unwrap();
        assert_ne!(tables.load(table.root()), 0, "not by this one");
        rest.retired.free(table.format(), &tables);
        let again = table.unmap(&tables, range(first, len)).unwrap();
        assert!(again.tables && tables.load(table.root()) == 0, "{first:#x} and {len:#x}");
        for part in [child, again] {
            part.retired.free(table.format(), &tables);
        }
        assert_eq!(tables.live_blocks(), 1);
        map(&mut table, &tables, 0x1000, 0x1000);
        assert_eq!(table.lookup(&tables, Iova::new(0x1000)).unwrap().pa, Pa::new(0x1000));
        table.destroy(&tables);
        assert_eq!(tables.live_blocks(), 0);
    }
}

#[test]
fn tickets_can_be_joined_and_outlive_the_table() {
    let (mut table, tables) = table();
    let mut all = Retired::new();
    for at in [0, 1 << 30, 2 << 30] {
        map(&mut table, &tables, at, 0x1000);
        all.append(table.unmap(&tables, range(at, 0x1000)).unwrap().retired).unwrap();
    }
    let format = *table.format();
    table.destroy(&tables);
    assert_eq!(tables.live_blocks(), 6, "hardware may still be reading these");
    all.free(&format, &tables);
    assert_eq!(tables.live_blocks(), 0);
}

#[test]
fn tables_are_freed_while_others_are_mapped() {
    let (mut table, tables) = table();
    let format = *table.format();
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel::<Retired>();
        let tables = &tables;
        scope.spawn(move || receive.into_iter().for_each(|retired| retired.free(&format, tables)));
        for turn in 0..3000u64 {
            let at = turn % 3 * 0x20_0000 + turn % 7 * 0x1000;
            map(&mut table, tables, at, 0x1000);
            assert_eq!(table.lookup(tables, Iova::new(at)).map(|found| found.pa), Some(Pa::new(at)));
            let gone = table.unmap(tables, range(at, 0x1000)).unwrap();
            assert_eq!(gone.bytes, 0x1000);
            send.send(gone.retired).unwrap();
        }
    });
    let rest = table.unmap(&tables, range(0, 0x1000)).unwrap();
    rest.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 1, "each table was freed once, by one or the other");
}

/// Memory in which another CPU frees a ticket just when a map allocates: after the map has planned, before it builds.
struct Racing {
    tables: Tables,
    ticket: std::sync::Mutex<Option<(Stage1, Retired)>>,
}

impl TableMemory for Racing {
    fn alloc(&self, layout: portcullis_hal::BlockLayout) -> Option<Pa> {
        if let Some((format, retired)) = self.ticket.lock().unwrap().take() {
            retired.free(&format, &self.tables);
        }
        self.tables.alloc(layout)
    }
    fn free(&self, first: Pa, layout: portcullis_hal::BlockLayout) {
        self.tables.free(first, layout);
    }
    fn load(&self, at: Pa) -> u64 {
        self.tables.load(at)
    }
    fn store(&self, at: Pa, word: u64) {
        self.tables.store(at, word);
    }
    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.tables.compare_exchange(at, current, new)
    }
    fn clean_table(&self, at: Pa, len_bytes: u64) {
        self.tables.clean_table(at, len_bytes);
    }
}

impl Barriers for Racing {
    fn write_barrier(&self) {
        self.tables.write_barrier();
    }
    fn read_barrier(&self) {}
    fn full_barrier(&self) {
        self.tables.full_barrier();
    }
}

#[test]
fn a_ticket_may_be_freed_between_the_plan_and_the_building_of_a_map() {
    let (mut table, tables) = table();
    map(&mut table, &tables, 0x1000, 0x1000);
    let gone = table.unmap(&tables, range(0x1000, 0x1000)).unwrap();
    let ticket = std::sync::Mutex::new(Some((*table.format(), gone.retired)));
    let racing = Racing { tables, ticket };
    for at in [0x5000, 1 << 30, 2 << 30] {
        table.map(&racing, Iova::new(at), Pa::new(at), 0x1000, RW).unwrap();
        assert_eq!(table.lookup(&racing, Iova::new(0x5000)).map(|found| found.pa), Some(Pa::new(0x5000)));
    }
    assert!(racing.ticket.lock().unwrap().is_none(), "the ticket was freed on the way");
    let all = table.unmap(&racing, table.aperture()).unwrap();
    assert_eq!(all.bytes, 0x3000);
    all.retired.free(table.format(), &racing);
    assert_eq!(racing.tables.live_blocks(), 1);
}
