//! Processes whose every change is told to the judge: what there was before, from when, and until when it may still be reached.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::core::iommu::SyncError;
use portcullis::core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable,
};
use portcullis::types::{Iova, IovaRange, Perms};
use portcullis_lab::process::{Kernel, Mapping, MmError, Process, Source, UserError};

use super::judge::Judge;
use super::shadow::{Answer, Listener};

/// Where [`Watched::map_zeroes`] begins.
const ZEROES: u64 = 0x10_0000_0000;

/// A process.
#[derive(Clone)]
pub struct Watched {
    memory: Arc<Memory>,
}

/// Its memory, as devices' drivers get it.
struct Memory {
    process: Arc<Process>,
    judge: Arc<Judge>,
    heard: Arc<Heard>,
    /// Where the next zeroes go.
    next: AtomicU64,
}

/// Who listens, and what was answered since it was last asked.
#[derive(Default)]
struct Heard(Mutex<Listeners>);

#[derive(Default)]
struct Listeners {
    /// By the process's own numbers.
    ours: BTreeMap<u64, Listener>,
    next: Listener,
    answers: Vec<Answer>,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Answer> {
        core::mem::take(&mut self.lock().answers)
    }
}

impl core::fmt::Debug for Memory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.process.fmt(f)
    }
}

impl core::fmt::Debug for Watched {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.memory.fmt(f)
    }
}

/// A listener, of which every answer is noted.
struct Noted {
    who: Listener,
    listener: Arc<dyn MmListener>,
    heard: Arc<Heard>,
}

impl Noted {
    fn note(&self, (first, last): (u64, u64), answer: Result<(), SyncError>) -> Result<(), SyncError> {
        let note = Answer { listener: self.who, first, last, confirmed: answer.is_ok() };
        self.heard.lock().answers.push(note);
        answer
    }
}

impl MmListener for Noted {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.note((range.first().get(), range.last().get()), self.listener.invalidate(range))
    }

    fn release(&self) -> Result<(), SyncError> {
        self.note((0, u64::MAX), self.listener.release())
    }
}

impl Memory {
    /// Does `work`, in which these runs of addresses may change.
    fn change<T>(&self, runs: &[(u64, u64)], work: impl FnOnce() -> T) -> T {
        // On several threads the table may go while it is being read: frames are not judged there, and it is not looked at.
        let looked_at = if self.judge.is_strict() { runs } else { &[] };
        let window = self.judge.shadow(|shadow| shadow.open(self.id(), looked_at));
        let sent = self.judge.invalidations();
        let done = work();
        let answers = self.heard.take();
        if answers.iter().all(|answer| answer.confirmed) && self.judge.is_strict() {
            self.judge.confirmed_since(sent, self.id(), None);
        }
        self.judge.shadow(|shadow| shadow.close(window, &answers));
        self.judge.look_at_frames();
        done
    }

    fn page_of(&self, at: Iova) -> (u64, u64) {
        let page = self.process.kernel().page_bytes();
        let first = at.get() & !(page - 1);
        (first, first + page)
    }
}

impl ProcessMemory for Memory {
    fn id(&self) -> MmId {
        self.process.id()
    }

    fn pasid_slot(&self) -> &PasidSlot {
        self.process.pasid_slot()
    }

    fn table(&self) -> ProcessTable {
        self.process.table()
    }

    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        self.process.pin_asid()
    }

    fn unpin_asid(&self) {
        self.process.unpin_asid();
    }

    fn handle_fault(&self, fault: &MmFault) -> Result<(), MmFaultError> {
        self.judge.fault_began();
        self.change(&[self.page_of(fault.address)], || self.process.handle_fault(fault))
    }

    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        let who = {
            let mut heard = self.heard.lock();
            heard.next += 1;
            heard.next
        };
        let id = self.process.add_listener(Arc::new(Noted { who, listener, heard: self.heard.clone() }))?;
        self.heard.lock().ours.insert(id.0, who);
        Ok(id)
    }

    fn remove_listener(&self, id: ListenerId) {
        self.process.remove_listener(id);
        let gone = self.heard.lock().ours.remove(&id.0);
        if let Some(who) = gone {
            self.judge.shadow(|shadow| shadow.listens_no_more(self.id(), who));
        }
    }
}

impl Watched {
    /// A new process.
    ///
    /// # Errors
    ///
    /// As [`Process::new`].
    pub fn new(kernel: &Arc<Kernel>, judge: &Arc<Judge>) -> Result<Self, MmError> {
        Ok(Self::known(Process::new(kernel)?, judge, ZEROES))
    }

    fn known(process: Arc<Process>, judge: &Arc<Judge>, next: u64) -> Self {
        let page = process.kernel().page_bytes();
        judge.shadow(|shadow| shadow.add(process.id(), process.table(), page));
        let memory =
            Memory { process, judge: judge.clone(), heard: Arc::default(), next: AtomicU64::new(next) };
        Self { memory: Arc::new(memory) }
    }

    /// What is bound.
    pub fn memory(&self) -> Arc<dyn ProcessMemory> {
        self.memory.clone()
    }

