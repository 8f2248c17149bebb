//! What can go wrong, sorted by who is to blame.

use core::fmt;

use portcullis_core::dma::{DmaMapError, DmaUnmapError};

use crate::completion::Status;

/// Why the driver did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NvmeError {
    /// The caller's: a number in [`Config`](crate::Config) is out of its range.
    BadConfig {
        /// Which.
        field: &'static str,
        /// What it was.
        value: u64,
    },
    /// The caller's: blocks that the namespace does not have.
    OutOfRange {
        /// The first block asked for.
        lba: u64,
        /// How many.
        block_count: u64,
        /// How many the namespace has.
        capacity_blocks: u64,
    },
    /// The caller's: nothing, or not a whole number of blocks.
    BadLength {
        /// How many bytes.
        len_bytes: u64,
        /// How many a block has.
        block_bytes: u64,
    },
    /// The caller's: buffers that a PRP list cannot say, because one begins or ends inside a page where no command can be cut.
    Misaligned {
        /// Where, as the device would see it.
        iova: u64,
    },
    /// An earlier error left the controller in doubt; it is stopped. Start it again.
    Stopped,
    /// The controller's: it lacks something that is needed.
    Unsupported(Unsupported),
    /// The controller's: nothing came in time.
    Timeout {
        /// What was waited for.
        waiting_for: Wait,
        /// What `CSTS` read as last.
        csts: u32,
    },
    /// The controller's: it reports that it failed for good (`CSTS.CFS`).
    Fatal {
        /// What `CSTS` read as.
        csts: u32,
    },
    /// The controller's: it no longer answers; its registers read as all ones.
    Gone,
    /// The platform's or the IOMMU's: the completion is in memory, but its interrupt never came.
    LostInterrupt {
        /// The completion queue.
        queue: u16,
        /// The vector that was silent.
        vector: u16,
    },
    /// The controller's: a completion that makes no sense.
    BadCompletion {
        /// The completion queue.
        queue: u16,
        /// What makes no sense.
        why: BadCompletion,
        /// The entry's words.
        words: [u32; 4],
    },
    /// The controller's: it says what cannot be about itself or its namespace.
    BadIdentity(BadIdentity),
    /// The controller refused a command.
    Command {
        /// The submission queue, 0 for admin.
        queue: u16,
        /// The command's opcode.
        opcode: u8,
        /// What the controller said.
        status: Status,
    },
    /// A buffer could not be given to the device: see the inner error for whether that may reach it all the same.
    Map(DmaMapError),
    /// A buffer could not be taken back as it should: see the inner error for whether the device may still reach it.
    Unmap(DmaUnmapError),
}

/// What the controller lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// The NVM command set, by `CAP.CSS`.
    NvmCommandSet {
        /// `CAP`.
        cap: u64,
    },
    /// A memory page of at most 64 KiB, by `CAP.MPSMIN`.
    PageSize {
        /// Its smallest page, as a power of two.
        min_lg2: u8,
    },
    /// Doorbells inside the region of registers, by `CAP.DSTRD`.
    Doorbells {
        /// Where the last doorbell would end, in bytes from the base.
        end: usize,
        /// How large the region is.
        register_bytes: usize,
    },
    /// Queue entries of 64 and 16 bytes, by `SQES` and `CQES`.
    EntrySizes {
        /// `SQES`.
        sqes: u8,
        /// `CQES`.
        cqes: u8,
    },
    /// Blocks without metadata.
    Metadata {
        /// How many bytes of it each block has.
        bytes: u16,
    },
    /// Blocks of at most 64 KiB, and no larger than a command may be.
    BlockSize {
        /// A block's size as a power of two.
        lg2: u8,
    },
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// `CSTS.RDY` to be set, after enabling.
    Ready,
    /// `CSTS.RDY` to be clear, after disabling.
    NotReady,
    /// `CSTS.SHST` to say that shutdown is complete.
    Shutdown,
    /// A completion on the queue of this id, or its interrupt: neither came.
    Completion {
        /// The completion queue.
        queue: u16,
    },
}

