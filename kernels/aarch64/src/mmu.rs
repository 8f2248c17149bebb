//! Address spaces: the kernel's own in the upper half, a process's in the lower.
//!
//! All memory is in the upper half once, at its own address plus [`LINEAR`]: that is how the kernel reaches it. Code can be executed and not written, everything
//! else the other way round at most, and devices are device memory (nGnRE). A process's table is its own, and is what an SMMU can be led to.
//!
//! A table is changed by one CPU at a time, which its owner sees to. Its frames come from [`memory::frames`](crate::memory::frames).
//!
//! Spec: Arm ARM DDI 0487 M.a, D8.3.1 "VMSAv8-64 descriptor formats", D8.4 "Memory access control", D8.17 "TLB maintenance".
#![expect(unsafe_code, reason = "translation tables")]

use alloc::vec::Vec;
use core::arch::{asm, global_asm};

use portcullis_hal::{BlockLayout, TableMemory};
use portcullis_types::{Pa, PaRange};

use crate::cpu::{self, write_register};
use crate::lock::Lock;
use crate::memory;

/// How far the linear map is above what it maps.
pub(crate) const LINEAR: u64 = 0xffff_0000_0000_0000;
/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
const TABLE: BlockLayout = BlockLayout::naturally_aligned(12);

const VALID: u64 = 1;
/// Of a level above the last: a table; of the last: a page.
const TABLE_OR_PAGE: u64 = 0b10;
const OUTPUT: u64 = 0x0000_ffff_ffff_f000;
const UNPRIVILEGED: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const ACCESS_FLAG: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// Indexes into MAIR, as `pgtable` has it: 1 write-back, with inner shareability; 2 nGnRE.
const CACHED: u64 = 1 << 2 | 3 << 8;
const DEVICE: u64 = 2 << 2;

/// What a page may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The kernel executes it.
    KernelCode,
    /// The kernel reads it.
    KernelConstants,
    /// The kernel reads and writes it.
    KernelData,
    /// The kernel reads and writes a device's registers.
    Device,
    /// The process executes it.
    UserCode,
    /// The process, and a device that uses its table, read and write it.
    UserData,
}

impl Access {
    const fn bits(self) -> u64 {
        ACCESS_FLAG
            | match self {
                Self::KernelCode => CACHED | READ_ONLY | UXN,
                Self::KernelConstants => CACHED | READ_ONLY | PXN | UXN,
                Self::KernelData => CACHED | PXN | UXN,
                Self::Device => DEVICE | PXN | UXN,
                Self::UserCode => CACHED | READ_ONLY | UNPRIVILEGED | NOT_GLOBAL | PXN,
                Self::UserData => CACHED | UNPRIVILEGED | NOT_GLOBAL | PXN | UXN,
            }
    }
}

/// Where the kernel reaches what is at `pa`.
pub(crate) fn linear(pa: Pa) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(usize::try_from(pa.get() | LINEAR).unwrap_or(0))
}

/// A translation table of four levels.
pub(crate) struct Table {
    root: Pa,
    /// Every table of it, the root included.
    frames: Vec<Pa>,
}

/// There is no frame for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoFrame;

impl Table {
    /// A table that maps nothing.
    pub(crate) fn new() -> Result<Self, NoFrame> {
        let mut table = Self { root: Pa::new(0), frames: Vec::new() };
        table.root = table.frame()?;
        Ok(table)
    }

    /// Where it begins, for TTBR0 or a context descriptor.
    pub(crate) fn root(&self) -> Pa {
        self.root
    }

    /// How much memory it takes itself.
    pub(crate) fn bytes(&self) -> u64 {
        PAGE * self.frames.len() as u64
    }

    fn frame(&mut self) -> Result<Pa, NoFrame> {
        let frame = memory::frames().alloc(TABLE).ok_or(NoFrame)?;
        self.frames.push(frame);
        Ok(frame)
    }

