//! What Rust has no words for: system registers, barriers, interrupt masks.
#![expect(unsafe_code, reason = "instructions that Rust does not have")]

use core::arch::asm;

/// Reads a system register.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading one of the registers named in this kernel changes nothing that Rust knows of.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// Writes a system register. The caller says why that is safe.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags))
    }};
}

pub(crate) use {read_register, write_register};

/// What the last exception was about.
pub(crate) fn syndrome() -> u64 {
    read_register!("esr_el1")
}

/// Which address the last exception was about, if it was about one.
pub(crate) fn fault_address() -> u64 {
    read_register!("far_el1")
}

/// The virtual count of the generic timer.
pub(crate) fn count() -> u64 {
    read_register!("cntvct_el0")
}

/// How often the generic timer counts in a second.
pub(crate) fn count_frequency_hz() -> u64 {
    read_register!("cntfrq_el0")
}

/// Everything that this CPU did to memory before is seen by everybody before anything that it does after (`dsb sy`).
pub(crate) fn full_barrier() {
    // SAFETY: a barrier. Not `nomem`: the compiler keeps its accesses on their sides, too.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Stores before are seen by everybody before stores after (`dsb st`).
pub(crate) fn store_barrier() {
    // SAFETY: as above.
    unsafe { asm!("dsb st", options(nostack, preserves_flags)) };
}

/// Loads before are satisfied before anything after (`dsb ld`).
pub(crate) fn load_barrier() {
    // SAFETY: as above.
    unsafe { asm!("dsb ld", options(nostack, preserves_flags)) };
}

/// What changed in system registers is in force for the instructions that follow.
pub(crate) fn instruction_barrier() {
    // SAFETY: as above.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// The mask of interrupts, to be given back to [`restore_interrupts`].
#[derive(Clone, Copy)]
pub(crate) struct Mask(u64);

impl Mask {
    /// Interrupts as they are while nobody masks them.
    pub(crate) const OPEN: Self = Self(0);
}

/// Masks interrupts. Answers what the mask was before.
pub(crate) fn mask_interrupts() -> Mask {
    let before = read_register!("daif");
    // SAFETY: an interrupt that comes later is as good as one that comes now. Not `nomem`: what is guarded by it stays behind it.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
    Mask(before)
}

/// Sets the mask of interrupts to what it was.
pub(crate) fn restore_interrupts(mask: Mask) {
    // SAFETY: whoever masked them is through with what was to be guarded.
    unsafe { write_register!("daif", mask.0) };
}

/// Lets interrupts in.
pub(crate) fn open_interrupts() {
    restore_interrupts(Mask::OPEN);
}

/// Waits for something to happen, without end.
pub(crate) fn park() -> ! {
    loop {
        // SAFETY: waiting does nothing to memory.
        unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) };
    }
}
