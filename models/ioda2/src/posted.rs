//! Stores that take effect later: kills of TCEs, and invalidations of the RTC.
//!
//! They wait in their order, and are done when their time has come, when there are too many of them, when a register is loaded, or when a CPU's
//! access to a device comes after them.
//!
//! Observed: skiboot hw/phb3.c, phb3_pci_msi_check_q: a load of any register makes what was under way before it visible. Linux 4.20, pnv_pci_phb3_tce_invalidate:
//! stores to tables are ordered (`mb`) before the kill.
//! Choice: Linux waits for nothing after a kill on PHB3; skiboot waits on PHB4 (hw/phb4.c, phb4_tce_kill) for the kill, then for reads under way. Here a kill is
//! complete when a load of 64 bits from any register has been answered: then the entries are gone, and no access that used them is still under way. TCE_KILL reads as
//! zero then, and DMARD_SYNC, once started, as complete.
//! Choice: a CPU's access to a device passes the bridge behind the stores that came before it, so that a device that is told of a mapping finds it: Linux 4.20,
//! pnv_ioda2_tce_build, kills after it made entries valid, and neither it nor a driver waits before the doorbell. Stores and loads alike: both go to the bridge by the
//! way on which the kill went, in order (Linux's writel and readl begin with a barrier), and a bridge that took a doorbell past a kill would freeze devices that
//! Linux has just mapped something for. The opposite is not promised: accesses under way are not waited for, so that who lets memory go after a kill has to load
//! a register of the bridge; a device's answer does not do.
//! Choice: a kill by entry names the TCE that translates the address, whatever its page size.

use portcullis_types::trace::Value;

use crate::registers::{KILL_ADDRESS, KILL_ALL, KILL_ONE, KILL_PE, KILL_PE_NUMBER, RTC_ALL, RTC_RID};
use crate::state::{Around, State};
use crate::strict::clause;

/// The most stores that wait.
const MOST: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    KillAll,
    KillPe(u8),
    KillOne(u8, u64),
    ForgetRids,
    ForgetRid(u16),
}

impl State {
    /// A store to TCE_KILL.
    pub(crate) fn store_kill(&mut self, value: u64, around: Around<'_>) {
        let pe = KILL_PE_NUMBER.get(value) as u8;
        let address = value & KILL_ADDRESS;
        let (kill, what) = match value & (KILL_ALL | KILL_PE | KILL_ONE) {
            KILL_ALL => (Posted::KillAll, "all"),
            KILL_PE => (Posted::KillPe(pe), "pe"),
            KILL_ONE => (Posted::KillOne(pe, address), "one"),
            _ => {
                self.notes.record(clause::KILL_FORM, format!("{value:#018x}"));
                return;
            }
        };
        match kill {
            Posted::KillAll => self.counters.kills_all += 1,
            Posted::KillPe(_) => self.counters.kills_pe += 1,
            _ => self.counters.kills_one += 1,
        }
        let fields =
            [("what", Value::Str(what)), ("pe", Value::Hex(pe.into())), ("addr", Value::Addr(address))];
        around.trace("tce_kill", &fields);
        self.post(kill, around);
    }

    /// A store to RTC_INVALIDATE.
    pub(crate) fn store_rtc_invalidate(&mut self, value: u64, around: Around<'_>) {
        self.counters.rtc_invalidations += 1;
        let all = value & RTC_ALL != 0;
        let posted = if all { Posted::ForgetRids } else { Posted::ForgetRid(RTC_RID.get(value) as u16) };
        self.post(posted, around);
    }

    fn post(&mut self, posted: Posted, around: Around<'_>) {
        let ticks = self.dice.up_to(around.config.policy.kill_ticks);
        self.posted.push_back((posted, ticks));
        self.do_posted(ticks == 0, around);
        while self.posted.len() > MOST {
            self.do_oldest(around);
        }
    }

    /// Does what is due, or, if `all`, everything. Answers whether there was anything.
    pub(crate) fn do_posted(&mut self, all: bool, around: Around<'_>) -> bool {
        let had = !self.posted.is_empty();
        while self.posted.front().is_some_and(|&(_, ticks)| all || ticks == 0) {
            self.do_oldest(around);
        }
        had
    }

    /// Moves time on by a tick.
    pub(crate) fn tick_posted(&mut self, around: Around<'_>) -> bool {
        for (_, ticks) in &mut self.posted {
            *ticks = ticks.saturating_sub(1);
        }
        self.do_posted(false, around)
    }

    fn do_oldest(&mut self, around: Around<'_>) {
        let Some((posted, _)) = self.posted.pop_front() else { return };
        let killed = match posted {
            Posted::KillAll => self.cache.kill_all(),
            Posted::KillPe(pe) => self.cache.kill_pe(pe),
            Posted::KillOne(pe, address) => self.cache.kill_one(pe, address),
            Posted::ForgetRids => {
                self.rtc.forget(None);
                0
            }
            Posted::ForgetRid(rid) => {
                self.rtc.forget(Some(rid));
                0
            }
        };
        self.counters.killed += killed as u64;
        self.fence = around.flights.next();
    }
}
