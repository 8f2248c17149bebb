//! What every step of a translation works with: features, memory, caches, and the notes it leaves.

use model_bus::{BusError, Notes};
use portcullis_types::Pa;

use crate::caches::Caches;
use crate::config::Config;
use crate::counters::Counters;
use crate::memory::Memory;
use crate::reason::Reason;

/// What RTADDR_REG was when the root table pointer was last set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) table: u64,
    /// TTM.
    pub(crate) mode: u8,
    /// SSIRWE.
    pub(crate) io_permissions: bool,
}

impl Root {
    /// 01b.
    pub(crate) fn is_scalable(self) -> bool {
        self.mode == 1
    }
}

/// What kind of request it is: AT, or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Untranslated,
    Translation,
    Translated,
    PageRequest,
}

/// What a device asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) form: Form,
    pub(crate) source: u16,
    pub(crate) pasid: Option<u32>,
    pub(crate) address: u64,
    pub(crate) write: bool,
    /// ER; only with a PASID.
    pub(crate) execute: bool,
    /// PR; only with a PASID.
    pub(crate) privileged: bool,
    /// A read of nothing.
    pub(crate) empty: bool,
}

/// A request that is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// An FPD was met on the way.
    pub(crate) silent: bool,
}

impl Fault {
    pub(crate) const fn loud(reason: Reason) -> Self {
        Self { reason, silent: false }
    }

    /// Whether software is told.
    pub(crate) fn is_reported(self) -> bool {
        !(self.silent && self.reason.is_qualified())
    }
}

/// The parts of the model that a translation needs, borrowed for its time.
pub(crate) struct Engine<'a> {
    pub(crate) config: &'a Config,
    pub(crate) root: Root,
    pub(crate) memory: &'a Memory,
    pub(crate) caches: &'a mut Caches,
    pub(crate) notes: &'a mut Notes,
    pub(crate) counters: &'a mut Counters,
    /// Random bits, where the hardware may do either of two things.
    pub(crate) choice: u64,
    /// Caches are neither used nor filled, and memory is not changed: to see what the tables say now.
    pub(crate) fresh: bool,
}

impl Engine<'_> {
    /// Reads `N` words at `at`, each 128 bits in one piece.
    ///
    /// "Hardware is allowed to break access to larger than 128-bit entries into multiple aligned 128-bit accesses."
    pub(crate) fn read_words<const N: usize>(
        &mut self,
        at: u64,
        snooped: bool,
    ) -> Result<[u64; N], BusError> {
        if at >> self.config.host_bits != 0 {
            return Err(BusError { at: Pa::new(at) });
        }
        let mut bytes = [0; 64];
        let bytes = &mut bytes[..N * 8];
        for (index, piece) in bytes.chunks_mut(16).enumerate() {
            self.memory.way(snooped).read(Pa::new(at + 16 * index as u64), piece)?;
        }
        let mut words = [0; N];
        for (index, (word, chunk)) in words.iter_mut().zip(bytes.chunks_exact(8)).enumerate() {
            *word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
            *word = self.through_write_buffers(at + 8 * index as u64, *word);
        }
        Ok(words)
    }

    /// What a word looks like while write buffers may hold what was stored since it was last seen.
    ///
    /// Spec: VT-d 5.10, 6.8 "Write Buffer Flushing".
    fn through_write_buffers(&mut self, at: u64, word: u64) -> u64 {
        if !self.config.write_buffers || self.fresh {
            return word;
        }
        *self.caches.unflushed.entry(at).or_insert(word)
    }

    /// Sets flags in a paging entry, if it is still `entry`. Answers what was there.
    pub(crate) fn set_flags(&self, at: u64, entry: u64, flags: u64) -> Result<u64, BusError> {
        self.memory.snooped.compare_exchange(Pa::new(at), entry, entry | flags)
    }
}

/// Whether an address is in FEEx_xxxxh.
pub(crate) const fn is_interrupt_address(address: u64) -> bool {
    address >> 20 == 0xfee
}
