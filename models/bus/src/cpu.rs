//! Memory as the CPUs use it: allocate, load, store, order, maintain caches.
//!
//! What a CPU stores goes through the store buffer, then the cache if there is one, then to memory:
//!
//! ```text
//! CPU ── store buffer ──(barrier, or by chance)── cache ──(clean, or by chance)── RAM
//!                                                   │                              │
//!                                            snooping hardware            other hardware
//! ```
//!
//! A platform of `portcullis-hal` is a thin wrapper of [`CpuMemory`]: same calls, errors turned into panics.

use std::sync::Arc;

use portcullis_types::Pa;

use crate::cache::Coherent;
use crate::store_buffer::StoreBuffer;
use crate::{BusError, FreeError, Heap, Ram, User};

/// When hardware sees what CPUs store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Stores {
    /// Late and in any order, until a barrier.
    #[default]
    Buffered,
    /// At once: for measuring, where the order of stores is not in question.
    Direct,
}

/// Whether the machine has observers that do not snoop the CPUs' caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Caches {
    /// Everything snoops; there is no cache to be seen.
    #[default]
    Snooped,
    /// There is a write-back cache that some hardware does not see.
    WriteBack,
}

/// The CPUs' side of memory. All CPUs of a machine share one, and see one another's stores at once.
#[derive(Debug)]
pub struct CpuMemory {
    ram: Arc<Ram>,
    heap: Heap,
    coherent: Coherent,
    buffer: Option<StoreBuffer>,
}

impl CpuMemory {
    /// The CPUs' side of `ram`, whose allocations come from `heap`.
    pub fn new(ram: Arc<Ram>, heap: Heap, stores: Stores, caches: Caches, seed: u64) -> Self {
        let coherent = Coherent::new(ram.clone(), (caches == Caches::WriteBack).then_some(!seed));
        let buffer = (stores == Stores::Buffered).then(|| StoreBuffer::new(seed));
        Self { ram, heap, coherent, buffer }
    }

