//! A file whose first page comes late: what a process waits for when it is killed.
//!
//! Reading the first page waits at the gate until somebody opens it. That is a slow disk, made to be slow at the right moment.

use core::time::Duration;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::process::Backing;

/// How long anybody waits at a gate, for whichever side.
const LIMIT: Duration = Duration::from_secs(20);

/// A gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    reached: bool,
    open: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, until: impl Fn(State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), LIMIT, |state| !until(*state));
        until(*waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Goes through. Waits until it is open.
    fn pass(&self) -> io::Result<()> {
        self.lock().reached = true;
        self.changed.notify_all();
        if self.wait(|state| state.open) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Waits until somebody is at the gate. Answers whether somebody came.
    pub(super) fn await_reached(&self) -> bool {
        self.wait(|state| state.reached)
    }

    /// Opens it for ever.
    pub(super) fn open(&self) {
        self.lock().open = true;
        self.changed.notify_all();
    }
}

/// A file behind a gate.
#[derive(Debug)]
pub(super) struct Gated {
    pub(super) gate: Arc<Gate>,
    pub(super) file: Box<dyn Backing>,
}

impl Backing for Gated {
    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    fn is_writable(&self) -> bool {
        self.file.is_writable()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.gate.pass()?;
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, from)
    }
}

/// Bytes of the lab's own, as a file.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Backing for Bytes {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let from = self.0.get(start..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// A file of so many zeroes.
#[derive(Debug)]
pub(super) struct Zeroes(pub(super) u64);

impl Backing for Zeroes {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn read_at(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
