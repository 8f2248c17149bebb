//! What a PHB3 is made of.

use portcullis_types::Pa;

use crate::policy::Policy;

/// Which PHB3, where, and how it uses its freedom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the version register says.
    pub version: u64,
    /// Where messages that were let through go: [`DOORBELL_BYTES`](Self::DOORBELL_BYTES) of physical addresses where the model's own doorbell answers. The
    /// real bridge takes messages inside; here they pass the bus, because only then are their data known.
    pub doorbell: Pa,
    /// How the hardware uses its freedom.
    pub policy: Policy,
    /// Whether every access is told to the trace.
    pub verbose: bool,
}

impl Config {
    /// How many addresses the doorbell takes.
    pub const DOORBELL_BYTES: u64 = 0x1_0000;
    /// Venice DD2.0. Observed: QEMU 7.2, hw/pci-host/pnv_phb3.c, pnv_phb3_reg_read.
    pub const VENICE_DD20: u64 = 0x0000_00a3_0000_0005;

    /// A Venice DD2.0 with the default policy.
    pub fn new(doorbell: Pa) -> Self {
        Self { version: Self::VENICE_DD20, doorbell, policy: Policy::default(), verbose: false }
    }
}