/// What makes no sense in a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadCompletion {
    /// It is for a submission queue that does not complete here.
    Queue,
    /// It is for a command that is not in flight.
    Command,
    /// It says that the controller has fetched what was never submitted.
    Head,
}

/// What cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadIdentity {
    /// `CAP.MPSMIN` is above `CAP.MPSMAX`.
    PageSizes {
        /// `CAP`.
        cap: u64,
    },
    /// `CAP.MQES` is 0: a queue of one entry.
    QueueEntries,
    /// The namespace asked for is above the controller's number of namespaces.
    NoNamespace {
        /// Asked for.
        namespace: u32,
        /// How many there can be.
        count: u32,
    },
    /// The namespace is not active: it has no blocks.
    Inactive {
        /// Its id.
        namespace: u32,
    },
    /// The namespace's format is not among those it lists.
    Format {
        /// Its index.
        index: u8,
        /// The index of the last one listed.
        last: u8,
    },
    /// A block of less than 512 bytes.
    BlockSize {
        /// Its size as a power of two.
        lg2: u8,
    },
    /// More bytes than 64 bits can count.
    Capacity {
        /// How many blocks.
        block_count: u64,
    },
}

impl From<Unsupported> for NvmeError {
    fn from(what: Unsupported) -> Self {
        Self::Unsupported(what)
    }
}

impl From<BadIdentity> for NvmeError {
    fn from(what: BadIdentity) -> Self {
        Self::BadIdentity(what)
    }
}

impl From<DmaMapError> for NvmeError {
    fn from(error: DmaMapError) -> Self {
        Self::Map(error)
    }
}

impl NvmeError {
    /// Whether the controller's state is in doubt after it: it must be stopped before what it was given is taken back.
    pub(crate) fn leaves_doubt(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Fatal { .. }
                | Self::Gone
                | Self::LostInterrupt { .. }
                | Self::BadCompletion { .. }
        )
    }
}

impl fmt::Display for NvmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadConfig { field, value } => write!(f, "configuration: {field} cannot be {value}"),
            Self::OutOfRange { lba, block_count, capacity_blocks } => {
                write!(f, "{block_count} blocks from {lba} asked for, the namespace has {capacity_blocks}")
            }
            Self::BadLength { len_bytes, block_bytes } => {
                write!(f, "{len_bytes} bytes are not a whole number of {block_bytes}-byte blocks")
            }
            Self::Misaligned { iova } => write!(f, "a buffer at {iova:#x} cannot be said in a PRP list"),
            Self::Stopped => f.write_str("the controller was stopped after an earlier error"),
            Self::Unsupported(what) => write!(f, "the controller is not supported: {what:?}"),
            Self::Timeout { waiting_for, csts } => {
                write!(f, "the controller did not answer: waited for {waiting_for:?}, CSTS is {csts:#x}")
            }
            Self::Fatal { csts } => write!(f, "the controller failed: CSTS is {csts:#x}"),
            Self::Gone => f.write_str("the controller is gone: its registers read as all ones"),
            Self::LostInterrupt { queue, vector } => {
                write!(f, "queue {queue} has a completion, but MSI-X vector {vector} never signalled")
            }
            Self::BadCompletion { queue, why, words } => {
                write!(f, "a completion on queue {queue} makes no sense ({why:?}): {words:08x?}")
            }
            Self::BadIdentity(what) => write!(f, "the controller says of itself what cannot be: {what:?}"),
            Self::Command { queue, opcode, status } => {
                write!(f, "command {opcode:#04x} on queue {queue} was refused: {status}")
            }
            Self::Map(error) => write!(f, "a buffer could not be mapped: {error:?}"),
            Self::Unmap(error) => write!(f, "a buffer could not be unmapped: {error:?}"),
        }
    }
}

impl core::error::Error for NvmeError {}
