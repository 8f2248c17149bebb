//! Root and context tables: where the entry of a source lies.
//!
//! Context tables are made when a source of theirs is first known, and stay until the unit is turned off: hardware caches root entries with what
//! they lead to, and there are few.
//!
//! Spec: VT-d 5.10, 9.1 "Root Entry", 9.2 "Scalable-mode Root Entry", 3.4.2 "Legacy Mode Address Translation".
//! Not here: what stands in an entry (`lead`, `switch`).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use portcullis_hal::{BlockLayout, Platform, Registers};
use portcullis_spec::vtd::context::{
    CONTEXT_BYTES, ROOT_BYTES, RootWord0, SCALABLE_CONTEXT_BYTES, ScalableRootWord,
};
use portcullis_types::Pa;

use crate::hardware::Hardware;

/// Root, context and PASID tables are pages; larger directories are several.
pub(crate) const PAGE: BlockLayout = BlockLayout::naturally_aligned(12);

/// The root table and what it leads to.
#[derive(Debug)]
pub(crate) struct Tables<P> {
    platform: Arc<P>,
    pub(crate) root: Pa,
    /// By address of the root entry's word.
    contexts: BTreeMap<u64, Pa>,
    scalable: bool,
}

impl<P: Platform> Tables<P> {
    /// An empty root table: every source is blocked. None if there is no memory.
    pub(crate) fn new(platform: Arc<P>, scalable: bool, coherent: bool) -> Option<Self> {
        let root = platform.alloc(PAGE)?;
        if !coherent {
            platform.clean_table(root, PAGE.size_bytes());
        }
        platform.write_barrier();
        Some(Self { platform, root, contexts: BTreeMap::new(), scalable })
    }

    /// The word of the root entry that a source is found by, and where in the context table its entry is.
    fn place(&self, sid: u16) -> (Pa, u64) {
        let (bus, devfn) = (u64::from(sid >> 8), u64::from(sid & 0xff));
        let entry = self.root.get() + ROOT_BYTES * bus;
        if self.scalable {
            (Pa::new(entry + 8 * (devfn >> 7)), SCALABLE_CONTEXT_BYTES * (devfn & 0x7f))
        } else {
            (Pa::new(entry), CONTEXT_BYTES * devfn)
        }
    }

    /// Where the entry of a source lies, if there is a table for it.
    pub(crate) fn find(&self, sid: u16) -> Option<Pa> {
        let (word, offset) = self.place(sid);
        Some(Pa::new(self.contexts.get(&word.get())?.get() + offset))
    }

    /// Sees to it that there are tables for the entries of all of these sources. None if there is no memory for one: then there is none that there was not before.
    pub(crate) fn ensure<R: Registers>(&mut self, hardware: &Hardware<P, R>, sids: &[u16]) -> Option<()> {
        let mut made: BTreeMap<u64, Pa> = BTreeMap::new();
        for word in sids.iter().map(|&sid| self.place(sid).0.get()) {
            if self.contexts.contains_key(&word) || made.contains_key(&word) {
                continue;
            }
            let Some(table) = self.platform.alloc(PAGE) else {
                made.into_values().for_each(|table| self.platform.free(table, PAGE));
                return None;
            };
            made.insert(word, table);
        }
        for (&word, &table) in &made {
            hardware.clean(table, 512);
            // Its zeroes are visible before the word that leads there.
            self.platform.write_barrier();
            let entry = if self.scalable {
                ScalableRootWord::new().with_p(true).with_ctp_address(table.get()).into_bits()
            } else {
                RootWord0::new().with_p(true).with_ctp_address(table.get()).into_bits()
            };
            hardware.store_word(Pa::new(word), entry);
        }
        self.contexts.append(&mut made);
        Some(())
    }

    /// How many bytes the tables take.
    pub(crate) fn bytes(&self) -> u64 {
        PAGE.size_bytes() * (1 + self.contexts.len() as u64)
    }

    /// Takes everything out of the root table. Hardware may remember it.
    pub(crate) fn empty<R: Registers>(&self, hardware: &Hardware<P, R>) {
        self.contexts.keys().for_each(|&word| hardware.store_word(Pa::new(word), 0));
    }

    /// Gives the context tables back. Hardware has forgotten them; the root table stays, with nothing in it.
    pub(crate) fn free_contexts(&mut self) {
        core::mem::take(&mut self.contexts).into_values().for_each(|table| self.platform.free(table, PAGE));
    }

    /// Gives everything back. The hardware does not translate.
    pub(crate) fn free(&mut self) {
        self.free_contexts();
        self.platform.free(self.root, PAGE);
    }
}
