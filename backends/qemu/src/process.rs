//! A QEMU's process: started, watched, killed, reaped.
//!
//! Each has a keeper, a thread that starts it and then reads its standard error to the end. The kernel kills a child when the *thread* that
//! started it is gone, so it must be one that lives as long as the child: the keeper does, and with the whole process killed it goes too.

use core::time::Duration;
use std::collections::VecDeque;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::QemuError;
use crate::raw::dies_with_this_thread;

/// How much of standard error is kept.
const TAIL_BYTES: usize = 2048;
/// How long an end is waited for that seems to have come.
const GRACE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    keeper: Option<JoinHandle<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that is guarded here can be left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts it. Its standard error is kept, the rest of what it says dropped.
    pub(crate) fn start(mut command: Command) -> Result<Self, QemuError> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = tail.clone();
        let (send, receive) = sync_channel(1);
        let keep = move || {
            dies_with_this_thread(&mut command);
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(send.send(Err(error))),
            };
            let stderr = child.stderr.take();
            let _ = send.send(Ok(child));
            if let Some(stderr) = stderr {
                keep_tail(stderr, &kept);
            }
        };
        let refuse = |error: &dyn core::fmt::Display| QemuError::host("starting QEMU", error);
        let keeper = thread::Builder::new().name("qemu keeper".into()).spawn(keep).map_err(|e| refuse(&e))?;
        let started = receive.recv().map_err(|error| refuse(&error))?;
        let child = Arc::new(Mutex::new(started.map_err(|error| refuse(&error))?));
        Ok(Self { child, tail, keeper: Some(keeper) })
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        locked(&self.child).try_wait().ok().flatten()
    }

    /// How it ended, after a moment in which it may.
    pub(crate) fn ending(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended();
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How it ended, if it did, and the end of what it wrote to standard error.
    pub(crate) fn last_words(&self) -> String {
        let mut words = match self.ending(GRACE) {
            Some(status) => {
                self.await_tail();
                format!("{status}\n")
            }
            None => String::new(),
        };
        let tail: Vec<u8> = locked(&self.tail).iter().copied().collect();
        words.push_str(&String::from_utf8_lossy(&tail));
        words.trim_end().to_owned()
    }

    /// Waits until a process that ended was read to the end.
    fn await_tail(&self) {
        let deadline = Instant::now() + GRACE;
        while self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Its number.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u32 {
        locked(&self.child).id()
    }
}

fn keep_tail(mut stderr: impl Read, tail: &Mutex<VecDeque<u8>>) {
    let mut bytes = [0; 512];
    while let Ok(count @ 1..) = stderr.read(&mut bytes) {
        let mut tail = locked(tail);
        tail.extend(&bytes[..count]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..surplus);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        {
            let mut child = locked(&self.child);
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}
