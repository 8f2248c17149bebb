//! What a device asks of memory.

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches instructions.
    Execute,
}

/// What an access does, and on whose behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Read, write or instruction fetch.
    pub kind: AccessKind,
    /// Whether the device marks the access as privileged.
    pub privileged: bool,
}

impl Access {
    /// An unprivileged read.
    pub const READ: Self = Self { kind: AccessKind::Read, privileged: false };
    /// An unprivileged write.
    pub const WRITE: Self = Self { kind: AccessKind::Write, privileged: false };
}
