//! A guest: memory that a parent maps, and a table in it, written word by word as a guest's kernel would.
//!
//! Words are hexadecimal, from the book of the CPU whose tables these are ([`Dialect`]); neither the drivers' formats nor the models have a part in them.
//!
//! Not here: what holds of guests (`nested`).

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis::core::iommu::{Iommu, Target};
use portcullis::core::nested::{GuestInvalidation, GuestTable, NestedDomain};
use portcullis::types::{Gpa, Iova, IovaRange, Pa, Perms, SizeLg2};

use super::Vendor;
use super::rig::{Domain, Rig};
use crate::conformance::bed::Bed;
use crate::conformance::bench::Outcome;
use crate::conformance::floor::WAY_OUT;

/// How a kind of CPU writes its tables.
pub struct Dialect {
    /// A name for people.
    pub name: &'static str,
    /// The size of a page, and of a table.
    pub granule: SizeLg2,
    /// Levels of tables.
    pub levels: u8,
    /// The entry that leads to the table at this guest-physical address.
    pub table: fn(u64) -> u64,
    /// The entry that maps the page at this guest-physical address, for writing too or for reading alone.
    pub page: fn(u64, bool) -> u64,
    /// What the guest tells its IOMMU of a table with this root.
    pub says: fn(&Dialect, Gpa) -> GuestTable,
}

/// Where the tables lie in the guest's memory, and for how many there is room, as log2.
const TABLES: u64 = 0x1000_0000;
const ROOM_LG2: u8 = 4;
/// Where the guest's pages lie, far enough from each other for any granule.
const PAGES: u64 = 0x2000_0000;
const APART: u64 = 0x1_0000;
/// The address in an entry.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// A guest on a rig.
pub struct Guest<'a, B: Bed, V: Vendor> {
    rig: &'a Rig<B, V>,
    dialect: &'a Dialect,
    /// What its memory is mapped by.
    pub parent: Domain<B>,
    /// Where its tables lie, of which the first is the root: guest-physical.
    pub root: u64,
    /// And in the host's memory.
    tables: Pa,
    tables_bytes: u64,
    next_table: Cell<u64>,
    next_page: Cell<u64>,
    words: RefCell<BTreeMap<u64, u64>>,
}

