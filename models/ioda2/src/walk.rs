//! From a DMA address to a real one: RTT, TVE, tables of TCEs.
//!
//! ```text
//! requester id ── RTT ──► PE ── and address bit 59 ──► TVE ──► table ──► … ──► TCE ──► page
//! ```
//!
//! TCEs are big-endian: the real page in the upper bits, read in bit 63 by the book's count, write in bit 62. Each is checked by itself.
//!
//! Observed: QEMU 7.2, hw/pci-host/pnv_phb3.c, pnv_phb3_resolve_pe, pnv_phb3_translate_iommu, pnv_phb3_translate_tve.
//! Choice: a TCE of an upper level counts as there if it has either permission.
//! Not here: what a refusal does (`report`), messages (`message`).

use model_bus::{Fabric, Notes};
use portcullis_types::Pa;

use crate::cache::{Kept, TceCache};
use crate::cause::Cause;
use crate::counters::Counters;
use crate::policy::Policy;
use crate::registers::{
    CONFIG_MSI32, CONFIG_MSI64, CONTROL, CONTROL_BYPASS_32, PHB3_CONFIG, RTT_BAR, Registers,
};
use crate::rtc::Rtc;
use crate::strict::clause;
use crate::tables::Tables;
use crate::tve::{Invalid, REAL_BITS, Tree, WINDOW_BITS, Window, decode};

const READ: u64 = 1;
const WRITE: u64 = 2;
/// Bytes of a line of TCEs.
const LINE: u64 = 128;
/// The message regions. Observed: skiboot hw/phb3.c, phb3_get_msi_32 and phb3_get_msi_64.
const MSI32: u64 = 0xffff_0000;
const MSI64: u64 = 1 << 60;
/// What an address in the 64-bit message region may say besides.
const MSI64_BITS: u64 = 0xf_fff0;

/// An access, as the bridge sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) rid: u16,
    pub(crate) address: u64,
    pub(crate) len_bytes: u32,
    pub(crate) write: bool,
}

/// An access that is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// To memory.
    Memory { output: u64, translated: bool },
    /// A message: what its address says of the source.
    Message { source_high: u32 },
}

/// The walker, on the caches of the model or on empty ones.
pub(crate) struct Walker<'a> {
    pub(crate) registers: &'a Registers,
    pub(crate) tables: &'a Tables,
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) rtc: &'a mut Rtc,
    pub(crate) cache: &'a mut TceCache,
    pub(crate) notes: &'a mut Notes,
    pub(crate) counters: &'a mut Counters,
    pub(crate) policy: &'a Policy,
}