    /// Maps what is not mapped: whole pages, blocks of 2 MiB where they fit. Visible on return, to whoever walks through this CPU's caches.
    pub(crate) fn map(&mut self, va: u64, range: PaRange, access: Access) -> Result<(), NoFrame> {
        let mut at = range.first().get() & !(PAGE - 1);
        let mut va = va & !(PAGE - 1);
        while at <= range.last().get() {
            let large =
                va.is_multiple_of(BLOCK) && at.is_multiple_of(BLOCK) && range.last().get() - at >= BLOCK - 1;
            let (level, step) = if large { (2, BLOCK) } else { (3, PAGE) };
            let entry = self.entry(va, level)?;
            let kind = if large { VALID } else { VALID | TABLE_OR_PAGE };
            memory::frames().store(entry, at | access.bits() | kind);
            (at, va) = (at + step, va + step);
        }
        cpu::store_barrier();
        cpu::instruction_barrier();
        Ok(())
    }

    /// The entry for `va` at `level`, the tables above it made if need be.
    fn entry(&mut self, va: u64, level: u32) -> Result<Pa, NoFrame> {
        let mut table = self.root;
        for above in 0..level {
            let at = slot(table, va, above);
            let word = memory::frames().load(at);
            table = if word & VALID != 0 {
                Pa::new(word & OUTPUT)
            } else {
                let next = self.frame()?;
                cpu::store_barrier();
                memory::frames().store(at, next.get() | VALID | TABLE_OR_PAGE);
                next
            };
        }
        Ok(slot(table, va, level))
    }

    /// The entry of the page at `va`, of the lower half, and what it says, if a page is mapped there.
    fn page(&self, va: u64) -> Option<(Pa, u64)> {
        if va & LINEAR != 0 {
            return None;
        }
        let mut table = self.root;
        for level in 0..3 {
            let word = memory::frames().load(slot(table, va, level));
            if word & (VALID | TABLE_OR_PAGE) != VALID | TABLE_OR_PAGE {
                return None;
            }
            table = Pa::new(word & OUTPUT);
        }
        let at = slot(table, va, 3);
        Some((at, memory::frames().load(at))).filter(|(_, word)| word & VALID != 0)
    }

    /// Where the byte at `va` is, and what its page may be used for, in bits.
    pub(crate) fn lookup(&self, va: u64) -> Option<(Pa, bool)> {
        let (_, word) = self.page(va)?;
        Some((Pa::new(word & OUTPUT | va & (PAGE - 1)), word & READ_ONLY == 0))
    }

    /// Takes the page at `va` out of the table. Whoever may have cached it must forget it before the page goes to another use. Answers the page.
    pub(crate) fn unmap(&mut self, va: u64) -> Option<Pa> {
        let (at, word) = self.page(va)?;
        memory::frames().store(at, 0);
        cpu::store_barrier();
        Some(Pa::new(word & OUTPUT))
    }

    /// Has the table keep its memory when it is dropped: somebody may walk it for ever.
    pub(crate) fn keep(&mut self) {
        self.frames.clear();
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.frames.iter().for_each(|&frame| memory::frames().free(frame, TABLE));
    }
}

/// Where the entry for `va` is in a table of this level.
fn slot(table: Pa, va: u64, level: u32) -> Pa {
    Pa::new(table.get() + 8 * (va >> (39 - 9 * level) & 0x1ff))
}

/// The kernel's own table, and one for the lower half that maps nothing.
struct Kernel {
    upper: Table,
    nothing: Table,
}

static KERNEL: Lock<Option<Kernel>> = Lock::new(None);

unsafe extern "C" {
    static _kernel_start: u8;
    static _text_end: u8;
    static _rodata_end: u8;
    static _stack_guard: u8;
    static _stack_bottom: u8;
    static _kernel_end: u8;
    fn switch_kernel_table(upper: u64, nothing: u64);
}

global_asm!(
    r#"
    .text
// x0: the new table of the upper half; x1: one that maps nothing. Between the old and the new table of the upper half nothing of either may be in the TLB, so
// this runs in the lower half meanwhile, which the boot table maps 1:1. No stack, no data.
    .globl  switch_kernel_table
switch_kernel_table:
    adr     x2, 1f
    and     x2, x2, #0x0000ffffffffffff
    br      x2
1:  msr     ttbr1_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     ttbr1_el1, x0
    isb
    adr     x2, 2f
    orr     x2, x2, #0xffff000000000000
    br      x2
2:  msr     ttbr0_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ret
    "#
);

