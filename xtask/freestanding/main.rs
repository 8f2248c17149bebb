//! A program for this host without std, libc or start-up code, into which every embedded crate is linked.
//!
//! Built by `xtask/src/bare.rs`, which appends an `extern crate` line for each of them. It has a panic handler of its own, so if any
//! of the crates, or anything behind them, used std, the compiler would find two handlers and refuse. That is the proof; it
//! is built, never run.
#![no_std]
#![no_main]

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;

/// An allocator with nothing to give: enough for `alloc` to link.
struct Empty;

// SAFETY: it gives out no block, so there is none to be valid.
unsafe impl GlobalAlloc for Empty {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static EMPTY: Empty = Empty;

#[panic_handler]
fn halt(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Where the program starts.
// SAFETY: no other symbol has this name, since nothing else is linked that could start a program.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Named by the unwind tables of the host's own `core`; nothing unwinds here.
// SAFETY: no other symbol has this name, since std is not linked.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
