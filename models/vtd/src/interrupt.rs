//! What arrives at the processors, and who takes it there.
//!
//! Spec: VT-d 5.10, 5.1.2.1 "Interrupt Requests in Compatibility Format", 5.1.6 "Remapping Hardware Event Interrupt Programming".

use portcullis_types::SourceId;

/// An interrupt on its way to processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Whose; none if the unit's own, or nobody's that has a name.
    pub source: Option<SourceId>,
    /// APIC id, of 8 or 32 bits.
    pub destination: u32,
    /// DM: the destination is logical.
    pub logical: bool,
    /// RH: one of the destinations is enough.
    pub redirected: bool,
    /// DLM: 0 fixed, 1 lowest priority, 4 NMI.
    pub delivery: u8,
    /// TM: level-triggered.
    pub level: bool,
    /// The vector.
    pub vector: u8,
    /// It went through an entry of the interrupt remapping table: which.
    pub index: Option<u16>,
}

impl Interrupt {
    /// What a message in compatibility format says: the lower 32 bits of its address, its data, and for the unit's own the upper 32 bits of
    /// the address.
    pub fn from_message(source: Option<SourceId>, address: u32, upper: u32, data: u32) -> Self {
        Self {
            source,
            destination: address >> 12 & 0xff | upper & 0xffff_ff00,
            logical: address >> 2 & 1 == 1,
            redirected: address >> 3 & 1 == 1,
            delivery: (data >> 8 & 7) as u8,
            level: data >> 15 & 1 == 1,
            vector: (data & 0xff) as u8,
            index: None,
        }
    }
}

/// Who takes interrupts to the processors. Called with no lock of the unit's held.
pub trait Interrupts: Send + Sync {
    /// Takes one.
    fn deliver(&self, interrupt: &Interrupt);
}
