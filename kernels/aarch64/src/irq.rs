//! Interrupts: who is called when which comes.
//!
//! [`Interrupts`] is what drivers are given lines from: a message of a device (by the ITS), or a wire. A handler runs in the interrupt, with interrupts masked:
//! it may call what Portcullis says may be called in interrupt context, and must not wait for another interrupt.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};

use portcullis_nvme as nvme;
use portcullis_types::Pa;

use crate::gic::{self, FIRST_LPI, Gic, GicError};
use crate::its::Its;
use crate::lock::Lock;
use crate::timer;

type Handler = Arc<dyn Fn() + Send + Sync>;

static HANDLERS: Lock<BTreeMap<u32, Handler>> = Lock::new(BTreeMap::new());
static TAKEN: AtomicU64 = AtomicU64::new(0);
static STRAY: AtomicU64 = AtomicU64::new(0);

/// Handles every interrupt that is pending. Called by the vectors.
pub(crate) fn take() {
    while let Some(intid) = gic::acknowledge() {
        TAKEN.fetch_add(1, Relaxed);
        let handler = HANDLERS.lock().get(&intid).cloned();
        match handler {
            Some(handler) => handler(),
            None => drop(STRAY.fetch_add(1, Relaxed)),
        }
        gic::end(intid);
    }
}

/// How many interrupts were taken, and how many of them nobody wanted.
pub(crate) fn counts() -> (u64, u64) {
    (TAKEN.load(Relaxed), STRAY.load(Relaxed))
}

/// The interrupt controllers.
pub(crate) struct Interrupts {
    gic: Gic,
    its: Lock<Its>,
    /// The doorbell that devices write their messages to, by its physical address.
    doorbell: Pa,
    next_lpi: AtomicU64,
}

/// One message of one device: a flag that the interrupt sets and its driver takes.
#[derive(Clone)]
pub(crate) struct Line {
    signalled: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    device: u32,
    event: u32,
    lpi: u32,
}

impl Interrupts {
    pub(crate) fn new(gic: Gic, its: Its, doorbell: Pa) -> Self {
        Self { gic, its: Lock::new(its), doorbell, next_lpi: AtomicU64::new(FIRST_LPI.into()) }
    }

    /// The doorbell that devices write their messages to, by its physical address. What a device must write there is the number of the event.
    pub(crate) fn doorbell(&self) -> Pa {
        self.doorbell
    }

    /// A line for `event` of `device`, as the ITS knows it.
    pub(crate) fn message(&self, device: u32, event: u32) -> Result<Line, GicError> {
        let lpi =
            u32::try_from(self.next_lpi.fetch_add(1, Relaxed)).map_err(|_| GicError("no more messages"))?;
        let line = Line { signalled: Arc::default(), count: Arc::default(), device, event, lpi };
        let (signalled, count) = (line.signalled.clone(), line.count.clone());
        let handler: Handler = Arc::new(move || {
            count.fetch_add(1, Relaxed);
            signalled.store(true, Release);
        });
        HANDLERS.lock().insert(lpi, handler);
        self.its
            .lock()
            .map(&self.gic, device, event, lpi)
            .inspect_err(|_| drop(HANDLERS.lock().remove(&lpi)))?;
        Ok(line)
    }

    /// From now on these lines, all of one device's, mean nothing.
    pub(crate) fn forget(&self, lines: &[Line]) -> Result<(), GicError> {
        let mut its = self.its.lock();
        for line in lines {
            its.discard(line.device, line.event)?;
            self.gic.configure_message(line.lpi, false);
        }
        lines.first().map_or(Ok(()), |line| its.remove_device(line.device))?;
        drop(its);
        lines.iter().for_each(|line| drop(HANDLERS.lock().remove(&line.lpi)));
        Ok(())
    }

    /// Has `handler` called when the wire `intid` signals.
    pub(crate) fn wire(&self, intid: u32, edge: bool, handler: Box<dyn Fn() + Send + Sync>) {
        HANDLERS.lock().insert(intid, Arc::from(handler));
        self.gic.enable_wire(intid, edge);
    }

    /// Has `handler` called when an alarm comes ([`timer::set_alarm`]).
    pub(crate) fn alarm(&self, handler: Box<dyn Fn() + Send + Sync>) {
        let handler = move || {
            timer::stop_alarm();
            timer::count_alarm();
            handler();
        };
        HANDLERS.lock().insert(timer::ALARM, Arc::new(handler));
        self.gic.enable_own(timer::ALARM);
    }

    /// Nobody is called for `intid` any more, a wire's or the alarm's.
    pub(crate) fn unwire(&self, intid: u32) {
        drop(HANDLERS.lock().remove(&intid));
    }
}

impl Line {
    /// How often it has signalled.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

/// What Portcullis's NVMe driver asks of a vector.
impl nvme::Interrupt for Line {
    fn take(&self) -> bool {
        self.signalled.swap(false, AcqRel)
    }
}