impl<'a, B: Bed, V: Vendor> Guest<'a, B, V> {
    /// With memory for its tables, and nothing mapped by them but the way out.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn new(rig: &'a Rig<B, V>, dialect: &'a Dialect) -> Result<Self, String> {
        let parent = rig.driver.new_parent().map_err(|error| format!("a parent: {error:?}"))?;
        rig.map(&parent, WAY_OUT, rig.way_out(), rig.granule.bytes(), Perms::READ_WRITE)?;
        Self::with(rig, dialect, parent, TABLES, PAGES)
    }

    /// Another address space of the same machine: more tables, with a root of their own, and pages apart from these.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn sibling(&self) -> Result<Self, String> {
        let apart = 0x100 * APART;
        Self::with(
            self.rig,
            self.dialect,
            self.parent.clone(),
            self.root + apart,
            self.next_page.get() + apart,
        )
    }

    fn with(
        rig: &'a Rig<B, V>,
        dialect: &'a Dialect,
        parent: Domain<B>,
        root: u64,
        first_page: u64,
    ) -> Result<Self, String> {
        let size_lg2 = (dialect.granule.get() + ROOM_LG2).max(rig.granule.get());
        let (tables, tables_bytes) = (rig.memory(size_lg2)?, 1 << size_lg2);
        rig.fill(tables, &vec![0; 1 << size_lg2]);
        rig.map(&parent, root, tables, tables_bytes, Perms::READ_WRITE)?;
        let next_table = Cell::new(root + dialect.granule.bytes());
        let next_page = Cell::new(first_page);
        let words = RefCell::default();
        let guest = Self { rig, dialect, parent, root, tables, tables_bytes, next_table, next_page, words };
        guest.map(WAY_OUT, WAY_OUT, true)?;
        Ok(guest)
    }

    /// A page of its memory that the parent maps: guest-physical, and where it is in the host's memory.
    ///
    /// # Errors
    ///
    /// There is no memory, or the driver refused.
    pub fn page(&self, perms: Perms) -> Result<(u64, Pa), String> {
        let (gpa, page) = (self.hole(), self.rig.page()?);
        self.back(gpa, page, perms)?;
        Ok((gpa, page))
    }

    /// A guest-physical address that the parent does not map.
    pub fn hole(&self) -> u64 {
        self.next_page.replace(self.next_page.get() + APART)
    }

    /// The monitor maps a page of the guest's memory.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn back(&self, gpa: u64, page: Pa, perms: Perms) -> Outcome {
        self.rig.map(&self.parent, gpa, page, self.rig.granule.bytes(), perms)
    }

    /// The monitor takes it away.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn take_away(&self, gpa: u64) -> Outcome {
        self.rig.unmap(&self.parent, gpa, self.rig.granule.bytes())
    }

    /// The monitor takes the memory of all its tables away.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn take_tables_away(&self) -> Outcome {
        self.rig.unmap(&self.parent, self.root, self.tables_bytes)
    }

    /// The monitor lets the memory of all its tables be read alone.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn shut_tables(&self) -> Outcome {
        self.take_tables_away()?;
        self.rig.map(&self.parent, self.root, self.tables, self.tables_bytes, Perms::READ)
    }

    /// Maps a page of the guest's in its own table, where nothing was mapped.
    ///
    /// # Errors
    ///
    /// There is no room for a table.
    pub fn map(&self, at: u64, gpa: u64, writable: bool) -> Outcome {
        self.write(self.entry(at, 0)?, (self.dialect.page)(gpa, writable));
        Ok(())
    }

    /// Where the entry for an address is in the table of a level, 0 being that of pages. Tables on the way are made.
    ///
    /// # Errors
    ///
    /// There is no room for a table.
    pub fn entry(&self, at: u64, level: u8) -> Result<u64, String> {
        let mut table = self.root;
        for above in (level + 1..self.dialect.levels).rev() {
            let entry = table + 8 * self.index(at, above);
            let word = self.words.borrow().get(&entry).copied();
            table = match word.filter(|&word| word != 0) {
                Some(word) => word & ADDRESS,
                None => {
                    let new = self.new_table()?;
                    self.write(entry, (self.dialect.table)(new));
                    new
                }
            };
        }
        Ok(table + 8 * self.index(at, level))
    }

    /// A table with nothing in it, guest-physical.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn new_table(&self) -> Result<u64, String> {
        let new = self.next_table.replace(self.next_table.get() + self.dialect.granule.bytes());
        if new - self.root < self.tables_bytes { Ok(new) } else { Err("no room for a guest's table".into()) }
    }

    /// The index of an address in a table of a level.
    pub fn index(&self, at: u64, level: u8) -> u64 {
        let (page, bits) = (self.dialect.granule.get(), self.dialect.granule.get() - 3);
        at >> (page + level * bits) & ((1 << bits) - 1)
    }

    /// Stores a word of a table, so that hardware sees it.
    pub fn write(&self, gpa: u64, word: u64) {
        self.words.borrow_mut().insert(gpa, word);
        self.rig.fill(Pa::new(self.tables.get() + (gpa - self.root)), &word.to_le_bytes());
    }

    /// A word of a table, as hardware left it.
    pub fn word(&self, gpa: u64) -> u64 {
        let bytes = self.rig.bytes(Pa::new(self.tables.get() + (gpa - self.root)), 8);
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    }

    /// Its table before the parent's.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn nested(&self) -> Result<Arc<dyn NestedDomain>, String> {
        self.nested_from(self.root)
    }

    /// The same, whatever it says its root is.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn nested_from(&self, root: u64) -> Result<Arc<dyn NestedDomain>, String> {
        let table = (self.dialect.says)(self.dialect, Gpa::new(root));
        let nested = self.rig.driver.new_nested(&self.parent, &table);
        nested.map_err(|error| format!("{table:x?} nested: {error:?}"))
    }

    /// The same, and every engine attached to it.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn led(&self) -> Result<Arc<dyn NestedDomain>, String> {
        let nested = self.nested()?;
        self.lead(&nested)?;
        Ok(nested)
    }

    /// Attaches every engine.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn lead(&self, nested: &Arc<dyn NestedDomain>) -> Outcome {
        let target = Target::Nested(nested.clone());
        self.rig.streams().into_iter().try_for_each(|stream| self.rig.attach(stream, &target))
    }

    /// What the guest's invalidation of one page is.
    pub fn one_page(&self, at: u64, leaves_only: bool) -> GuestInvalidation {
        let range = IovaRange::new(Iova::new(at), self.dialect.granule.bytes()).expect("pages do not wrap");
        GuestInvalidation::Range { range, leaves_only }
    }
}