    /// The process itself, for what changes nothing.
    pub fn process(&self) -> &Arc<Process> {
        &self.memory.process
    }

    /// Which one.
    pub fn id(&self) -> MmId {
        self.memory.id()
    }

    fn shadow_area(&self, first: u64, end: u64, perms: Option<Perms>) {
        let id = self.id();
        self.memory.judge.shadow(|shadow| shadow.set_area(id, first, end, perms));
    }

    /// What it has mapped: first address, end, permissions. Of a stack all that it may become.
    pub fn areas(&self) -> Vec<(u64, u64, Perms)> {
        let id = self.id();
        self.memory.judge.shadow(|shadow| shadow.areas(id))
    }

    /// Maps something.
    ///
    /// # Errors
    ///
    /// As [`Process::map`].
    pub fn map(&self, mapping: &Mapping) -> Result<IovaRange, MmError> {
        let range = self.process().map(mapping)?;
        let end = range.last().get() + 1;
        let first = match mapping.source {
            Source::Stack { limit_bytes } => end.saturating_sub(limit_bytes).min(range.first().get()),
            _ => range.first().get(),
        };
        self.shadow_area(first, end, Some(mapping.perms));
        Ok(range)
    }

    /// Maps zeroes of its own, readable and writable, where nothing ever was: not into a hole that others play with.
    ///
    /// # Errors
    ///
    /// As [`Process::map`].
    pub fn map_zeroes(&self, len_bytes: u64) -> Result<IovaRange, MmError> {
        let room = len_bytes.next_multiple_of(0x1_0000) + 0x1_0000;
        let at = Some(Iova::new(self.memory.next.fetch_add(room, SeqCst)));
        self.map(&Mapping { at, len_bytes, perms: Perms::READ_WRITE, source: Source::Anonymous })
    }

    /// Unmaps.
    ///
    /// # Errors
    ///
    /// As [`Process::unmap`].
    pub fn unmap(&self, range: IovaRange) -> Result<(), MmError> {
        let (first, end) = (range.first().get(), range.last().get() + 1);
        self.memory.change(&[(first, end)], || {
            // The process has it no more from the first moment on; what is slack is the window's.
            self.shadow_area(first, end, None);
            self.process().unmap(range)
        })
    }

    /// Gives other permissions.
    ///
    /// # Errors
    ///
    /// As [`Process::protect`].
    pub fn protect(&self, range: IovaRange, perms: Perms) -> Result<(), MmError> {
        let (first, end) = (range.first().get(), range.last().get() + 1);
        let pieces: Vec<_> = self
            .areas()
            .into_iter()
            .filter(|&(f, e, _)| f < end && e > first)
            .map(|(f, e, p)| (f.max(first), e.min(end), p))
            .collect();
        self.memory.change(&[(first, end)], || {
            pieces.iter().for_each(|&(f, e, _)| self.shadow_area(f, e, Some(perms)));
            let done = self.process().protect(range, perms);
            if done.as_ref().is_err_and(|error| !matches!(error, MmError::Unconfirmed(_))) {
                pieces.iter().for_each(|&(f, e, old)| self.shadow_area(f, e, Some(old)));
            }
            done
        })
    }

    fn runs(&self) -> Vec<(u64, u64)> {
        // Of a stack only the pages that can be: it is short.
        self.areas().into_iter().map(|(first, end, _)| (first, end)).collect()
    }

    /// Forks.
    ///
    /// # Errors
    ///
    /// As [`Process::fork`].
    pub fn fork(&self) -> Result<Self, MmError> {
        let child = self.memory.change(&self.runs(), || self.process().fork())?;
        let child = Self::known(child, &self.memory.judge, self.memory.next.load(SeqCst));
        let (from, to) = (self.id(), child.id());
        self.memory.judge.shadow(|shadow| shadow.copy_areas(from, to));
        Ok(child)
    }

    /// Exits.
    pub fn exit(&self) {
        let id = self.id();
        self.memory.change(&self.runs(), || self.process().exit());
        self.memory.judge.shadow(|shadow| shadow.exited(id));
    }

    /// The process stores bytes.
    ///
    /// # Errors
    ///
    /// As [`Process::write`].
    pub fn write(&self, at: Iova, bytes: &[u8]) -> Result<(), UserError> {
        let last = Iova::new(at.get().saturating_add(bytes.len().saturating_sub(1) as u64));
        let run = (self.memory.page_of(at).0, self.memory.page_of(last).1);
        self.memory.change(&[run], || self.process().write(at, bytes))
    }

    /// The process loads bytes.
    ///
    /// # Errors
    ///
    /// As [`Process::read`].
    pub fn read(&self, at: Iova, len: usize) -> Result<Vec<u8>, UserError> {
        let mut bytes = vec![0; len];
        let last = Iova::new(at.get().saturating_add(len.saturating_sub(1) as u64));
        let run = (self.memory.page_of(at).0, self.memory.page_of(last).1);
        self.memory.change(&[run], || self.process().read(at, &mut bytes))?;
        Ok(bytes)
    }
}
