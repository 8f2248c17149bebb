//! What an access was refused for.

use portcullis_types::AccessKind;

/// Why an access did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An address of the walk, or its result, has more bits than there may be.
    AddressSize,
    /// No valid descriptor, or the address is outside what is translated.
    Translation,
    /// The access flag is clear, and the CPU does not set it.
    AccessFlag,
    /// What is there does not allow the access.
    Permission,
    /// Nothing answered when a descriptor was read or written.
    AbortOnWalk,
    /// Nothing answered at the physical address.
    Abort,
    /// An instruction fetch from an address that is no multiple of 4.
    PcAlignment,
}

/// An access that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The first byte that was not reached (FAR). Bytes of the access before it have been read or written.
    pub va: u64,
    /// What was to be done.
    pub access: AccessKind,
    /// Why it was not.
    pub kind: FaultKind,
    /// The level of the walk, -1 to 3. 0 where there was none.
    pub level: i8,
}

impl Fault {
    /// The fault status code (DFSC or IFSC) of the syndrome; none for a PC alignment fault, which has an exception class of its own.
    ///
    /// Spec: Arm ARM, D24.2 "ESR_EL1, Exception Syndrome Register (EL1)", "ISS encoding for an exception from a Data Abort", DFSC.
    pub fn status_code(&self) -> Option<u8> {
        if self.level < 0 {
            return match self.kind {
                FaultKind::AddressSize => Some(0b10_1001),
                FaultKind::Translation => Some(0b10_1011),
                FaultKind::AbortOnWalk => Some(0b01_0011),
                FaultKind::Abort => Some(0b01_0000),
                FaultKind::AccessFlag | FaultKind::Permission | FaultKind::PcAlignment => None,
            };
        }
        let class = match self.kind {
            FaultKind::AddressSize => 0b00_0000,
            FaultKind::Translation => 0b00_0100,
            FaultKind::AccessFlag => 0b00_1000,
            FaultKind::Permission => 0b00_1100,
            FaultKind::AbortOnWalk => 0b01_0100,
            FaultKind::Abort => return Some(0b01_0000),
            FaultKind::PcAlignment => return None,
        };
        Some(class | self.level.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_as_the_book_has_them() {
        let code = |kind, level| Fault { va: 0, access: AccessKind::Read, kind, level }.status_code();
        assert_eq!(code(FaultKind::AddressSize, 0), Some(0x00));
        assert_eq!(code(FaultKind::Translation, 0), Some(0x04));
        assert_eq!(code(FaultKind::Translation, 3), Some(0x07));
        assert_eq!(code(FaultKind::AccessFlag, 2), Some(0x0a));
        assert_eq!(code(FaultKind::Permission, 3), Some(0x0f));
        assert_eq!(code(FaultKind::AbortOnWalk, 1), Some(0x15));
        assert_eq!(code(FaultKind::Abort, 3), Some(0x10));
        assert_eq!(code(FaultKind::AddressSize, -1), Some(0x29));
        assert_eq!(code(FaultKind::Translation, -1), Some(0x2b));
        assert_eq!(code(FaultKind::AbortOnWalk, -1), Some(0x13));
        assert_eq!(code(FaultKind::PcAlignment, 0), None);
    }
}