impl Walker<'_> {
    /// The PE of a requester.
    pub(crate) fn pe(&mut self, rid: u16) -> Result<u8, Cause> {
        if let Some(pe) = self.rtc.find(rid) {
            return Ok(pe);
        }
        let Some(rtt) = self.registers.table(RTT_BAR) else {
            self.notes.record(clause::RTT_DISABLED, format!("requester {rid:#x}"));
            return Err(Cause::RttUnreadable);
        };
        let mut entry = [0; 2];
        self.counters.rtt_reads += 1;
        let read = self.fabric.read(Pa::new(rtt + 2 * u64::from(rid)), &mut entry);
        read.map_err(|_| Cause::RttUnreadable)?;
        let pe = u8::try_from(u16::from_be_bytes(entry)).map_err(|_| Cause::RttInvalid)?;
        self.rtc.keep(rid, pe);
        Ok(pe)
    }

    /// Where an access of the PE goes.
    pub(crate) fn translate(&mut self, pe: u8, asked: &Asked) -> Result<Grant, Cause> {
        let config = self.registers.get(PHB3_CONFIG);
        let at = asked.address;
        match at >> 60 {
            0 if config & CONFIG_MSI32 != 0 && at & !0xffff == MSI32 => message(asked, at & 0xffff),
            0 => self.window(pe, asked),
            1 if config & CONFIG_MSI64 != 0 => {
                if at & !MSI64_BITS == MSI64 {
                    message(asked, at & MSI64_BITS)
                } else {
                    Err(Cause::MessageForm)
                }
            }
            _ => Err(Cause::AddressForm),
        }
    }

    fn window(&mut self, pe: u8, asked: &Asked) -> Result<Grant, Cause> {
        let number = u16::from(pe) << 1 | (asked.address >> WINDOW_BITS & 1) as u16;
        let tve = self.tables.tve(number);
        let at = asked.address & (u64::MAX >> (64 - WINDOW_BITS));
        let window = decode(tve).map_err(|invalid: Invalid| {
            self.notes.record(clause::TVE_FORM, format!("TVE {number:#x}, {tve:#x}: {}", invalid.name()));
            Cause::TveInvalid
        })?;
        match window {
            Window::Disabled => Err(Cause::TveDisabled),
            Window::Untranslated { first, end } => {
                // Observed: QEMU 7.2, pnv_phb3_translate_tve: "Venice/Murano support it on bottom window above 4G and Naples suports it on everything".
                let low = number & 1 == 0 && at >> 32 == 0;
                let low_allowed = self.registers.get(CONTROL) & CONTROL_BYPASS_32 != 0;
                if (first..end).contains(&at) && (!low || low_allowed) {
                    Ok(Grant::Memory { output: at, translated: false })
                } else {
                    Err(Cause::OutOfWindow)
                }
            }
            Window::Translated(tree) if at >> tree.reach() != 0 => Err(Cause::OutOfWindow),
            Window::Translated(tree) => {
                let (tce, page_lg2) = self.find_or_walk(number, tve, &tree, asked.address)?;
                let output = self.check(tce, page_lg2, at, asked)?;
                Ok(Grant::Memory { output, translated: true })
            }
        }
    }

    fn find_or_walk(
        &mut self,
        number: u16,
        tve: u64,
        tree: &Tree,
        address: u64,
    ) -> Result<(u64, u32), Cause> {
        if let Some((kept, page_lg2)) = self.cache.find(number, address, tree.page_lg2) {
            self.counters.hits += 1;
            if kept.tve != tve {
                let detail = format!("TVE {number:#x}, address {address:#x}: fetched under {:#x}", kept.tve);
                self.notes.record(clause::STALE_WINDOW, detail);
            }
            return Ok((kept.tce, page_lg2));
        }
        self.counters.misses += 1;
        Ok((self.walk(number, tve, tree, address)?, tree.page_lg2))
    }

    fn walk(&mut self, number: u16, tve: u64, tree: &Tree, address: u64) -> Result<u64, Cause> {
        let at = address & (u64::MAX >> (64 - WINDOW_BITS));
        let mut base = tree.base;
        for below in (0..tree.levels).rev() {
            if base & (tree.table_bytes() - 1) != 0 {
                self.notes.record(clause::TABLE_ALIGNMENT, format!("table at {base:#x} of TVE {number:#x}"));
            }
            let prefix = at >> (tree.page_lg2 + below * tree.level_bits);
            let index = prefix & ((1 << tree.level_bits) - 1);
            // Joined, not added.
            let entry = base | index << 3;
            if below == 0 {
                return self.fetch_leaf(number, tve, tree, address, entry);
            }
            base = self.fetch_table(number, tve, below, prefix, entry)?;
        }
        Err(Cause::TveInvalid)
    }

    /// A TCE of an upper level: where the next table is.
    fn fetch_table(
        &mut self,
        number: u16,
        tve: u64,
        below: u32,
        prefix: u64,
        entry: u64,
    ) -> Result<u64, Cause> {
        let kept = match self.cache.find_table(number, below, prefix) {
            Some(kept) => kept.tce,
            None => {
                let tce = self.read(entry)?;
                if tce & (READ | WRITE) == 0 {
                    return Err(Cause::TcePageFault);
                }
                if self.policy.keep_tables {
                    self.cache.keep_table(number, below, prefix, Kept { tce, tve });
                }
                tce
            }
        };
        Ok(self.real(kept, 12))
    }

    /// A TCE of the lowest level, perhaps with its neighbours.
    fn fetch_leaf(
        &mut self,
        number: u16,
        tve: u64,
        tree: &Tree,
        address: u64,
        entry: u64,
    ) -> Result<u64, Cause> {
        let mut line = [0; LINE as usize];
        let first = entry & !(LINE - 1);
        let wanted = ((entry - first) / 8) as usize;
        if !self.policy.lines || self.fabric.read(Pa::new(first), &mut line).is_err() {
            let tce = self.read(entry)?;
            self.keep(number, tve, tree, address, tce);
            return Ok(tce);
        }
        self.counters.table_reads += 1;
        let (words, _) = line.as_chunks::<8>();
        let fetched = core::array::from_fn(|place| Kept { tce: u64::from_be_bytes(words[place]), tve });
        // Tables lie on multiples of 4 KiB: a TCE's place in its line is that of its page among 16. What was cached of the neighbours stays as it was.
        let keep_invalid = self.policy.keep_invalid;
        self.cache
            .keep_line(number, address, tree.page_lg2, &fetched, |kept| is_kept(kept.tce, keep_invalid));
        Ok(fetched[wanted].tce)
    }

    fn keep(&mut self, number: u16, tve: u64, tree: &Tree, address: u64, tce: u64) {
        if is_kept(tce, self.policy.keep_invalid) {
            self.cache.keep(number, address, tree.page_lg2, Kept { tce, tve });
        }
    }

    fn read(&mut self, at: u64) -> Result<u64, Cause> {
        let mut word = [0; 8];
        self.counters.table_reads += 1;
        self.fabric.read(Pa::new(at), &mut word).map_err(|_| Cause::TceUnreadable)?;
        Ok(u64::from_be_bytes(word))
    }

    /// The real address in a TCE, of a page or a table of that size.
    fn real(&mut self, tce: u64, lg2: u32) -> u64 {
        let address = tce & (u64::MAX >> (64 - REAL_BITS)) & (u64::MAX << lg2);
        if tce & !(READ | WRITE) != address {
            self.notes.record(clause::TCE_ADDRESS, format!("TCE {tce:#x} of {lg2} bits"));
        }
        address
    }

    /// Whether the TCE lets the access through, and where to.
    fn check(&mut self, tce: u64, page_lg2: u32, at: u64, asked: &Asked) -> Result<u64, Cause> {
        let needed = if asked.write { WRITE } else { READ };
        if tce & (READ | WRITE) == 0 {
            Err(Cause::TcePageFault)
        } else if tce & needed == 0 {
            Err(Cause::TceAccessFault)
        } else {
            Ok(self.real(tce, page_lg2) | at & ((1 << page_lg2) - 1))
        }
    }
}

/// Whether a TCE is kept.
const fn is_kept(tce: u64, invalid_too: bool) -> bool {
    tce & (READ | WRITE) != 0 || invalid_too
}

/// A message by what its address says: a write of 2 or 4 bytes.
fn message(asked: &Asked, low: u64) -> Result<Grant, Cause> {
    if !asked.write || !matches!(asked.len_bytes, 2 | 4) || low & 0xf != 0 {
        return Err(Cause::MessageForm);
    }
    Ok(Grant::Message { source_high: (low >> 4) as u32 })
}
