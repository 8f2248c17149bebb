//! Address space ids: whose TLB entries are whose.
//!
//! [`Asids`] is what a process needs; [`FixedAsids`] is the simplest that serves: each process has one for life, and there are no more processes
//! than ids. Not here: generations, and ids that change hands (`core`).

use core::fmt;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis::core::mm::{MmId, PinAsidError};

/// Who gives out ASIDs.
pub trait Asids: Send + Sync + fmt::Debug {
    /// A process begins. Answers whether it can have an ASID when it runs.
    fn adopt(&self, mm: MmId) -> bool;

    /// The ASID under which the process runs, now that it is about to run or to invalidate.
    fn current(&self, mm: MmId) -> u16;

    /// The ASID, to stay the same until as many [`unpin`](Self::unpin)s. Counted.
    ///
    /// # Errors
    ///
    /// As [`PinAsidError`] says; then nothing was counted.
    fn pin(&self, mm: MmId) -> Result<u16, PinAsidError>;

    /// Takes back one pin, also after [`retire`](Self::retire).
    fn unpin(&self, mm: MmId);

    /// A process has ended, and no CPU's TLB holds anything under its ASID. Pins remain.
    fn retire(&self, mm: MmId);
}

/// One ASID for each process, for life.
#[derive(Debug)]
pub struct FixedAsids {
    last: u16,
    holders: Mutex<BTreeMap<MmId, Holder>>,
}

#[derive(Debug)]
struct Holder {
    asid: u16,
    pins: u32,
    ended: bool,
}

impl FixedAsids {
    /// ASIDs of `bits` bits, 8 or 16. 0 is never given out.
    pub fn new(bits: u8) -> Self {
        Self { last: if bits >= 16 { u16::MAX } else { 0xff }, holders: Mutex::default() }
    }

    fn holders(&self) -> MutexGuard<'_, BTreeMap<MmId, Holder>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asids for FixedAsids {
    fn adopt(&self, mm: MmId) -> bool {
        let mut holders = self.holders();
        let taken: std::collections::BTreeSet<u16> = holders.values().map(|holder| holder.asid).collect();
        let Some(asid) = (1..=self.last).find(|asid| !taken.contains(asid)) else { return false };
        holders.insert(mm, Holder { asid, pins: 0, ended: false });
        true
    }

    fn current(&self, mm: MmId) -> u16 {
        self.holders().get(&mm).map_or(0, |holder| holder.asid)
    }

    fn pin(&self, mm: MmId) -> Result<u16, PinAsidError> {
        let mut holders = self.holders();
        let holder = holders.get_mut(&mm).filter(|holder| !holder.ended).ok_or(PinAsidError::Exited)?;
        holder.pins = holder.pins.checked_add(1).ok_or(PinAsidError::NoIds)?;
        Ok(holder.asid)
    }

    fn unpin(&self, mm: MmId) {
        let mut holders = self.holders();
        let Some(holder) = holders.get_mut(&mm) else { return };
        holder.pins = holder.pins.saturating_sub(1);
        if holder.ended && holder.pins == 0 {
            holders.remove(&mm);
        }
    }

    fn retire(&self, mm: MmId) {
        let mut holders = self.holders();
        let Some(holder) = holders.get_mut(&mm) else { return };
        holder.ended = true;
        if holder.pins == 0 {
            holders.remove(&mm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asid_is_one_processs_until_it_has_ended_and_nobody_pins_it() {
        let asids = FixedAsids::new(8);
        let ids: Vec<MmId> = (0..255).map(MmId).collect();
        assert!(ids.iter().all(|&id| asids.adopt(id)));
        let mut given: Vec<u16> = ids.iter().map(|&id| asids.current(id)).collect();
        given.sort_unstable();
        assert_eq!(given, (1..=255).collect::<Vec<u16>>());
        assert!(!asids.adopt(MmId(900)));
        let asid = asids.pin(MmId(7)).unwrap();
        assert_eq!(asids.pin(MmId(7)), Ok(asid));
        asids.retire(MmId(7));
        assert_eq!(asids.pin(MmId(7)), Err(PinAsidError::Exited));
        asids.unpin(MmId(7));
        assert!(!asids.adopt(MmId(900)), "pinned once more");
        asids.unpin(MmId(7));
        assert!(asids.adopt(MmId(900)));
        assert_eq!(asids.current(MmId(900)), asid);
    }
}
