//! The clock: the CPU's generic timer, by its virtual count.
//!
//! Spec: Arm ARM DDI 0487 M.a, D12 "The Generic Timer in AArch64 state".

use crate::cpu;

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
    let ns = u128::from(ticks()) * 1_000_000_000 / u128::from(frequency_hz().max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}
