//! The machine's memory, cut into pools: table memory and buffers, which Portcullis asks for, and frames, which are the kernel's.
//!
//! Each is an [`Arena`] over words of the linear map, as large as it will ever be. Their counters tell at the end whether everything is back.
#![expect(unsafe_code, reason = "memory that no Rust object is in becomes words")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use portcullis_hal::Arena;
use portcullis_types::{Pa, PaRange};

use crate::lock::{IrqSpin, Lock};
use crate::mmu;

/// A pool.
pub(crate) type Pool = Arena<IrqSpin, &'static [AtomicU64]>;

/// Sizes of the pools, as powers of two: what 256 MiB of memory can spare.
const TABLES_LG2: u32 = 23;
const BUFFERS_LG2: u32 = 24;
const FRAMES_LG2: u32 = 23;

struct Pools {
    tables: Pool,
    buffers: Pool,
    frames: Pool,
    /// Where buffers and frames are.
    data: [PaRange; 2],
}

static POOLS: Lock<Option<&'static Pools>> = Lock::new(None);

/// Cuts the pools out of `memory`, beside what is in `taken`. Once.
pub(crate) fn start(memory: &[PaRange], taken: &[PaRange]) -> Option<()> {
    let mut taken = Vec::from(taken);
    let mut cut = |size_lg2: u32| {
        let range = free_block(memory, &taken, 1 << size_lg2)?;
        taken.push(range);
        Some(range)
    };
    let [tables, buffers, frames] = [cut(TABLES_LG2)?, cut(BUFFERS_LG2)?, cut(FRAMES_LG2)?];
    let pool = |range: PaRange| Pool::new(range.first(), words(range));
    let (data, tables) = ([buffers, frames], pool(tables));
    *POOLS.lock() =
        Some(Box::leak(Box::new(Pools { tables, buffers: pool(buffers), frames: pool(frames), data })));
    Some(())
}

/// The first naturally aligned block of `memory` that overlaps nothing of `taken`.
fn free_block(memory: &[PaRange], taken: &[PaRange], size: u64) -> Option<PaRange> {
    memory.iter().find_map(|range| {
        let mut first = range.first().get().checked_next_multiple_of(size)?;
        loop {
            let block = PaRange::new(Pa::new(first), size).filter(|block| range.covers(*block))?;
            match taken.iter().find(|taken| taken.overlaps(block)) {
                None => return Some(block),
                Some(_) => first += size,
            }
        }
    })
}

/// The words of a block that nothing else uses.
fn words(range: PaRange) -> &'static [AtomicU64] {
    let count = range.len_bytes().map_or(0, |len| usize::try_from(len / 8).unwrap_or(0));
    // SAFETY: `free_block` found the block in the machine's memory, beside the image and all that firmware uses, and no other pool has it. It is in the linear
    // map for good, aligned, and any bytes are an `AtomicU64`. Devices that write there do so as other CPUs would.
    unsafe { core::slice::from_raw_parts(mmu::linear(range.first()).cast_const().cast(), count) }
}

fn pools() -> &'static Pools {
    POOLS.lock().expect("the pools are made before anything is taken from them")
}

/// For tables and queues of IOMMUs.
pub(crate) fn tables() -> &'static Pool {
    &pools().tables
}

/// For buffers that devices share, and those of the interrupt controller.
pub(crate) fn buffers() -> &'static Pool {
    &pools().buffers
}

/// For processes' pages and for translation tables of the CPU.
pub(crate) fn frames() -> &'static Pool {
    &pools().frames
}

/// Whether all of `range` is in a pool that data may be in.
pub(crate) fn holds_data(range: PaRange) -> bool {
    pools().data.iter().any(|pool| pool.covers(range))
}

/// The device tree that the boot loader left at `at`, and where it is; none if there is none.
pub(crate) fn device_tree(at: Pa) -> Option<(&'static [u8], PaRange)> {
    const MAGIC: u32 = 0xd00d_feed;
    let word = |offset: u64| {
        let at = mmu::linear(Pa::new(at.get() + offset)).cast::<u32>();
        // SAFETY: the boot loader says that a tree is there, in the first gigabyte of memory, which the boot table maps, on a multiple of 8.
        u32::from_be(unsafe { at.read() })
    };
    if at.get() == 0 || !at.is_aligned(8) || word(0) != MAGIC {
        return None;
    }
    let range = PaRange::new(at, word(4).into())?;
    let len = usize::try_from(word(4)).ok()?;
    // SAFETY: as above, and the tree says how long it is; nobody writes there: it is kept out of the pools (`start`).
    Some((unsafe { core::slice::from_raw_parts(mmu::linear(at).cast_const(), len) }, range))
}
