//! The RTC: which PE a requester is of, as the RTT in memory said when it was last asked.
//!
//! Observed: skiboot hw/phb3.c, phb3_set_pe: the RTC is invalidated after the RTT was changed. Until then an entry may be kept.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(crate) struct Rtc(BTreeMap<u16, u8>);

impl Rtc {
    pub(crate) fn find(&self, rid: u16) -> Option<u8> {
        self.0.get(&rid).copied()
    }

    pub(crate) fn keep(&mut self, rid: u16, pe: u8) {
        self.0.insert(rid, pe);
    }

    pub(crate) fn forget(&mut self, rid: Option<u16>) {
        match rid {
            Some(rid) => {
                self.0.remove(&rid);
            }
            None => self.0.clear(),
        }
    }
}
