//! What an access was refused for.

use portcullis_types::AccessKind;

/// Why an access did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The address is not canonical (#GP, no page fault).
    NotCanonical,
    /// An entry of the walk has P clear, or there is no table at all.
    NotPresent,
    /// An entry of the walk has a reserved bit set.
    Reserved,
    /// What is there does not allow the access to user code.
    Permission,
    /// Nothing answered when an entry was read or written (a machine check).
    AbortOnWalk,
    /// Nothing answered at the physical address. Choice: the platform tells; machines are too that answer ones.
    Abort,
}

/// An access that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The first byte that was not reached (CR2). Bytes of the access before it have been read or written.
    pub va: u64,
    /// What was to be done.
    pub access: AccessKind,
    /// Why it was not.
    pub kind: FaultKind,
    /// Whose entry it was: 1 for a PTE up to 5 for a PML5E. 0 where there was no walk.
    pub level: u8,
    /// EFER.NXE was set, so that fetches are told from reads.
    pub tells_fetches: bool,
}

impl Fault {
    /// The error code of the page fault; none if it is another exception.
    ///
    /// Spec: Intel SDM volume 3A, 4.7 "Page-Fault Exceptions", figure "Page-Fault Error Code": P bit 0, W/R bit 1, U/S bit 2, RSVD bit 3, I/D bit 4.
    pub fn error_code(&self) -> Option<u32> {
        let cause = match self.kind {
            FaultKind::NotPresent => 0b0000,
            FaultKind::Permission => 0b0001,
            FaultKind::Reserved => 0b1001,
            FaultKind::NotCanonical | FaultKind::AbortOnWalk | FaultKind::Abort => return None,
        };
        let access = match self.access {
            AccessKind::Read => 0,
            AccessKind::Write => 0b0_0010,
            AccessKind::Execute => u32::from(self.tells_fetches) << 4,
        };
        Some(cause | access | 0b0100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_as_the_book_has_them() {
        let code =
            |kind, access, tells_fetches| Fault { va: 0, access, kind, level: 1, tells_fetches }.error_code();
        use AccessKind::{Execute, Read, Write};
        assert_eq!(code(FaultKind::NotPresent, Read, true), Some(0x04));
        assert_eq!(code(FaultKind::NotPresent, Write, true), Some(0x06));
        assert_eq!(code(FaultKind::Permission, Write, true), Some(0x07));
        assert_eq!(code(FaultKind::Permission, Execute, true), Some(0x15));
        assert_eq!(code(FaultKind::Permission, Execute, false), Some(0x05));
        assert_eq!(code(FaultKind::Reserved, Read, true), Some(0x0d));
        assert_eq!(code(FaultKind::Reserved, Write, true), Some(0x0f));
        for kind in [FaultKind::NotCanonical, FaultKind::AbortOnWalk, FaultKind::Abort] {
            assert_eq!(code(kind, Read, true), None);
        }
    }
}
