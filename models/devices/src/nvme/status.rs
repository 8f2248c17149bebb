//! Status of a command: type, code, and whether to try again.
//!
//! Spec: NVMe 1.4, 4.6.1 "Status Field Definition".

use core::fmt;

/// What became of a command, as the completion says it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Status {
    kind: u8,
    code: u8,
    retry: bool,
}

const GENERIC: u8 = 0;
const SPECIFIC: u8 = 1;
const MEDIA: u8 = 2;

impl Status {
    /// Successful Completion.
    pub(crate) const SUCCESS: Self = Self { kind: GENERIC, code: 0x00, retry: true };
    /// Invalid Command Opcode.
    pub(crate) const INVALID_OPCODE: Self = Self::never(GENERIC, 0x01);
    /// Invalid Field in Command.
    pub(crate) const INVALID_FIELD: Self = Self::never(GENERIC, 0x02);
    /// Command ID Conflict.
    pub(crate) const ID_CONFLICT: Self = Self::never(GENERIC, 0x03);
    /// Data Transfer Error. Worth another try: a mapping can be repaired.
    pub(crate) const TRANSFER_ERROR: Self = Self { kind: GENERIC, code: 0x04, retry: true };
    /// Command Abort Requested.
    pub(crate) const ABORT_REQUESTED: Self = Self { kind: GENERIC, code: 0x07, retry: true };
    /// Command Aborted due to SQ Deletion.
    pub(crate) const QUEUE_DELETED: Self = Self { kind: GENERIC, code: 0x08, retry: true };
    /// Invalid Namespace or Format.
    pub(crate) const INVALID_NAMESPACE: Self = Self::never(GENERIC, 0x0b);
    /// Command Sequence Error.
    pub(crate) const SEQUENCE_ERROR: Self = Self::never(GENERIC, 0x0c);
    /// PRP Offset Invalid.
    pub(crate) const PRP_OFFSET: Self = Self::never(GENERIC, 0x13);
    /// Namespace is Write Protected.
    pub(crate) const WRITE_PROTECTED: Self = Self::never(GENERIC, 0x20);
    /// LBA Out of Range.
    pub(crate) const LBA_OUT_OF_RANGE: Self = Self::never(GENERIC, 0x80);
    /// Completion Queue Invalid.
    pub(crate) const INVALID_CQ: Self = Self::never(SPECIFIC, 0x00);
    /// Invalid Queue Identifier.
    pub(crate) const INVALID_QUEUE_ID: Self = Self::never(SPECIFIC, 0x01);
    /// Invalid Queue Size.
    pub(crate) const INVALID_QUEUE_SIZE: Self = Self::never(SPECIFIC, 0x02);
    /// Asynchronous Event Request Limit Exceeded.
    pub(crate) const EVENT_LIMIT: Self = Self::never(SPECIFIC, 0x05);
    /// Invalid Interrupt Vector.
    pub(crate) const INVALID_VECTOR: Self = Self::never(SPECIFIC, 0x08);
    /// Invalid Log Page.
    pub(crate) const INVALID_LOG: Self = Self::never(SPECIFIC, 0x09);
    /// Invalid Queue Deletion.
    pub(crate) const INVALID_DELETION: Self = Self::never(SPECIFIC, 0x0c);
    /// Feature Identifier Not Saveable.
    pub(crate) const NOT_SAVEABLE: Self = Self::never(SPECIFIC, 0x0d);
    /// Write Fault.
    pub(crate) const WRITE_FAULT: Self = Self { kind: MEDIA, code: 0x80, retry: true };
    /// Unrecovered Read Error.
    pub(crate) const READ_ERROR: Self = Self { kind: MEDIA, code: 0x81, retry: true };
    /// Compare Failure.
    pub(crate) const COMPARE_FAILURE: Self = Self::never(MEDIA, 0x85);

    const fn never(kind: u8, code: u8) -> Self {
        Self { kind, code, retry: false }
    }

    /// Whether the command did what it was to do.
    pub(crate) const fn is_success(self) -> bool {
        self.kind == GENERIC && self.code == 0
    }

    /// The status field, fifteen bits: code in 7:0, type in 10:8, Do Not Retry in 14.
    pub(crate) const fn field(self) -> u16 {
        self.code as u16 | (self.kind as u16) << 8 | if self.retry { 0 } else { 1 << 14 }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:x}/{:02x}{})", self.kind, self.code, if self.retry { "" } else { ", final" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_holds_code_type_and_do_not_retry() {
        assert_eq!(Status::SUCCESS.field(), 0x0000);
        assert_eq!(Status::INVALID_FIELD.field(), 0x4002);
        assert_eq!(Status::TRANSFER_ERROR.field(), 0x0004);
        assert_eq!(Status::INVALID_QUEUE_SIZE.field(), 0x4102);
        assert_eq!(Status::READ_ERROR.field(), 0x0281);
        assert_eq!(Status::COMPARE_FAILURE.field(), 0x4285);
    }
}
