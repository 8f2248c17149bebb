//! A process: an address space of its own in the lower half, a program at EL0, and a few calls.
//!
//! Portcullis sees it as a [`ProcessMemory`]: a device that is attached to it walks the very table that the CPU walks for the process, so that a pointer of the
//! process's means the same for both. The price is the rule of [`portcullis_core::mm`]: *entry, invalidate, page*. [`Process::unmap`] keeps it.
//!
//! Everything that the process has is there from the beginning: this hardware has neither stalls nor page requests, so that a device could not wait for a
//! page. The program is in `user.S`.
#![expect(unsafe_code, reason = "the way to EL0 and back")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use portcullis_core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable,
};
use portcullis_hal::{BlockLayout, DmaMemory, TableMemory};
use portcullis_pgtable::arm::MAIR;
use portcullis_types::{Iova, IovaRange, Pa, PaRange, Perms, SizeLg2};

use crate::cpu;
use crate::error::{Wrong, doing, ensure};
use crate::lock::Lock;
use crate::memory;
use crate::mmu::{self, Access, PAGE, Table};
use crate::platform::Metal;
use crate::uart::println;
use crate::vectors::Frame;

const FRAME: BlockLayout = BlockLayout::naturally_aligned(12);

/// Where the program is, and its stack ends.
const PROGRAM: u64 = 0x40_0000;
const STACK_END: u64 = 0x80_0000;
/// Where memory begins that is asked for later.
const FIRST_MEMORY: u64 = 0x1234_5000;

/// Why the process stopped without saying so itself.
pub(crate) const KILLED: u64 = u64::MAX;

global_asm!(include_str!("user.S"));

