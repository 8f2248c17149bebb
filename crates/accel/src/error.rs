//! What can go wrong, sorted by who is to blame.

use core::fmt;

use portcullis_types::{Iova, Pasid};

use crate::queue::Queue;
use crate::registers::State;
use portcullis_hal::{Platform, Registers};

/// Why the accelerator as a whole is not as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccelError {
    /// The caller's: queues are open. EBUSY.
    QueuesOpen {
        /// Which: bit `n` stands for queue `n`.
        queues: u16,
    },
    /// The caller's: this is no accelerator. ENODEV.
    NotAnAccelerator {
        /// What it says that it is.
        id: u32,
    },
    /// The device's: it says of itself what cannot be. EIO.
    Capabilities {
        /// What it says.
        cap: u32,
    },
    /// The device's: it no longer answers; its registers read as all ones. EIO.
    Gone,
    /// The device's: it did not do in time what `CTRL` asked for. EIO.
    NotReady {
        /// What `CTRL` asked for.
        ctrl: u32,
        /// What `CTRL` read as last.
        read: u32,
        /// What `STATUS` read as last.
        status: u32,
        /// How long was waited.
        waited_ns: u64,
    },
}

/// Why a queue was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The caller's: the ring's address is no multiple of 64. EINVAL.
    Misaligned(Iova),
    /// The caller's: the ring would pass the end of the address space. EINVAL.
    PastTheEnd(Iova),
    /// The caller's: the number of entries as a power of two is not 1 to `most`. EINVAL.
    Size {
        /// What was asked for.
        size_lg2: u8,
        /// The device's limit.
        most: u8,
    },
    /// The caller's: the device's PASIDs have too few bits for this one. EOVERFLOW.
    Pasid {
        /// Which.
        pasid: Pasid,
        /// The device's limit.
        bits: u8,
    },
    /// The accelerator was shut down. ENODEV.
    NotStarted,
    /// Every queue is taken. EBUSY.
    NoQueue,
    /// The device's: a queue that nobody has is not off. EIO.
    NotOff(State),
    /// The device's: a register does not keep what is written. EIO.
    NotKept {
        /// Its offset.
        register: usize,
        /// What was written.
        wrote: u64,
        /// What was read back.
        read: u64,
    },
    /// The device's: the queue failed at the start. EIO.
    Failed(QueueFailure),
    /// The device's: the queue did not start in time. EIO.
    NotRunning {
        /// What it did at last.
        state: State,
        /// How long was waited.
        waited_ns: u64,
    },
}

/// Why a queue failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueFailure {
    /// The ring could not be read or written.
    Ring {
        /// The page in which that was.
        page: Iova,
    },
    /// The process wrote a tail that is more than a ring away from the head.
    Tail,
    /// Base or size were wrong at the start.
    Setup,
    /// It does not say, or by a number that is not known: the register.
    Unknown(u64),
}

/// A queue that was not opened, and the space that it would have worked in.
pub struct NotOpened<P: Platform, R: Registers, S> {
    /// Why.
    pub error: OpenError,
    /// What was given. Where the device was told of it and did not go off in time, the queue that has it: to be closed or aborted, as one that was opened.
    pub space: Result<S, Queue<P, R, S>>,
}

/// A queue that did not come to an end in time. The device may still use its address space.
pub struct StillOpen<P: Platform, R: Registers, S> {
    /// The queue: to be closed again, or aborted.
    pub queue: Queue<P, R, S>,
    /// What it did at last.
    pub state: State,
    /// How long was waited.
    pub waited_ns: u64,
}

impl QueueFailure {
    /// What `ERROR` says: the reason in 11:0, and for the ring the page in 63:12.
    pub(crate) fn decode(error: u64) -> Self {
        match error & 0xfff {
            1 => Self::Ring { page: Iova::new(error & !0xfff) },
            2 => Self::Tail,
            3 => Self::Setup,
            _ => Self::Unknown(error),
        }
    }
}

impl fmt::Display for AccelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueuesOpen { queues } => write!(f, "queues are open: {queues:#06x}"),
            Self::NotAnAccelerator { id } => write!(f, "no accelerator: it says {id:#010x}"),
            Self::Capabilities { cap } => write!(f, "the device cannot be: CAP {cap:#010x}"),
            Self::Gone => f.write_str("the device does not answer"),
            Self::NotReady { ctrl, read, status, waited_ns } => write!(
                f,
                "not ready after {waited_ns} ns: CTRL {read:#x} instead of {ctrl:#x}, STATUS {status:#x}"
            ),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(ring) => write!(f, "ring at {ring} is not aligned to 64 bytes"),
            Self::PastTheEnd(ring) => write!(f, "ring at {ring} passes the end of the address space"),
            Self::Size { size_lg2, most } => write!(f, "2^{size_lg2} entries, where 2^1 to 2^{most} can be"),
            Self::Pasid { pasid, bits } => write!(f, "PASID {pasid} does not fit into {bits} bits"),
            Self::NotStarted => f.write_str("the accelerator was shut down"),
            Self::NoQueue => f.write_str("every queue is taken"),
            Self::NotOff(state) => write!(f, "a queue that nobody has is {state:?}"),
            Self::NotKept { register, wrote, read } => {
                write!(f, "register {register:#x}: wrote {wrote:#x}, read back {read:#x}")
            }
            Self::Failed(failure) => write!(f, "failed at the start: {failure}"),
            Self::NotRunning { state, waited_ns } => write!(f, "{state:?} {waited_ns} ns after the start"),
        }
    }
}

impl fmt::Display for QueueFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring { page } => write!(f, "no access to the ring in page {page}"),
            Self::Tail => f.write_str("the tail is out of range"),
            Self::Setup => f.write_str("base or size are wrong"),
            Self::Unknown(error) => write!(f, "unknown error {error:#x}"),
        }
    }
}

impl<P: Platform, R: Registers, S> fmt::Debug for NotOpened<P, R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotOpened")
            .field("error", &self.error)
            .field("queue", &self.space.as_ref().err())
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers, S> fmt::Debug for StillOpen<P, R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StillOpen")
            .field("queue", &self.queue.index())
            .field("state", &self.state)
            .field("waited_ns", &self.waited_ns)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers, S> fmt::Display for StillOpen<P, R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, state, waited_ns } = self;
        write!(f, "queue {} is {state:?} after {waited_ns} ns", queue.index())
    }
}

impl core::error::Error for AccelError {}
impl core::error::Error for OpenError {}
impl core::error::Error for QueueFailure {}
