//! Context descriptors that the hardware may be reading: the table of one device, and how a descriptor in it changes.
//!
//! As for stream table entries (`attach`): a plan of images, each written, then forgotten by the hardware for every stream that uses the
//! table. The table's lock is held over a change, waits included, so that changes of one table come one after the other.
//!
//! A change that hardware did not confirm leaves it unknown which descriptor hardware uses. The next change of that descriptor begins with that question, and
//! does nothing before it is answered: not even nothing, where the descriptor is already what it should be, or where its second-level table went with another's.
//!
//! Second-level tables come with their first descriptor and go with their last, so that memory is in proportion to the substreams in use.
//!
//! Spec: SMMUv3 H.a, 3.21.3 "Configuration structures and configuration invalidation completion", 4.3.3 "CMD_CFGI_CD".
//! Not here: what descriptors hold (`process`, `table`), where they lie (`context`).

use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Release};

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::smmuv3::command::Command;
use portcullis_spec::smmuv3::tables::CD_WORDS;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, mutant};

use crate::context::ContextTable;
use crate::entry::{CD_VALID, Cd, cd_used};
use crate::hardware::Hardware;
use crate::update::plan;

/// The context descriptors of a device.
#[derive(Debug)]
pub(crate) struct Contexts<P: Platform> {
    /// The streams whose entries point to the table.
    pub(crate) streams: Vec<u32>,
    table: Lock<P, ContextTable<P>>,
    cut_off: AtomicBool,
}

/// Why a descriptor was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// No memory for a second-level table, or the substream is beyond the table.
    NoMemory,
    /// The hardware did not confirm: it may use the old descriptor or the new one.
    Sync(SyncError),
}

impl<P: Platform> Contexts<P> {
    pub(crate) fn new(streams: Vec<u32>, table: ContextTable<P>) -> Self {
        Self { streams, table: Lock::<P, ContextTable<P>>::new(table), cut_off: AtomicBool::new(false) }
    }

    /// No entry leads here any more, and hardware has confirmed it: nothing that the device still remembers from here is of any use to it.
    pub(crate) fn cut_off(&self) {
        self.cut_off.store(true, Release);
    }

    /// Whether it has been [cut off](Self::cut_off).
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Acquire)
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Makes `next` the descriptor of a substream. On success the hardware uses it.
    pub(crate) fn write_cd(
        &self,
        contexts: &Contexts<P>,
        substream_id: u32,
        next: &Cd,
    ) -> Result<(), WriteError> {
        let mut table = contexts.table.lock();
        let at = table.place(substream_id).ok_or(WriteError::NoMemory)?;
        self.install_cd(contexts, &mut table, substream_id, at, next).map_err(WriteError::Sync)
    }

    /// Changes the descriptor of a substream, if it is valid. On success the hardware uses none but what is there.
    pub(crate) fn change_cd(
        &self,
        contexts: &Contexts<P>,
        substream_id: u32,
        change: &dyn Fn(Cd) -> Cd,
    ) -> Result<(), SyncError> {
        let mut table = contexts.table.lock();
        let found = table.find(substream_id).map(|at| (at, table.read(at)));
        let valid = found.filter(|(_, cd)| cd[0] & CD_VALID != 0);
        if found.is_some() && valid.is_none() {
            // A bit of memory may have flipped, and hardware remember the descriptor as it was.
            table.doubt(substream_id);
        }
        // Also where its place is gone: another's end may have cut that off.
        self.settle_doubt(contexts, &mut table, substream_id)?;
        let Some((at, now)) = valid else { return Ok(()) };
        self.install_cd(contexts, &mut table, substream_id, at, &change(now))
    }

    /// Makes the descriptor of a substream invalid, and gives the memory of its second-level table back if it was the last in there. On success the hardware
    /// remembers neither.
    pub(crate) fn clear_cd(&self, contexts: &Contexts<P>, substream_id: u32) -> Result<(), SyncError> {
        let mut table = contexts.table.lock();
        self.settle_doubt(contexts, &mut table, substream_id)?;
        if let Some(at) = table.find(substream_id) {
            self.install_cd(contexts, &mut table, substream_id, at, &[0; CD_WORDS])?;
            table.cut_if_empty(substream_id);
        }
        if !table.is_cut(substream_id) {
            return Ok(());
        }
        self.platform.write_barrier();
        // If this is not confirmed, the memory stays where the hardware may look for it, until it is asked again or nothing leads to the table.
        if !mutant!("descriptor-table-freed-before-forgotten") {
            self.forget_cd(contexts, substream_id, false)?;
        }
        table.give_back(substream_id);
        Ok(())
    }

    fn install_cd(
        &self,
        contexts: &Contexts<P>,
        table: &mut ContextTable<P>,
        substream_id: u32,
        at: Pa,
        next: &Cd,
    ) -> Result<(), SyncError> {
        self.settle_doubt(contexts, table, substream_id)?;
        let mut now = table.read(at);
        let plan = plan(&now, next, CD_VALID, cd_used);
        self.trace_cd(contexts, substream_id, next, plan.syncs());
        // What the descriptor points to is visible before the descriptor is.
        self.platform.write_barrier();
        for image in plan.images() {
            table.doubt(substream_id);
            table.write(at, &now, image);
            now = *image;
            self.settle_doubt(contexts, table, substream_id)?;
        }
        Ok(())
    }

    /// Makes the hardware use the descriptor that is there, if it may be using another.
    fn settle_doubt(
        &self,
        contexts: &Contexts<P>,
        table: &mut ContextTable<P>,
        substream_id: u32,
    ) -> Result<(), SyncError> {
        if !table.is_doubtful(substream_id) {
            return Ok(());
        }
        if !mutant!("descriptor-changed-and-not-forgotten") {
            let forgotten = self.forget_cd(contexts, substream_id, !table.is_fresh(substream_id));
            if !mutant!("descriptor-in-doubt-taken-for-forgotten") {
                forgotten?;
            }
        }
        table.confirm(substream_id);
        Ok(())
    }

    fn forget_cd(&self, contexts: &Contexts<P>, substream_id: u32, leaf: bool) -> Result<(), SyncError> {
        self.run(|batch| {
            for &stream_id in &contexts.streams {
                batch.add(Command::cfgi_cd(stream_id, substream_id, leaf));
            }
        })
    }

    fn trace_cd(&self, contexts: &Contexts<P>, substream_id: u32, next: &Cd, syncs: usize) {
        if !self.platform.listening() {
            return;
        }
        self.platform.event(&Event {
            source: "smmuv3",
            name: "cd_update",
            fields: &[
                ("sid", Value::Hex(contexts.streams.first().copied().unwrap_or(0).into())),
                ("ssid", Value::Dec(substream_id.into())),
                ("word0", Value::Hex(next[0])),
                ("word1", Value::Hex(next[1])),
                ("syncs", Value::Dec(syncs as u64)),
            ],
        });
    }
}