/// Parts of the kernel's image, in order, each with its use; what is between two is mapped nowhere: a stack that runs over is an exception.
fn image() -> [(PaRange, Access); 4] {
    let part = |first: *const u8, end: *const u8, access| {
        let first = Pa::new(first.addr() as u64 & !LINEAR);
        let len = (end.addr() as u64 & !LINEAR) - first.get();
        (PaRange::new(first, len).expect("no part of the image is empty"), access)
    };
    let (start, text, constants) = (&raw const _kernel_start, &raw const _text_end, &raw const _rodata_end);
    let (guard, bottom, end) = (&raw const _stack_guard, &raw const _stack_bottom, &raw const _kernel_end);
    [
        part(start, text, Access::KernelCode),
        part(text, constants, Access::KernelConstants),
        part(constants, guard, Access::KernelData),
        part(bottom, end, Access::KernelData),
    ]
}

/// All memory that the image occupies.
pub(crate) fn image_range() -> PaRange {
    let [(first, _), .., (last, _)] = image();
    PaRange::from_ends(first.first(), last.last()).expect("in order")
}

/// Puts the kernel's own table into force; nothing is in the lower half from then on. `memory` is the machine's.
pub(crate) fn start(memory: &[PaRange]) -> Result<(), NoFrame> {
    let image = image();
    let whole = image_range();
    let mut upper = Table::new()?;
    for (part, access) in image {
        upper.map(part.first().get() | LINEAR, part, access)?;
    }
    for range in memory {
        let below = whole.first().checked_sub(1).and_then(|last| PaRange::from_ends(range.first(), last));
        let above = whole.last().checked_add(1).and_then(|first| PaRange::from_ends(first, range.last()));
        let around = if range.overlaps(whole) { [below, above] } else { [Some(*range), None] };
        for part in around.into_iter().flatten() {
            upper.map(part.first().get() | LINEAR, part, Access::KernelData)?;
        }
    }
    let kernel = Kernel { upper, nothing: Table::new()? };
    let (root, nothing) = (kernel.upper.root().get(), kernel.nothing.root().get());
    *KERNEL.lock() = Some(kernel);
    // Also those of the serial port, which is used next.
    map_device(crate::uart::frame())?;
    // SAFETY: the new table maps the image, its stack and all other memory where the old one did. Nobody has a pointer into the lower half.
    unsafe { switch_kernel_table(root, nothing) };
    Ok(())
}

/// Maps a device's registers into the linear map. Once for each device.
pub(crate) fn map_device(range: PaRange) -> Result<(), NoFrame> {
    let mut kernel = KERNEL.lock();
    let Some(Kernel { upper, .. }) = kernel.as_mut() else { return Err(NoFrame) };
    let range = range.align_outward(PAGE);
    upper.map(range.first().get() | LINEAR, range, Access::Device)
}

/// Puts a process's table into force, or, for none, one that maps nothing. Until the next call it must stay.
pub(crate) fn enter(process: Option<(Pa, u16)>) {
    let nothing = KERNEL.lock().as_ref().map_or(Pa::new(0), |kernel| kernel.nothing.root());
    let (root, asid) = process.unwrap_or((nothing, 0));
    // SAFETY: the kernel has no pointers into the lower half, so nothing of it changes.
    unsafe { write_register!("ttbr0_el1", u64::from(asid) << 48 | root.get()) };
    cpu::instruction_barrier();
}

/// Makes all CPUs forget what they know of a process's page.
pub(crate) fn forget_page(va: u64, asid: u16) {
    cpu::store_barrier();
    let operand = u64::from(asid) << 48 | va >> 12 & 0xfff_ffff_ffff;
    // SAFETY: forgetting a translation is always allowed.
    unsafe { asm!("tlbi vae1is, {}", "dsb ish", "isb", in(reg) operand, options(nostack, preserves_flags)) };
}

/// Makes all CPUs forget what they know of a process.
pub(crate) fn forget_process(asid: u16) {
    cpu::store_barrier();
    // SAFETY: as above.
    unsafe {
        asm!("tlbi aside1is, {}", "dsb ish", "isb", in(reg) u64::from(asid) << 48, options(nostack, preserves_flags))
    };
}
