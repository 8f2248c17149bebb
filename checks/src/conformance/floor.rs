//! Engines, the memory that they access, and how it is judged what an access did: by memory, whatever the engine says.
//!
//! Not here: drivers, of which it knows none (`rig` for SMMUv3, `seam` for any).

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis::hal::{BlockLayout, Clock, DmaMemory};
use portcullis::types::{AccessKind, Pa, SizeLg2};

use super::bed::{Ask, Bed, Carried, WayOut};
use super::via::Via;
use crate::ensure;

/// Where engines may write what they have read, in every domain of the suite. Low enough for the narrowest table that a bed takes ours for, and
/// apart from what cases map.
pub const WAY_OUT: u64 = 0x0700_0000;
/// How often hardware is given time before an event is held not to come.
const PATIENCE: usize = 24;

/// A bed's engines, and memory for them.
pub struct Floor<B: Bed> {
    /// The bed.
    pub bed: Arc<B>,
    /// The smallest page.
    pub granule: SizeLg2,
    via: Arc<Via<B::Platform>>,
    buffers: Mutex<Vec<(Pa, BlockLayout)>>,
    way_out: Pa,
}

/// What an access did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Bytes moved.
    Moved,
    /// None did.
    Refused,
}

/// An access of a case: four bytes, unmarked, by the first engine that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which engine; the first that can if none.
    pub engine: Option<usize>,
    /// At which address.
    pub at: u64,
    /// Doing what.
    pub kind: AccessKind,
    /// Marked as privileged.
    pub privileged: bool,
    /// With this PASID.
    pub pasid: Option<u32>,
}

/// A write.
pub const fn write(at: u64) -> Access {
    Access { engine: None, at, kind: AccessKind::Write, privileged: false, pasid: None }
}

/// A read.
pub const fn read(at: u64) -> Access {
    Access { kind: AccessKind::Read, ..write(at) }
}

/// A fetch of instructions.
pub const fn fetch(at: u64) -> Access {
    Access { kind: AccessKind::Execute, ..write(at) }
}

impl Access {
    /// By this engine.
    #[must_use]
    pub const fn by(self, engine: usize) -> Self {
        Self { engine: Some(engine), ..self }
    }

    /// Marked as privileged.
    #[must_use]
    pub const fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }

    /// With a PASID.
    #[must_use]
    pub const fn in_space(self, pasid: u32) -> Self {
        Self { pasid: Some(pasid), ..self }
    }
}

/// Four bytes: what is refused as a whole, by every bus.
const BYTES: usize = 4;
static TOKEN: AtomicU32 = AtomicU32::new(1);

/// Bytes that no engine sends of its own accord, not the same again for a long time.
fn token() -> [u8; BYTES] {
    (0xa500_0000 | TOKEN.fetch_add(1, Relaxed) & 0x00ff_ffff).to_le_bytes()
}

impl<B: Bed> Floor<B> {
    /// With one page, for the way out.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn new(bed: Arc<B>, via: Arc<Via<B::Platform>>, granule: SizeLg2) -> Result<Self, String> {
        let mut floor = Self { bed, granule, via, buffers: Mutex::default(), way_out: Pa::new(0) };
        floor.way_out = floor.page()?;
        Ok(floor)
    }

    /// Where in memory the way out is.
    pub fn way_out(&self) -> Pa {
        self.way_out
    }

    /// Lets the machine work for a while.
    pub fn relax(&self) {
        self.via.relax();
    }

    /// The same for as long as hardware has until an event is held not to come.
    pub fn wait(&self) {
        (0..PATIENCE).for_each(|_| self.relax());
    }

    /// The streams of the engines.
    pub fn streams(&self) -> Vec<u32> {
        self.bed.engines().iter().map(|engine| engine.stream.0).collect()
    }

    /// The stream of an engine.
    pub fn stream(&self, engine: usize) -> u32 {
        self.bed.engines()[engine].stream.0
    }

    /// Which engine does an access.
    pub fn engine_for(&self, access: Access) -> usize {
        let reads = access.kind != AccessKind::Write;
        let able = self.bed.engines().iter().position(|engine| engine.reads || !reads);
        access.engine.or(able).unwrap_or(0)
    }

    /// The machine behind every hand.
    pub fn machine(&self) -> &dyn super::via::Machine {
        self.via.machine()
    }

    /// Memory that nobody else uses, as large as the smallest page and aligned to it.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn page(&self) -> Result<Pa, String> {
        self.memory(self.granule.get())
    }

    /// The same, of `1 << size_lg2` bytes.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn memory(&self, size_lg2: u8) -> Result<Pa, String> {
        let layout = BlockLayout::naturally_aligned(size_lg2);
        let first = self.via.alloc_buffer(layout).ok_or("no memory for data")?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push((first, layout));
        Ok(first)
    }

    /// Fills memory, so that hardware sees it.
    pub fn fill(&self, at: Pa, bytes: &[u8]) {
        self.via.write(at, bytes);
        self.via.clean(at, bytes.len() as u64);
        self.machine().barrier();
    }

    /// What is in memory, as hardware left it.
    pub fn bytes(&self, at: Pa, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.via.invalidate(at, len as u64);
        self.via.read(at, &mut bytes);
        bytes
    }

    /// Does an access, with nothing recorded yet of what came of it. `landing` is where it goes if it goes anywhere.
    ///
    /// # Errors
    ///
    /// It did something that no access does.
    pub fn carry(&self, access: Access, landing: Pa) -> Result<Seen, String> {
        let before = token();
        self.fill(landing, &before);
        let carried = self.ask(access, BYTES);
        let after = self.bytes(landing, BYTES);
        let seen = if access.kind == AccessKind::Write {
            match after {
                after if after == carried.bytes => Seen::Moved,
                after if after == before => Seen::Refused,
                after => return Err(format!("{access:x?} left {after:x?} behind, not {:x?}", carried.bytes)),
            }
        } else if carried.bytes == before {
            Seen::Moved
        } else {
            Seen::Refused
        };
        let said = carried.refused.map(|refused| if refused { Seen::Refused } else { Seen::Moved });
        ensure!(
            said.is_none_or(|said| said == seen),
            "{access:x?}: {seen:?}, but the engine was told {said:?}"
        );
        Ok(seen)
    }

    /// Does an access of `len` bytes.
    pub fn ask(&self, access: Access, len: usize) -> Carried {
        let Access { at, kind, privileged, pasid, .. } = access;
        let ask = Ask { engine: self.engine_for(access), pasid, at, len, kind, privileged };
        let way_out = WayOut { iova: WAY_OUT, pa: self.way_out };
        self.bed.carry_out(&[ask], Some(way_out)).pop().expect("an answer for each ask")
    }
}

impl<B: Bed> Drop for Floor<B> {
    fn drop(&mut self) {
        // Where a driver's end was not confirmed the hardware may go on reading its tables: memory for data goes back all the same, it is the bed's last use.
        let buffers = core::mem::take(&mut *self.buffers.lock().unwrap_or_else(PoisonError::into_inner));
        buffers.into_iter().for_each(|(first, layout)| self.via.free_buffer(first, layout));
    }
}
