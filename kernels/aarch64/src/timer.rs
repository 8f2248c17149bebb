//! The clock: the CPU's generic timer, by its virtual count; and an alarm, which is an interrupt some time later, once.
//!
//! Spec: Arm ARM DDI 0487 M.a, D12 "The Generic Timer in AArch64 state".
#![expect(unsafe_code, reason = "the timer is in system registers")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cpu::{self, write_register};

/// The alarm's interrupt. Spec: Arm BSA DEN0094, "PPI assignments": the EL1 virtual timer's.
pub(crate) const ALARM: u32 = 27;

/// CNTV_CTL_EL0.ENABLE. Without IMASK it interrupts for as long as its time has come.
const ENABLE: u64 = 1;

static ALARMS: AtomicU64 = AtomicU64::new(0);

/// Has the alarm come in `after_ns`, in place of one that was set before.
pub(crate) fn set_alarm(after_ns: u64) {
    let after = after_ns.saturating_mul(frequency_hz()) / 1_000_000_000;
    // SAFETY: an interrupt later, which comes once the controller lets it in: it has a handler then.
    unsafe {
        write_register!("cntv_cval_el0", ticks().saturating_add(after));
        write_register!("cntv_ctl_el0", ENABLE);
    }
    cpu::instruction_barrier();
}

/// No alarm comes until the next is set.
pub(crate) fn stop_alarm() {
    // SAFETY: as above.
    unsafe { write_register!("cntv_ctl_el0", 0) };
    cpu::instruction_barrier();
}

/// Called by the alarm's handler.
pub(crate) fn count_alarm() {
    ALARMS.fetch_add(1, Relaxed);
}

/// How many alarms have come.
pub(crate) fn alarms() -> u64 {
    ALARMS.load(Relaxed)
}

/// How often the clock ticks in a second.
pub(crate) fn frequency_hz() -> u64 {
    cpu::count_frequency_hz()
}

/// How often the clock has ticked. It is read after everything before has been done.
pub(crate) fn ticks() -> u64 {
    cpu::instruction_barrier();
    cpu::count()
}

/// Nanoseconds since the clock began.
pub(crate) fn now_ns() -> u64 {
    // In units of 2^-32 ns, so that no division by 128 bits is needed: drivers ask in every turn of a polling loop.
    let tick = (1_000_000_000 << 32) / frequency_hz().max(1);
    u64::try_from(u128::from(ticks()) * u128::from(tick) >> 32).unwrap_or(u64::MAX)
}
