//! The heap: blocks of powers of two, a list of free ones for each size, new ones from the end of what was never used.
//!
//! Blocks do not merge again. What is given back serves the next request of its size, which for a kernel of a few jobs is enough; an operating system has
//! something better.
#![expect(unsafe_code, reason = "a global allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};

use crate::lock::Lock;

const BYTES: usize = 4 << 20;
/// The smallest block: room for a link of a list.
const SMALLEST_LG2: u32 = 4;
const SIZES: usize = 19;

#[repr(C, align(4096))]
struct Room(UnsafeCell<[u8; BYTES]>);

// SAFETY: blocks of the room are handed out once each, under the lock of the heap.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([0; BYTES]));

struct State {
    /// First free block of each size.
    free: [Option<Link>; SIZES],
    used: usize,
}

/// A free block. Its first bytes say which is the next.
#[derive(Clone, Copy)]
struct Link(NonNull<Option<Link>>);

// SAFETY: a link is followed under the lock of the heap only.
unsafe impl Send for Link {}

struct Heap(Lock<State>);

#[global_allocator]
static HEAP: Heap = Heap(Lock::new(State { free: [None; SIZES], used: 0 }));

/// Which size of block a layout needs; none if there is none as large.
fn class(layout: Layout) -> Option<usize> {
    let bytes = layout.size().max(layout.align()).checked_next_power_of_two()?;
    let class = bytes.ilog2().saturating_sub(SMALLEST_LG2) as usize;
    (class < SIZES).then_some(class)
}

fn block_bytes(class: usize) -> usize {
    1 << (class + SMALLEST_LG2 as usize)
}

impl State {
    fn take(&mut self, class: usize) -> Option<*mut u8> {
        let bytes = block_bytes(class);
        let block = match self.free[class] {
            Some(Link(first)) => {
                // SAFETY: the block is free, and `give_back` left a link there.
                self.free[class] = unsafe { first.read() };
                first.as_ptr().cast()
            }
            None => {
                let start = self.used.next_multiple_of(bytes);
                let end = start.checked_add(bytes).filter(|&end| end <= BYTES)?;
                self.used = end;
                // SAFETY: the offset lies within the room.
                unsafe { ROOM.0.get().cast::<u8>().add(start) }
            }
        };
        Some(block)
    }

    /// # Safety
    ///
    /// `block` came from `take` with the same class, and nobody uses it any more.
    unsafe fn give_back(&mut self, block: NonNull<u8>, class: usize) {
        let link = block.cast::<Option<Link>>();
        // SAFETY: a block is at least as large as a link and aligned to its size; its user is gone.
        unsafe { link.write(self.free[class]) };
        self.free[class] = Some(Link(link));
    }
}

// SAFETY: `take` answers blocks of at least the size and alignment asked for, each to one caller at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        class(layout).and_then(|class| self.0.lock().take(class)).unwrap_or(null_mut())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((block, class)) = NonNull::new(block).zip(class(layout)) else { return };
        // SAFETY: the caller promises that the block came from `alloc` with this layout.
        unsafe { self.0.lock().give_back(block, class) }
    }
}
