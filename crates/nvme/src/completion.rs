//! Completion queue entries: what the controller answers.
//!
//! Spec: NVMe Base 2.0, 3.3.3.2 "Common Completion Queue Entry".

use core::fmt;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 16;

/// Where in an entry the word with the phase is.
pub(crate) const PHASE_OFFSET: u64 = 12;

/// The phase in the last word of an entry.
pub(crate) const fn phase(word: u32) -> bool {
    word >> 16 & 1 == 1
}

/// What an entry says; nothing of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The command's own answer.
    pub(crate) result: u32,
    /// How far the controller has fetched the submission queue.
    pub(crate) sq_head: u16,
    /// Which submission queue.
    pub(crate) sq_id: u16,
    /// Which command.
    pub(crate) command_id: u16,
    /// How it went.
    pub(crate) status: Status,
}

impl Completion {
    /// Reads an entry's words.
    pub(crate) const fn decode(words: [u32; 4]) -> Self {
        Self {
            result: words[0],
            sq_head: (words[2] & 0xffff) as u16,
            sq_id: (words[2] >> 16) as u16,
            command_id: (words[3] & 0xffff) as u16,
            status: Status((words[3] >> 17) as u16),
        }
    }
}

/// How a command went: the status field of its completion.
///
/// Spec: NVMe Base 2.0, 3.3.3.2.1 "Status Field Definition".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

impl Status {
    /// Whether the command was done.
    pub const fn is_success(self) -> bool {
        self.code_type() == 0 && self.code() == 0
    }

    /// The status code type: 0 generic, 1 command specific, 2 media and data integrity, 3 path, 7 vendor.
    pub const fn code_type(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// The status code, whose meaning depends on the type.
    pub const fn code(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Whether trying again cannot help.
    pub const fn do_not_retry(self) -> bool {
        self.0 >> 14 & 1 == 1
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self})")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {:#x} code {:#04x}", self.code_type(), self.code())?;
        if self.do_not_retry() { f.write_str(", do not retry") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_taken_apart_as_the_book_says() {
        // Result 7; queue 3, head 0x15; status type 2, code 0x81, do not retry; phase 1; command 0xbeef.
        let completion = Completion::decode([7, 0, 0x0003_0015, 0x8503_beef]);
        assert_eq!((completion.result, completion.sq_head, completion.sq_id), (7, 0x15, 3));
        assert_eq!(completion.command_id, 0xbeef);
        let status = completion.status;
        assert_eq!((status.code_type(), status.code(), status.do_not_retry()), (2, 0x81, true));
        assert!(!status.is_success() && phase(0x8503_beef) && !phase(0x8502_beef));
    }

    #[test]
    fn success_is_all_zero() {
        assert!(Completion::decode([0, 0, 0, 0x0001_0000]).status.is_success());
        assert!(!Completion::decode([0, 0, 0, 0x0100_0000 << 1 | 0x0001_0000]).status.is_success());
    }
}
