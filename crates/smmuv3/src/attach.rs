//! Attaching streams: writing stream table entries that the hardware may be reading, all of a device's or none.
//!
//! Each entry goes its planned way (`update`), a sync after every step. If one of a device's streams cannot follow, those before it go back; if
//! even that is not confirmed, they are blocked.
//!
//! An entry of which the hardware did not confirm that it forgot what it had cached is *in doubt* until it does: whoever changes it next has it forgotten
//! first, because memory alone does not say what the hardware uses; and so does `handle_errors`, which is where the queue begins to work again.
//!
//! What the old entries pointed to is dropped only after all new ones are in force. If that cannot be said, it is kept until hardware has confirmed a later
//! change of the entry, or that it forgot the entry, or is off: until then it may still read it.

use alloc::vec::Vec;

use portcullis_core::iommu::{AttachError, SyncError};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv3::command::Command;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, mutant};

use crate::entry::{self, STE_VALID, Ste};
use crate::features::ProbeError;
use crate::hardware::Hardware;
use crate::stream_table::StreamTable;
use crate::streams::distinct;
use crate::update::plan;
use crate::words;

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Entries that let pass the streams that firmware uses, in a table that the hardware does not read yet.
    pub(crate) fn place_boot_streams(&self, table: &mut StreamTable<P>) -> Result<(), ProbeError> {
        let beyond = self.config.boot_streams.iter().find(|source| !table.covers(source.0));
        if let Some(&source) = beyond {
            return Err(ProbeError::BootStream(source));
        }
        for stream_id in distinct(&self.config.boot_streams) {
            let placed = table.ensure(stream_id).then(|| table.entry(stream_id)).flatten();
            let at = placed.ok_or(ProbeError::NoMemory)?;
            self.write_ste(at, &entry::INVALID, &entry::bypass(&self.features));
            // What it remembers of before is invalidated before it is turned on.
            table.settle(stream_id);
            table.keep_boot_stream(stream_id);
        }
        Ok(())
    }

    /// Makes `next` the entry of a stream whose entry has a place. On success the hardware uses it.
    pub(crate) fn install(
        &self,
        table: &mut StreamTable<P>,
        stream_id: u32,
        next: &Ste,
    ) -> Result<(), SyncError> {
        let Some(at) = table.entry(stream_id) else {
            debug_assert!(false, "a stream whose entry has no place");
            return Ok(());
        };
        // A way that began in memory would not begin where the hardware is.
        self.forget_doubted(table, &[stream_id])?;
        let mut now = self.read_ste(at);
        let plan = plan(&now, next, STE_VALID, entry::ste_used);
        self.trace_update(stream_id, next, plan.syncs(), plan.is_hitless());
        // What the entry points to is visible before the entry is, also to a fetch between the first store and the first command.
        if !mutant!("entry-shown-before-what-it-points-to") {
            self.platform.write_barrier();
        }
        for image in plan.images() {
            let leaf = !table.is_fresh(stream_id);
            let forget = || self.run(|batch| batch.add(Command::cfgi_ste(stream_id, leaf)));
            let early = mutant!("entry-forgotten-before-it-is-written");
            if early {
                forget()?;
            }
            self.write_ste(at, &now, image);
            now = *image;
            if !early && let Err(error) = forget() {
                table.doubt(stream_id);
                return Err(error);
            }
            table.settle(stream_id);
        }
        Ok(())
    }

    /// Makes the hardware forget those of these streams' entries of which it did not confirm it before.
    ///
    /// Spec: SMMUv3 H.a, 3.21.3 "Configuration structures and configuration invalidation completion": until an invalidation has completed, what was cached
    /// may be used, whatever memory says.
    pub(crate) fn forget_doubted(
        &self,
        table: &mut StreamTable<P>,
        stream_ids: &[u32],
    ) -> Result<(), SyncError> {
        let doubted = || stream_ids.iter().filter(|&&id| table.is_in_doubt(id));
        if doubted().next().is_none() || mutant!("unconfirmed-entry-taken-for-forgotten") {
            return Ok(());
        }
        // Not only the leaf: what is in doubt may be that there is a table at all.
        self.run(|batch| doubted().for_each(|&id| batch.add(Command::cfgi_ste(id, false))))?;
        for &id in stream_ids {
            table.trust(id);
        }
        Ok(())
    }

    /// Makes `next` the entry of each stream. If one fails, all get their old entry back, or are blocked.
    pub(crate) fn install_all(
        &self,
        table: &mut StreamTable<P>,
        stream_ids: &[u32],
        next: &Ste,
    ) -> Result<(), AttachError> {
        let old: Vec<(u32, Ste)> =
            stream_ids.iter().filter_map(|&id| Some((id, self.read_ste(table.entry(id)?)))).collect();
        for (at, &(stream_id, _)) in old.iter().enumerate() {
            if let Err(error) = self.install(table, stream_id, next) {
                return Err(self.go_back(table, &old[..=at], &old, error));
            }
        }
        Ok(())
    }

    /// Gives the streams that may have changed (`old`) their old entry back. If that is not confirmed, `all` of the device's are blocked, also those that
    /// nobody came to: who is told that the device is blocked forgets what it was attached to.
    fn go_back(
        &self,
        table: &mut StreamTable<P>,
        old: &[(u32, Ste)],
        all: &[(u32, Ste)],
        error: SyncError,
    ) -> AttachError {
        let old =
            if mutant!("refused-attach-leaves-the-first-streams") { &old[old.len() - 1..] } else { old };
        let back = |table: &mut _| old.iter().try_for_each(|(id, ste)| self.install(table, *id, ste));
        if back(table).is_ok() {
            return AttachError::Sync(error);
        }
        for &(stream_id, _) in all {
            self.block_unconfirmed(table, stream_id);
        }
        AttachError::LeftBlocked(error)
    }

    /// Writes an entry that aborts, whether or not the hardware says that it has seen it. If there is no room for the command that says so, whoever next changes
    /// the entry, or handles errors, says it.
    pub(crate) fn block_unconfirmed(&self, table: &mut StreamTable<P>, stream_id: u32) {
        let Some(at) = table.entry(stream_id) else { return };
        let now = self.read_ste(at);
        let mut blocked = now;
        blocked[0] = entry::abort()[0];
        self.write_ste(at, &now, &blocked);
        self.platform.write_barrier();
        table.doubt(stream_id);
        // Not waited for: waiting is what has just failed.
        let told = self.commands.submit(&[Command::cfgi_ste(stream_id, false)]);
        self.platform.event(&Event {
            source: "smmuv3",
            name: "ste_blocked",
            fields: &[
                ("sid", Value::Hex(stream_id.into())),
                ("queued", Value::Str(if told.is_ok() { "yes" } else { "no" })),
            ],
        });
    }

    /// The entry of a stream, if it has a place.
    pub(crate) fn entry_of(&self, table: &StreamTable<P>, stream_id: u32) -> Option<Ste> {
        Some(self.read_ste(table.entry(stream_id)?))
    }

    fn read_ste(&self, at: Pa) -> Ste {
        words::read(&*self.platform, at)
    }

    fn write_ste(&self, at: Pa, now: &Ste, next: &Ste) {
        words::write(&*self.platform, self.coherent(), at, now, next);
    }

    fn trace_update(&self, stream_id: u32, next: &Ste, syncs: usize, hitless: bool) {
        if !self.platform.listening() {
            return;
        }
        self.platform.event(&Event {
            source: "smmuv3",
            name: "ste_update",
            fields: &[
                ("sid", Value::Hex(stream_id.into())),
                ("word0", Value::Hex(next[0])),
                ("word1", Value::Hex(next[1])),
                ("syncs", Value::Dec(syncs as u64)),
                ("hitless", Value::Str(if hitless { "yes" } else { "no" })),
            ],
        });
    }
}