global_asm!(
    r#"
    .text
// x0: entry; x1: stack; x2: its four arguments; x3: where the kernel's stack pointer is kept. Answers what `leave_process` is given.
    .globl  enter_process
enter_process:
    sub     sp, sp, #160
    stp     x29, x30, [sp]
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    stp     d8, d9, [sp, #96]
    stp     d10, d11, [sp, #112]
    stp     d12, d13, [sp, #128]
    stp     d14, d15, [sp, #144]
    mov     x9, sp
    str     x9, [x3]
    msr     daifset, #2
    msr     elr_el1, x0
    msr     sp_el0, x1
    msr     spsr_el1, xzr           // EL0, interrupts open
    mov     x9, x2
    ldp     x0, x1, [x9]
    ldp     x2, x3, [x9, #16]
    eret

// x0: the kernel's stack pointer, as `enter_process` kept it; x1: what that is to answer.
    .globl  leave_process
leave_process:
    mov     sp, x0
    mov     x0, x1
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     d8, d9, [sp, #96]
    ldp     d10, d11, [sp, #112]
    ldp     d12, d13, [sp, #128]
    ldp     d14, d15, [sp, #144]
    ldp     x29, x30, [sp]
    add     sp, sp, #160
    ret
    "#
);

unsafe extern "C" {
    static _user_start: u8;
    static _user_end: u8;
    fn enter_process(entry: u64, stack: u64, arguments: *const [u64; 4], kernel_stack: *mut u64) -> u64;
    fn leave_process(kernel_stack: u64, status: u64) -> !;
}

/// What the process asks the kernel for, by number in x8, with arguments from x0 on. The answer goes to x0: 0 for done.
pub(crate) trait Calls: Send + Sync {
    /// Has the disk read blocks of `bytes` bytes from `lba` on to the process's address `va`.
    fn read(&self, lba: u64, va: u64, bytes: u64) -> bool;
}

const CALL_EXIT: u64 = 0;
const CALL_SAY: u64 = 1;
const CALL_READ: u64 = 2;
const CALL_GIVE_BACK: u64 = 3;

/// The process that runs.
struct Running {
    process: Arc<Process>,
    calls: Arc<dyn Calls>,
}

static RUNNING: Lock<Option<Running>> = Lock::new(None);
/// The kernel's stack where the process that runs was entered.
static KERNEL_STACK: AtomicU64 = AtomicU64::new(0);

/// A process.
pub(crate) struct Process {
    asid: u16,
    memory: Lock<Memory>,
    /// Who is told of changes; none from the exit on.
    listeners: Lock<Option<Listeners>>,
    /// Somebody did not confirm the exit: hardware may reach the table and the pages still, so nobody else ever gets them.
    kept: AtomicBool,
    next_listener: AtomicU64,
    pins: AtomicU64,
    pasid: PasidSlot,
}

type Listeners = Vec<(ListenerId, Arc<dyn MmListener>)>;

struct Memory {
    table: Table,
    /// Its pages, by address.
    pages: Vec<(u64, Pa)>,
    /// Where the next piece that it asks for goes.
    next: u64,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("asid", &self.asid).finish_non_exhaustive()
    }
}

impl Process {
    /// A process with the program and a stack.
    pub(crate) fn new(asid: u16) -> Result<Arc<Self>, Wrong> {
        let table = Table::new().map_err(doing("making a process"))?;
        let memory = Memory { table, pages: Vec::new(), next: FIRST_MEMORY };
        let process = Self {
            asid,
            memory: Lock::new(memory),
            listeners: Lock::new(Some(Vec::new())),
            kept: AtomicBool::new(false),
            next_listener: AtomicU64::new(0),
            pins: AtomicU64::new(0),
            pasid: PasidSlot::new(),
        };
        let (start, end) = ((&raw const _user_start).addr(), (&raw const _user_end).addr());
        ensure!((end - start) as u64 == PAGE, "the program is not one page");
        let program = process.add_page(PROGRAM, Access::UserCode)?;
        // SAFETY: the section is the program's, in the kernel's constants, `PAGE` bytes long.
        let code = unsafe { core::slice::from_raw_parts(&raw const _user_start, end - start) };
        Metal.write(program, code);
        cpu::make_executable(mmu::linear(program), PAGE);
        process.add_page(STACK_END - PAGE, Access::UserData)?;
        Ok(Arc::new(process))
    }

    /// Adds a zeroed page at `va`. Answers where it is.
    fn add_page(&self, va: u64, access: Access) -> Result<Pa, Wrong> {
        let none = || Wrong("no memory for a page of the process".into());
        let page = memory::frames().alloc(FRAME).ok_or_else(none)?;
        let range = PaRange::new(page, PAGE).ok_or_else(none)?;
        let mut memory = self.memory.lock();
        memory.pages.push((va, page));
        memory.table.map(va, range, access).map_err(doing("mapping a page of the process"))?;
        Ok(page)
    }

    /// Adds `bytes` bytes of zeroed memory, rounded up to pages, on a multiple of `align`. There is a page of nothing behind it. Answers the address.
    pub(crate) fn add_memory(&self, bytes: u64, align: u64) -> Result<u64, Wrong> {
        let first = {
            let mut memory = self.memory.lock();
            let first = memory.next.next_multiple_of(align.max(PAGE));
            memory.next = first + bytes.next_multiple_of(PAGE) + PAGE;
            first
        };
        (first..first + bytes)
            .step_by(PAGE as usize)
            .try_for_each(|va| self.add_page(va, Access::UserData).map(drop))?;
        Ok(first)
    }

    /// What a process may ask for: whole pages of memory that it was given later are taken away. Answers whether they are.
    pub(crate) fn give_back(&self, va: u64, bytes: u64) -> bool {
        let next = self.memory.lock().next;
        let inside = va >= FIRST_MEMORY && va.checked_add(bytes).is_some_and(|end| end <= next);
        let whole = va.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE);
        inside && whole && self.unmap(va, bytes).is_ok()
    }

    /// Takes pages away: the entry goes, then CPUs and devices forget it, and only then the page is free.
    pub(crate) fn unmap(&self, va: u64, bytes: u64) -> Result<(), Wrong> {
        for va in (va..va + bytes).step_by(PAGE as usize) {
            let mut memory = self.memory.lock();
            let page = memory.table.unmap(va);
            memory.pages.retain(|&(at, _)| at != va);
            drop(memory);
            mmu::forget_page(va, self.asid);
            let range = IovaRange::new(Iova::new(va), PAGE).ok_or_else(|| Wrong("it wraps".into()))?;
            let listeners: Vec<_> =
                self.listeners.lock().iter().flatten().map(|(_, listener)| listener.clone()).collect();
            // Each is told, whatever another answers. If a device may still reach it, the page is kept for good.
            let told = listeners.iter().map(|listener| listener.invalidate(range));
            told.fold(Ok(()), Result::and).map_err(doing("invalidating"))?;
            // Nor is it free if that may be so since the exit.
            let free = page.filter(|_| !self.kept.load(Relaxed));
            free.into_iter().for_each(|page| memory::frames().free(page, FRAME));
        }
        Ok(())
    }

    /// Where the byte at `va` is.
    pub(crate) fn lookup(&self, va: u64) -> Option<Pa> {
        self.memory.lock().table.lookup(va).map(|(pa, _)| pa)
    }

    /// How much memory its table takes.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.memory.lock().table.bytes()
    }

    /// Runs the program to its end, with four arguments. Answers its status.
    pub(crate) fn run(self: &Arc<Self>, calls: Arc<dyn Calls>, arguments: [u64; 4]) -> u64 {
        drop(RUNNING.lock().replace(Running { process: self.clone(), calls }));
        let root = self.memory.lock().table.root();
        mmu::enter(Some((root, self.asid)));
        // SAFETY: the process's program and stack are in its table, which is in force, and which stays as long as `self`. What it can do is what EL0 can do.
        let status =
            unsafe { enter_process(PROGRAM, STACK_END, &raw const arguments, KERNEL_STACK.as_ptr()) };
        cpu::open_interrupts();
        mmu::enter(None);
        mmu::forget_process(self.asid);
        drop(RUNNING.lock().take());
        status
    }

    /// The end of the process: each of its listeners is told, whatever another answers. On success they have let go of its table and its pages; otherwise
    /// hardware may reach those still, and they are kept for good.
    pub(crate) fn exit(&self) -> Result<(), Wrong> {
        let listeners = self.listeners.lock().take().unwrap_or_default();
        let told = listeners.iter().map(|(_, listener)| listener.release());
        let released = told.fold(Ok(()), Result::and);
        self.kept.fetch_or(released.is_err(), Relaxed);
        released.map_err(doing("releasing the process"))
    }

    fn has_exited(&self) -> bool {
        self.listeners.lock().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Memory { table, pages, .. } = self.memory.get_mut();
        if self.kept.load(Relaxed) {
            table.keep();
        } else {
            pages.iter().for_each(|&(_, page)| memory::frames().free(page, FRAME));
        }
    }
}

/// An exception of the process's: a call, or the end of it. Called by the vectors.
pub(crate) fn exception(frame: &mut Frame, syndrome: u64, address: u64) {
    /// Spec: Arm ARM DDI 0487 M.a, D24.2.41 "ESR_EL1", EC: "SVC instruction execution in AArch64 state".
    const SVC: u64 = 0x15;
    let status = if syndrome >> 26 == SVC {
        call(frame)
    } else {
        println!("process: killed at {:#x}: ESR {syndrome:#x} FAR {address:#x}", frame.elr);
        Some(KILLED)
    };
    if let Some(status) = status {
        // SAFETY: `run` waits where the stack pointer leads, and what lies above it on the stack is this exception's, which has nothing left to drop.
        unsafe { leave_process(KERNEL_STACK.load(Relaxed), status) }
    }
}

/// Does what the process asks for. Answers its status if that is to end. Interrupts are open meanwhile.
fn call(frame: &mut Frame) -> Option<u64> {
    let running = RUNNING.lock().as_ref().map(|running| (running.process.clone(), running.calls.clone()));
    let (process, calls) = running?;
    let mask = cpu::mask_interrupts();
    cpu::open_interrupts();
    let [first, second, third, ..] = frame.x;
    let done = match frame.x[8] {
        CALL_SAY => process.say(first, second),
        CALL_READ => calls.read(first, second, third),
        CALL_GIVE_BACK => process.give_back(first, second),
        _ => false,
    };
    cpu::restore_interrupts(mask);
    let ended = frame.x[8] == CALL_EXIT;
    frame.x[0] = if done { 0 } else { 1 };
    ended.then_some(first)
}

impl Process {
    /// Prints what the process has at `va`.
    fn say(&self, va: u64, len: u64) -> bool {
        let mut text = Vec::new();
        for at in (va..).take(usize::try_from(len.min(200)).unwrap_or(0)) {
            let Some(place) = self.lookup(at) else { return false };
            let mut byte = [0];
            Metal.read(place, &mut byte);
            text.push(byte[0]);
        }
        let Ok(text) = core::str::from_utf8(&text) else { return false };
        println!("job 3: process: {text}");
        true
    }
}

impl ProcessMemory for Process {
    fn id(&self) -> MmId {
        MmId(self.asid.into())
    }

    fn pasid_slot(&self) -> &PasidSlot {
        &self.pasid
    }

    fn table(&self) -> ProcessTable {
        let root = self.memory.lock().table.root();
        let (granule, output_bits) = (SizeLg2::KIB_4, cpu::physical_bits());
        ProcessTable::Vmsa64 {
            root,
            granule,
            input_bits: 48,
            output_bits,
            large_descriptors: false,
            mair: MAIR,
        }
    }

    /// Its ASID is its own for good.
    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        if self.has_exited() {
            return Err(PinAsidError::Exited);
        }
        self.pins.fetch_add(1, Relaxed);
        Ok(self.asid)
    }

    fn unpin_asid(&self) {
        self.pins.fetch_sub(1, Relaxed);
    }

    /// What is not there will not come.
    fn handle_fault(&self, fault: &MmFault) -> Result<(), MmFaultError> {
        if self.has_exited() {
            return Err(MmFaultError::Exited);
        }
        let (_, writable) =
            self.memory.lock().table.lookup(fault.address.get()).ok_or(MmFaultError::NoArea)?;
        let allowed = if writable { Perms::READ_WRITE } else { Perms::READ | Perms::EXECUTE };
        portcullis_core::mm::check_area(allowed, fault.wanted)
    }

    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        let id = ListenerId(self.next_listener.fetch_add(1, Relaxed));
        let mut listeners = self.listeners.lock();
        listeners.as_mut().ok_or(Exited)?.push((id, listener));
        Ok(id)
    }

    fn remove_listener(&self, id: ListenerId) {
        let mut listeners = self.listeners.lock();
        let all = listeners.iter_mut().flat_map(|all| all.extract_if(.., move |(other, _)| *other == id));
        let gone: Vec<_> = all.collect();
        // Dropped under no lock.
        drop(listeners);
        drop(gone);
    }
}
