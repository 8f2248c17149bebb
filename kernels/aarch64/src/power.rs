//! The end: switching off with a status, and what leads there when something is wrong.
//!
//! Spec: Semihosting for AArch32 and AArch64 2.0, 6.11 "SYS_EXIT_EXTENDED (0x20)": QEMU ends with the status as its own. PSCI DEN 0022, 5.9 "SYSTEM_OFF", where
//! nobody listens to semihosting.
#![expect(unsafe_code, reason = "calls to who runs the machine")]

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::cpu;
use crate::uart::print_now;

const SYS_EXIT_EXTENDED: u64 = 0x20;
const APPLICATION_EXIT: u64 = 0x2_0026;
const SYSTEM_OFF: u64 = 0x8400_0008;

/// Somebody is switching off already.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Switches off; `status` is what QEMU ends with.
pub(crate) fn off(status: u32) -> ! {
    cpu::mask_interrupts();
    // Where nobody listens to semihosting the instruction is undefined, and the exception leads here again.
    if !ENDING.swap(true, Relaxed) {
        let block = [APPLICATION_EXIT, status.into()];
        // SAFETY: the block is read by the call, if it comes back at all.
        unsafe { asm!("hlt #0xf000", inout("x0") SYS_EXIT_EXTENDED => _, in("x1") &raw const block) };
    }
    // SAFETY: the machine goes off, or the call is refused and nothing happened.
    unsafe { asm!("hvc #0", inout("x0") SYSTEM_OFF => _, clobber_abi("C")) };
    cpu::park()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print_now(format_args!("\nFAILED: {info}\n"));
    off(101)
}
