//! A process's domain that is told of what the process changes, for as long as anybody has it.
//!
//! Core gives a driver not the [`ProcessDomain`] that the driver made, but a [`Listening`] that stands for it. Core has that while something is bound or attached to the process; the driver, while a PASID or a
//! device leads there, or hardware has not confirmed that none does any more. Neither knows how long the other does. So the process's listener hangs on this handle, and is taken back with the
//! last: whatever hardware may still walk the process's table by hears of every change and of the exit, though nobody else has anything to do with the process by then.
//!
//! What it answers counts as any listener's does. Where hardware does not confirm, it may reach the process's memory: pages are kept, and a fork does not share what hardware may write.
//!
//! # Who lets go last
//!
//! Core does it with no lock held, and takes the listener back there and then. A driver may do it with a group's lock held, or in an interrupt, where neither `remove_listener` may be called
//! nor hardware be waited for. Then the listener is left in [`LetGo`], until somebody next changes where a device is or what is bound to it, and holds no lock any more.
//!
//! Not here: who has one (`bond`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Release};

use portcullis_hal::{Lock, Platform};
use portcullis_types::{IovaRange, mutant};

use super::ProcessDomain;
use crate::iommu::SyncError;
use crate::mm::{Exited, ListenerId, MmListener, ProcessMemory};

/// A process's domain, with its listener.
pub(super) struct Listening<P: Platform> {
    /// None only while it is let go.
    place: Option<Place>,
    let_go: Arc<LetGo<P>>,
}

/// Where a domain listens.
struct Place {
    domain: Arc<dyn ProcessDomain>,
    listener: ListenerId,
    mm: Arc<dyn ProcessMemory>,
}

impl Place {
    /// Takes the listener back, and lets go of the domain, which nobody else has.
    fn leave(self) {
        self.mm.remove_listener(self.listener);
    }
}

/// What the process tells.
struct Listener {
    domain: Arc<dyn ProcessDomain>,
    exited: Arc<AtomicBool>,
}

impl MmListener for Listener {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.domain.invalidate(range)
    }

    fn release(&self) -> Result<(), SyncError> {
        self.exited.store(true, Release);
        if mutant!("exit-kept-from-hardware") { Ok(()) } else { self.domain.quiesce() }
    }
}

impl<P: Platform> Listening<P> {
    /// `domain` listens to `mm` from now on. `exited` is set when that exits.
    ///
    /// # Errors
    ///
    /// It has exited already.
    pub(super) fn new(
        domain: Arc<dyn ProcessDomain>,
        mm: &Arc<dyn ProcessMemory>,
        exited: &Arc<AtomicBool>,
        let_go: &Arc<LetGo<P>>,
    ) -> Result<Arc<Self>, Exited> {
        let listener = Arc::new(Listener { domain: domain.clone(), exited: exited.clone() });
        let listener = mm.add_listener(listener)?;
        let place = Some(Place { domain, listener, mm: mm.clone() });
        Ok(Arc::new(Self { place, let_go: let_go.clone() }))
    }

    /// Lets go of a handle of core's, with no lock held: if it is the last, nobody listens any more on return.
    pub(super) fn end(handle: Arc<Self>) {
        if mutant!("kept-process-tells-nobody")
            && let Some(place) = &handle.place
        {
            place.mm.remove_listener(place.listener);
        }
        let place = Arc::into_inner(handle).and_then(|mut last| last.place.take());
        place.into_iter().for_each(Place::leave);
    }

    fn domain(&self) -> &Arc<dyn ProcessDomain> {
        &self.place.as_ref().expect("there until it is let go").domain
    }
}

impl<P: Platform> Drop for Listening<P> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.let_go.0.lock().push(place);
        }
    }
}

impl<P: Platform> ProcessDomain for Listening<P> {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.domain().invalidate(range)
    }

    fn quiesce(&self) -> Result<(), SyncError> {
        self.domain().quiesce()
    }

    fn as_any(&self) -> &dyn Any {
        self.domain().as_any()
    }
}

impl<P: Platform> fmt::Debug for Listening<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listening").field(&self.place.as_ref().map(|place| &place.domain)).finish()
    }
}

/// Listeners of domains that nobody has any more, and whose last handle was a driver's: those of one IOMMU.
pub(crate) struct LetGo<P: Platform>(Lock<P, Vec<Place>>);

impl<P: Platform> LetGo<P> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Lock::<P, _>::new(Vec::new()))
    }

    /// Takes them back. Called with no lock held: it may sleep, and wait for hardware.
    pub(crate) fn settle(&self) {
        let left = core::mem::take(&mut *self.0.lock());
        left.into_iter().for_each(Place::leave);
    }
}

/// Nobody is left who would come by: neither the unit nor a device, a group or a process of it.
impl<P: Platform> Drop for LetGo<P> {
    fn drop(&mut self) {
        core::mem::take(self.0.get_mut()).into_iter().for_each(Place::leave);
    }
}
