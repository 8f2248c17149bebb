//! What Portcullis is given of this machine: [`Metal`] implements its seams (`portcullis-hal`).
//!
//! | seam | here |
//! |---|---|
//! | [`TableMemory`] | a pool, whose words are reached by index and so need no pointers |
//! | [`DmaMemory`] | another pool for what is allocated, the linear map for all memory there is |
//! | [`Barriers`] | `dsb st`, `dsb ld`, `dsb sy` |
//! | [`Clock`] | the generic timer |
//! | [`Platform::Mutex`] | a spin lock that masks interrupts (`lock`) |
//! | [`Sink`] | lines on the serial port, if the kernel is built with `trace` |
//!
//! Registers are `mmio::Window`.
#![expect(unsafe_code, reason = "memory by physical address")]

use core::arch::asm;

use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Pa, PaRange};

use crate::cpu::{self, read_register};
use crate::lock::IrqSpin;
use crate::{memory, mmu, timer, uart};

/// The machine, as Portcullis knows it.
#[derive(Debug)]
pub(crate) struct Metal;

impl TableMemory for Metal {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        memory::tables().alloc(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        memory::tables().free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        memory::tables().load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        memory::tables().store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        memory::tables().compare_exchange(at, current, new)
    }

    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        memory::tables().store_run(at, first, step, count);
    }

    fn clean_table(&self, at: Pa, len_bytes: u64) {
        clean(at, len_bytes);
    }
}

impl DmaMemory for Metal {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        memory::buffers().alloc(layout)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        memory::buffers().free(first, layout);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        if !into.is_empty() {
            let from = in_ram(at, into.len() as u64);
            // SAFETY: `in_ram` has seen that the bytes are memory of the pools, where no Rust object is; `into` is one, so the two do not overlap. A device
            // that writes meanwhile changes bytes, which are bytes all the same.
            unsafe { from.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        }
    }

    fn write(&self, at: Pa, from: &[u8]) {
        if !from.is_empty() {
            let to = in_ram(at, from.len() as u64);
            // SAFETY: as above.
            unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        }
    }

    fn read32(&self, at: Pa) -> u32 {
        assert!(at.is_aligned(4));
        // SAFETY: as above; aligned, and volatile, since a device may change the word.
        u32::from_le(unsafe { in_ram(at, 4).cast::<u32>().read_volatile() })
    }

    fn write32(&self, at: Pa, word: u32) {
        assert!(at.is_aligned(4));
        // SAFETY: as above.
        unsafe { in_ram(at, 4).cast::<u32>().write_volatile(word.to_le()) };
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        clean(at, len_bytes);
    }

    fn invalidate(&self, at: Pa, len_bytes: u64) {
        each_line(at, len_bytes, |line| {
            // Cleaned as well, in case the line holds something else, too.
            // SAFETY: a line of memory loses no store by that.
            unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
        });
    }
}

/// The bytes from `at` on, which must be of a pool that data may be in.
///
/// The promise of `portcullis-hal`, "Implementation safety": an address that leads elsewhere stops the kernel here.
fn in_ram(at: Pa, len_bytes: u64) -> *mut u8 {
    let inside = PaRange::new(at, len_bytes).is_some_and(memory::holds_data);
    assert!(inside, "{at} and the {len_bytes} bytes from there are not for data");
    mmu::linear(at)
}

fn clean(at: Pa, len_bytes: u64) {
    each_line(at, len_bytes, |line| {
        // SAFETY: cleaning a line changes nothing that this CPU sees.
        unsafe { asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)) };
    });
}

/// Calls `with` for each cache line, and waits until all is done.
fn each_line(at: Pa, len_bytes: u64, with: impl Fn(*mut u8)) {
    if len_bytes == 0 {
        return;
    }
    // CTR_EL0.DminLine counts words.
    let line_bytes = 4u64 << (read_register!("ctr_el0") >> 16 & 0xf);
    let end = at.get() + len_bytes;
    let mut line = at.get() & !(line_bytes - 1);
    while line < end {
        with(mmu::linear(Pa::new(line)));
        line += line_bytes;
    }
    cpu::full_barrier();
}

impl Barriers for Metal {
    fn write_barrier(&self) {
        cpu::store_barrier();
    }

    fn read_barrier(&self) {
        cpu::load_barrier();
    }

    fn full_barrier(&self) {
        cpu::full_barrier();
    }
}

impl Clock for Metal {
    fn now_ns(&self) -> u64 {
        timer::now_ns()
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }
}

impl Sink for Metal {
    fn listening(&self) -> bool {
        cfg!(feature = "trace")
    }

    fn event(&self, event: &Event<'_>) {
        if self.listening() {
            uart::print(format_args!("  {event}\n"));
        }
    }
}

impl Platform for Metal {
    type Mutex = IrqSpin;
}