    /// Memory itself, behind buffer and cache.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// What is given out, and how to make it fail.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    pub(crate) fn coherent(&self) -> &Coherent {
        &self.coherent
    }

    /// A block of `size_bytes` bytes on a multiple of `align_bytes` (a power of two), zeroed by stores of the CPU: until the next
    /// write barrier hardware may see poison there. None if there is no memory.
    pub fn alloc(&self, size_bytes: u64, align_bytes: u64) -> Option<Pa> {
        const ZEROES: [u8; 4096] = [0; 4096];
        let first = self.heap.alloc(size_bytes, align_bytes)?;
        for at in (0..size_bytes).step_by(ZEROES.len()) {
            let len = (size_bytes - at).min(ZEROES.len() as u64) as usize;
            self.write(Pa::new(first.get() + at), &ZEROES[..len]).expect("the heap lies in RAM");
        }
        Some(first)
    }

    /// Takes a block back. Stores to it that have not drained are gone.
    ///
    /// # Errors
    ///
    /// As [`FreeError`] says; then nothing changed.
    pub fn free(&self, first: Pa, size_bytes: u64) -> Result<(), FreeError> {
        if !self.heap.is_block(first, size_bytes) {
            return self.heap.free(first, size_bytes);
        }
        if let Some(buffer) = &self.buffer {
            let dropped = buffer.discard(first, size_bytes.next_multiple_of(8));
            debug_assert_eq!(dropped, Ok(()), "dropping stores reaches no memory");
        }
        self.coherent.discard(first, size_bytes);
        self.heap.free(first, size_bytes)
    }

    /// Copies memory, as a CPU sees it, into `into`.
    ///
    /// # Errors
    ///
    /// The run is not all in RAM.
    pub fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.ram.note_use(at, into.len(), User::Cpu, false);
        match &self.buffer {
            Some(buffer) => buffer.read(&self.coherent, at, into),
            None => self.coherent.cpu_read(at, into),
        }
    }

    /// Stores bytes.
    ///
    /// # Errors
    ///
    /// The run is not all in RAM; then nothing was stored.
    pub fn write(&self, at: Pa, from: &[u8]) -> Result<(), BusError> {
        self.check(at, from.len())?;
        match &self.buffer {
            Some(buffer) => buffer.write(&self.coherent, at, from),
            None => self.coherent.cpu_write(at, from),
        }
    }

    /// The 64-bit word at `at`, a multiple of 8, as a CPU sees it.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 8.
    pub fn load64(&self, at: Pa) -> Result<u64, BusError> {
        aligned(at, 8)?;
        self.ram.note_use(at, 8, User::Cpu, false);
        match &self.buffer {
            Some(buffer) => buffer.load(&self.coherent, at),
            None => self.coherent.cpu_load(at),
        }
    }

    /// Stores a 64-bit word at `at`, a multiple of 8.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 8.
    pub fn store64(&self, at: Pa, word: u64) -> Result<(), BusError> {
        aligned(at, 8)?;
        self.write(at, &word.to_le_bytes())
    }

    /// The 32-bit word at `at`, a multiple of 4, as a CPU sees it.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 4.
    pub fn load32(&self, at: Pa) -> Result<u32, BusError> {
        aligned(at, 4)?;
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Stores a 32-bit word at `at`, a multiple of 4.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 4.
    pub fn store32(&self, at: Pa, word: u32) -> Result<(), BusError> {
        aligned(at, 4)?;
        self.write(at, &word.to_le_bytes())
    }

    /// Stores `count` 64-bit words from `at` on, a multiple of 8: `first`, `first + step`, and so on (wrapping).
    ///
    /// # Errors
    ///
    /// The run is not all in RAM, or `at` is no multiple of 8; then nothing was stored.
    pub fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) -> Result<(), BusError> {
        aligned(at, 8)?;
        self.check(at, count.checked_mul(8).ok_or(BusError { at })?)?;
        if let Some(buffer) = &self.buffer {
            return buffer.write_run(&self.coherent, at, first, step, count);
        }
        let mut word = first;
        for index in 0..count as u64 {
            self.coherent.cpu_store(Pa::new(at.get() + 8 * index), word, u64::MAX)?;
            word = word.wrapping_add(step);
        }
        Ok(())
    }

    /// Stores `new` at `at`, a multiple of 8, if the word there is `current`, in one step, and answers what was there. Earlier stores to the word
    /// are visible to hardware afterwards.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 8.
    pub fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        aligned(at, 8)?;
        self.check(at, 8)?;
        match &self.buffer {
            Some(buffer) => buffer.compare_exchange(&self.coherent, at, current, new),
            None => self.coherent.cpu_compare_exchange(at, current, new),
        }
    }

    /// Every store so far is visible to snooping hardware on return (`dsb st`).
    pub fn write_barrier(&self) {
        if let Some(buffer) = &self.buffer {
            buffer.drain_all(&self.coherent).expect("stores were checked when they were made");
        }
    }

    /// The same, and loads too (`dsb sy`). Loads are never early here.
    pub fn full_barrier(&self) {
        self.write_barrier();
    }

    /// Loads stay in order (`dsb ld`). They always do here.
    pub fn read_barrier(&self) {}

    /// Writes the CPUs' changes of `len_bytes` bytes from `at` back to memory. Nothing to do where everything snoops.
    ///
    /// # Errors
    ///
    /// The run is not all in RAM.
    pub fn clean(&self, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        self.drain(at, len_bytes)?;
        self.coherent.clean(at, len_bytes)
    }

    /// Drops the CPUs' copies of `len_bytes` bytes from `at`. Nothing to do where everything snoops.
    ///
    /// # Errors
    ///
    /// The run is not all in RAM.
    pub fn invalidate(&self, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        self.drain(at, len_bytes)?;
        self.coherent.invalidate(at, len_bytes)
    }

    /// Whether the word at `at`, a multiple of 8, was stored to in a way that hardware which snoops cannot see yet.
    pub fn is_pending(&self, at: Pa) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.holds(at))
    }

    /// How many words hardware cannot see yet.
    pub fn pending_words(&self) -> usize {
        self.buffer.as_ref().map_or(0, StoreBuffer::word_count)
    }

    /// Lets some stores drain, or none: time has passed.
    pub(crate) fn pass_time(&self) {
        if let Some(buffer) = &self.buffer {
            buffer.drain_some(&self.coherent).expect("stores were checked when they were made");
        }
    }

    /// Cache maintenance of a line comes after the stores to it, wherever they are.
    fn drain(&self, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        if len_bytes > 0 && !self.ram.holds(at, len_bytes) {
            return Err(BusError { at });
        }
        match &self.buffer {
            Some(buffer) if self.coherent.has_cache() => buffer.drain_range(&self.coherent, at, len_bytes),
            _ => Ok(()),
        }
    }

    fn check(&self, at: Pa, len: usize) -> Result<(), BusError> {
        if len > 0 && !self.ram.holds(at, len as u64) {
            return Err(BusError { at });
        }
        self.ram.note_use(at, len, User::Cpu, true);
        Ok(())
    }
}

fn aligned(at: Pa, bytes: u64) -> Result<(), BusError> {
    if at.is_aligned(bytes) { Ok(()) } else { Err(BusError { at }) }
}

#[cfg(test)]
mod tests {
    use portcullis_types::PaRange;

    use super::*;

    fn memory(stores: Stores, caches: Caches) -> CpuMemory {
        let range = PaRange::new(Pa::new(0x4000_0000), 0x100_0000).unwrap();
        let ram = Arc::new(Ram::new(&[range]));
        CpuMemory::new(ram.clone(), Heap::new(ram, &[range]), stores, caches, 3)
    }

    fn every_kind() -> impl Iterator<Item = CpuMemory> {
        [Stores::Buffered, Stores::Direct].into_iter().flat_map(|stores| {
            [Caches::Snooped, Caches::WriteBack].into_iter().map(move |caches| memory(stores, caches))
        })
    }

