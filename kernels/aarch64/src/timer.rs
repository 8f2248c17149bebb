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
    // In units of 2^-32 ns, so that no division by 128 bits is needed: drivers ask in every turn of a polling loop.
    let tick = (1_000_000_000 << 32) / frequency_hz().max(1);
    u64::try_from(u128::from(ticks()) * u128::from(tick) >> 32).unwrap_or(u64::MAX)
}
