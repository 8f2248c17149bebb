//! Capabilities that follow an answer, each saying where the next one is.
//!
//! Each begins on a multiple of 8 bytes from the beginning of the structure; offsets are from there, and 0 ends the chain.

use alloc::vec::Vec;

use portcullis_spec::vfio::Capability;

use crate::Errno;
use crate::user::{UserMemory, beyond};

const ALIGN: usize = 8;

/// A chain behind a structure of a fixed size.
pub(crate) struct Chain {
    /// Bytes of the structure, a multiple of 8.
    fixed: usize,
    bytes: Vec<u8>,
    /// Where the last capability begins in `bytes`.
    last: Option<usize>,
}

impl Chain {
    pub(crate) fn behind(fixed_bytes: usize) -> Self {
        debug_assert!(
            fixed_bytes.is_multiple_of(ALIGN),
            "the first capability begins where the structure ends"
        );
        Self { fixed: fixed_bytes, bytes: Vec::new(), last: None }
    }

    /// Adds a capability of version 1.
    pub(crate) fn add(&mut self, id: u16, body: &[u8]) {
        let at = self.bytes.len();
        if let Some(last) = self.last.replace(at) {
            let next = offset(self.fixed + at);
            self.bytes[last + 4..last + 8].copy_from_slice(&next.to_ne_bytes());
        }
        self.bytes.extend(Capability { id, version: 1, next: 0 }.to_bytes());
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes the chain behind the structure at `at`, if the caller has room for it. Answers the new `argsz` and where the chain begins.
    pub(crate) fn put(&self, memory: &dyn UserMemory, at: u64, argsz: u32) -> Result<(u32, u32), Errno> {
        if self.is_empty() {
            return Ok((argsz, 0));
        }
        let needed = offset(self.fixed + self.bytes.len());
        if argsz < needed {
            return Ok((needed, 0));
        }
        memory.copy_out(beyond(at, self.fixed)?, &self.bytes)?;
        Ok((argsz, offset(self.fixed)))
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes)
        .expect("a chain has as many entries as there are reserved regions, at most some thousands")
}
