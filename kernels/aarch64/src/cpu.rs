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

/// How many bits a physical address has, at most 48.
///
/// Spec: Arm ARM DDI 0487 M.a, "ID_AA64MMFR0_EL1", PARange.
pub(crate) fn physical_bits() -> u8 {
    match read_register!("id_aa64mmfr0_el1") & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

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

/// Counts down from `count`, above 0: twice as many instructions.
pub(crate) fn count_down(count: u64) {
    // SAFETY: it changes a register and the flags.
    unsafe { asm!("2: subs {0}, {0}, #1", "b.ne 2b", inout(reg) count => _, options(nomem, nostack)) };
}

/// What was stored in the `len` bytes from `first` on can be executed.
pub(crate) fn make_executable(first: *const u8, len: u64) {
    for offset in (0..len).step_by(16) {
        let line = first.addr() as u64 + offset;
        // SAFETY: cleaning a line to where instruction fetches see it changes no memory.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: forgetting fetched instructions is always allowed.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Waits for something to happen, without end.
pub(crate) fn park() -> ! {
    loop {
        // SAFETY: waiting does nothing to memory.
        unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) };
    }
}
