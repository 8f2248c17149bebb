//! Memory that hardware reads: tables, queues, buffers.

use portcullis_types::Pa;

/// How large a block of memory is, and on what it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockLayout {
    size_bytes: u64,
    align_bytes: u64,
}

impl BlockLayout {
    /// `size_bytes` bytes (above 0) on a multiple of `align_bytes` (a power of two); none otherwise.
    pub const fn new(size_bytes: u64, align_bytes: u64) -> Option<Self> {
        if size_bytes == 0 || !align_bytes.is_power_of_two() {
            return None;
        }
        Some(Self { size_bytes, align_bytes })
    }

    /// A block of `1 << size_lg2` bytes (`size_lg2` below 64), aligned to its size, as hardware wants most tables.
    pub const fn naturally_aligned(size_lg2: u8) -> Self {
        Self { size_bytes: 1 << size_lg2, align_bytes: 1 << size_lg2 }
    }

    /// The size in bytes.
    pub const fn size_bytes(self) -> u64 {
        self.size_bytes
    }

    /// The alignment in bytes, a power of two.
    pub const fn align_bytes(self) -> u64 {
        self.align_bytes
    }
}

/// Memory for tables and queues that hardware reads and the CPU writes word by word.
///
/// Words are 64 bits wide, naturally aligned, little-endian in memory: `store(at, 1)` sets the byte at `at`. A load or a
/// store is single-copy atomic and, by itself, unordered ([`Barriers`]).
///
/// # Implementation safety
///
/// `load`, `store` and their kin are safe functions: an implementation that turns an address into a pointer must make sure
/// by itself that the address lies in memory that `alloc` gave out, and panic where it does not. Portcullis calls them
/// with such addresses only, also when a table that hardware can write was corrupted.
pub trait TableMemory: Send + Sync {
    /// A zeroed block, its zeroes visible to hardware after the next write barrier; none if there is no memory.
    fn alloc(&self, layout: BlockLayout) -> Option<Pa>;

    /// Takes back a block of [`alloc`](Self::alloc), given with the same layout. No hardware may still know it.
    fn free(&self, first: Pa, layout: BlockLayout);

    /// The word at `at`, as the CPU sees it.
    fn load(&self, at: Pa) -> u64;

    /// Stores a word.
    fn store(&self, at: Pa, word: u64);

    /// Stores `new` if the word is `current`, in one step that hardware's own atomic updates respect.
    ///
    /// # Errors
    ///
    /// The word that was found instead.
    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64>;

    /// Stores `count` words, one after the other from `at`: `first`, `first + step`, `first + 2 * step`, and so on (wrapping).
    ///
    /// The same as a loop of [`store`](Self::store); an implementation may do it faster.
    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        let mut word = first;
        for index in 0..count as u64 {
            self.store(Pa::new(at.get() + 8 * index), word);
            word = word.wrapping_add(step);
        }
    }

    /// Makes words visible to a walker that does not snoop the CPU's caches: cleans `len_bytes` bytes from `at` to the point of
    /// coherency. Called only for hardware that firmware calls non-coherent.
    fn clean_table(&self, at: Pa, len_bytes: u64);
}

/// Memory for data: buffers that devices and CPU share.
///
/// The same rules of ordering and of implementation safety as for [`TableMemory`], for any address of the machine's RAM: a
/// caller of the DMA API may hand over memory that was not allocated here.
pub trait DmaMemory: Send + Sync {
    /// A zeroed block for a coherent buffer; none if there is no memory.
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa>;

    /// Takes back a block of [`alloc_buffer`](Self::alloc_buffer), given with the same layout.
    fn free_buffer(&self, first: Pa, layout: BlockLayout);

    /// Copies memory from `at` on into `into`.
    fn read(&self, at: Pa, into: &mut [u8]);

    /// Copies `from` to memory from `at` on.
    fn write(&self, at: Pa, from: &[u8]);

    /// The 32-bit little-endian word at `at`, a multiple of 4, in one access: for words that a device changes.
    fn read32(&self, at: Pa) -> u32;

    /// Stores a 32-bit little-endian word at `at`, a multiple of 4, in one access.
    fn write32(&self, at: Pa, word: u32);

    /// Writes the CPU's cached changes of `len_bytes` bytes from `at` back to memory, for a device that does not snoop.
    fn clean(&self, at: Pa, len_bytes: u64);

    /// Drops the CPU's cached copies of `len_bytes` bytes from `at`, so that it sees what a device that does not snoop wrote.
    fn invalidate(&self, at: Pa, len_bytes: u64);
}

/// Order between the CPU's accesses and hardware's.
pub trait Barriers: Send + Sync {
    /// Every store before it is visible to hardware before any store or register write after it (`dsb st`).
    fn write_barrier(&self);
    /// No load after it is satisfied before any load or register read before it (`dsb ld`).
    fn read_barrier(&self);
    /// Both, and also stores before loads (`dsb sy`).
    fn full_barrier(&self);
}
