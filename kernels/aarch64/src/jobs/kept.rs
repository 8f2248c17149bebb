//! Before the jobs: what a process does when hardware does not confirm that it forgot. Its memory is kept for good, so this comes before anything is counted.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portcullis_core::iommu::SyncError;
use portcullis_core::mm::{MmListener, PinAsidError, ProcessMemory};
use portcullis_types::IovaRange;

use crate::error::{Wrong, doing, ensure};
use crate::memory;
use crate::process::Process;
use crate::uart::println;

/// No other process has it: what hardware remembers under it is never somebody else's.
const ASID: u16 = 2;
const PAGE: u64 = 4096;

/// One who is told of changes, and may not confirm any.
struct Told {
    confirms: bool,
    invalidations: AtomicU64,
    releases: AtomicU64,
}

impl Told {
    fn new(confirms: bool) -> Arc<Self> {
        Arc::new(Self { confirms, invalidations: AtomicU64::new(0), releases: AtomicU64::new(0) })
    }

    fn answer(&self) -> Result<(), SyncError> {
        let late = SyncError::Timeout { waiting_for: "hardware that does not confirm", last: 0 };
        if self.confirms { Ok(()) } else { Err(late) }
    }
}

impl MmListener for Told {
    fn invalidate(&self, _: IovaRange) -> Result<(), SyncError> {
        self.invalidations.fetch_add(1, Relaxed);
        self.answer()
    }

    fn release(&self) -> Result<(), SyncError> {
        self.releases.fetch_add(1, Relaxed);
        self.answer()
    }
}

pub(super) fn run() -> Result<(), Wrong> {
    let empty = memory::frames().live_bytes();
    let process = Process::new(ASID)?;
    let (refuses, confirms) = (Told::new(false), Told::new(true));
    for listener in [&refuses, &confirms] {
        process.add_listener(listener.clone()).map_err(doing("listening to a process"))?;
    }
    let page = process.add_memory(PAGE, PAGE)?;
    let full = memory::frames().live_bytes();

    let not_its_own = [(page - PAGE, PAGE), (page + 1, PAGE), (page, PAGE + 1), (page, 1 << 40), (page, !0)];
    for (va, bytes) in not_its_own {
        ensure!(!process.give_back(va, bytes), "a process gave back {bytes:#x} bytes from {va:#x}");
    }
    ensure!(confirms.invalidations.load(Relaxed) == 0, "what was refused was begun");

    ensure!(!process.give_back(page, PAGE), "a page that hardware may reach was given back");
    ensure!(process.lookup(page).is_none(), "the entry of what was given back is there");
    ensure!(process.exit().is_err(), "an exit that hardware did not confirm");
    let told = (confirms.invalidations.load(Relaxed), confirms.releases.load(Relaxed));
    ensure!(told == (1, 1), "behind one who did not confirm {told:?} were told");
    ensure!(process.add_listener(confirms.clone()).is_err(), "somebody listens to what has exited");
    ensure!(process.pin_asid() == Err(PinAsidError::Exited), "what has exited can be shared");

    drop(process);
    let kept = memory::frames().live_bytes();
    ensure!(kept == full, "{kept} bytes of frames, and {full} that hardware may reach");
    println!(
        "kept: {} KiB of a process of which hardware did not confirm that it forgot",
        (kept - empty) >> 10
    );
    Ok(())
}