    #[test]
    fn what_a_cpu_stores_it_loads() {
        for memory in every_kind() {
            let at = memory.alloc(0x3000, 0x1000).unwrap();
            let at = |offset: u64| Pa::new(at.get() + offset);
            assert_eq!(memory.load64(at(0x2ff8)), Ok(0));
            memory.store64(at(8), 0x0102_0304_0506_0708).unwrap();
            memory.store32(at(12), 0xaabb_ccdd).unwrap();
            assert_eq!(memory.load64(at(8)), Ok(0xaabb_ccdd_0506_0708));
            assert_eq!(memory.load32(at(8)), Ok(0x0506_0708));
            memory.store_run(at(0xff8), 5, 0x1000, 3).unwrap();
            assert_eq!(memory.load64(at(0x1008)), Ok(0x2005));
            assert_eq!(memory.compare_exchange(at(0x1008), 0x2005, 1), Ok(0x2005));
            let mut bytes = [0; 12];
            memory.read(at(0x1004), &mut bytes).unwrap();
            assert_eq!(bytes, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn a_store_that_no_barrier_followed_is_not_in_memory() {
        let memory = memory(Stores::Buffered, Caches::Snooped);
        let at = memory.alloc(64, 64).unwrap();
        memory.write_barrier();
        memory.store64(at, 7).unwrap();
        assert_eq!((memory.pending_words(), memory.ram().load(at)), (1, Ok(0)));
        memory.write_barrier();
        assert_eq!((memory.pending_words(), memory.ram().load(at)), (0, Ok(7)));
    }

    #[test]
    fn what_is_allocated_is_zero_for_hardware_only_after_a_barrier() {
        let memory = memory(Stores::Buffered, Caches::Snooped);
        let first = memory.alloc(4096, 4096).unwrap();
        memory.free(first, 4096).unwrap();
        memory.write_barrier();
        while memory.alloc(4096, 4096).unwrap() != first {}
        assert_eq!(memory.ram().load(Pa::new(first.get() + 2048)), Ok(0xd5d5_d5d5_d5d5_d5d5));
        memory.write_barrier();
        assert_eq!(memory.ram().load(Pa::new(first.get() + 2048)), Ok(0));
    }

    #[test]
    fn stores_to_a_freed_block_never_reach_memory_and_later_ones_are_caught() {
        for memory in every_kind() {
            let first = memory.alloc(64, 64).unwrap();
            memory.store64(first, 7).unwrap();
            memory.free(first, 64).unwrap();
            memory.write_barrier();
            memory.clean(first, 64).unwrap();
            assert_eq!(memory.ram().load(first), Ok(0xd5d5_d5d5_d5d5_d5d5));
            assert_eq!(memory.ram().freed_use_count(), 0);
            memory.load64(first).unwrap();
            memory.store64(first, 1).unwrap();
            assert_eq!(memory.ram().freed_use_count(), 2);
            assert_eq!(memory.free(first, 64), Err(FreeError::NotLive { at: first }));
        }
    }

    #[test]
    fn a_free_that_is_refused_loses_no_store() {
        for memory in every_kind() {
            let first = memory.alloc(64, 64).unwrap();
            memory.store64(first, 7).unwrap();
            let refused = FreeError::WrongSize { at: first, given_out: 64, freed: 128 };
            assert_eq!(memory.free(first, 128), Err(refused));
            assert_eq!(memory.load64(first), Ok(7));
        }
    }

    #[test]
    fn cleaning_takes_a_store_all_the_way_to_memory() {
        let memory = memory(Stores::Buffered, Caches::WriteBack);
        let at = memory.alloc(64, 64).unwrap();
        memory.store64(at, 7).unwrap();
        memory.clean(at, 8).unwrap();
        assert_eq!(memory.ram().load(at), Ok(7));
        memory.ram().store_masked(at, 9, u64::MAX).unwrap();
        memory.invalidate(at, 64).unwrap();
        assert_eq!(memory.load64(at), Ok(9));
    }

    #[test]
    fn accesses_outside_ram_or_off_their_alignment_are_refused() {
        for memory in every_kind() {
            let end = Pa::new(0x4100_0000);
            let odd = Pa::new(0x4000_0004);
            for at in [end, odd] {
                assert_eq!(
                    (memory.load64(at), memory.store64(at, 0)),
                    (Err(BusError { at }), Err(BusError { at }))
                );
            }
            let refused = |at| Err(BusError { at: Pa::new(at) });
            assert_eq!(memory.load32(Pa::new(0x4000_0002)).map(drop), refused(0x4000_0002));
            assert_eq!(memory.write(Pa::new(0x40ff_ffff), &[0; 2]), refused(0x40ff_ffff));
            assert_eq!(memory.clean(Pa::new(0x40ff_ffff), 2), refused(0x40ff_ffff));
            assert_eq!(memory.store_run(Pa::new(0x40ff_fff8), 0, 0, 2), refused(0x40ff_fff8));
            memory.write_barrier();
        }
    }
}
