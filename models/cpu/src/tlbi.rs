//! TLB maintenance: what software says, and who hears it.
//!
//! An operation reaches every CPU of the machine and every [`BroadcastListener`]: all of them are inner shareable. It may take effect at any
//! moment after it was given; it has taken effect, everywhere, when the barrier (`DSB`) of the CPU that gave it returns.
//!
//! Spec: Arm ARM, D8.17 "TLB maintenance".

/// What is to be forgotten. Addresses are any address of the page meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tlbi {
    /// Everything of stage 1 (VMALLE1IS).
    All,
    /// Everything of an ASID but its global entries (ASIDE1IS).
    Asid {
        /// Whose.
        asid: u16,
    },
    /// What translates an address, for one ASID, and the global entries that do (VAE1IS, VALE1IS).
    Va {
        /// Whose.
        asid: u16,
        /// Which address.
        va: u64,
        /// Only the last level of the walk (the L in VALE1IS): what is held of the tables above it may stay.
        last_level_only: bool,
    },
    /// What translates an address, whatever the ASID (VAAE1IS, VAALE1IS).
    VaOfAllAsids {
        /// Which address.
        va: u64,
        /// Only the last level of the walk.
        last_level_only: bool,
    },
    /// What translates any address of a range, for one ASID, and the global entries that do (RVAE1IS, RVALE1IS).
    Range {
        /// Whose.
        asid: u16,
        /// The lowest address.
        first: u64,
        /// The highest address.
        last: u64,
        /// Only the last level of the walk.
        last_level_only: bool,
    },
}

/// Which translation regime an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// An operating system at EL1, and its user code (EL1&0).
    El1,
    /// An operating system at EL2, and its user code (EL2&0, HCR_EL2.E2H set).
    El2Host,
}

/// A TLB operation as it goes over the interconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Which regime's entries are meant.
    pub regime: Regime,
    /// What is to be forgotten.
    pub operation: Tlbi,
}

/// Somebody with a TLB who hears the CPUs' broadcasts: an SMMU that takes part in them.
///
/// Called with no lock of the CPUs held.
pub trait BroadcastListener: Send + Sync {
    /// Takes an operation in. It may take effect at once or later, up to the next [`sync`](Self::sync).
    fn invalidate(&self, message: &Message);

    /// On return, every operation taken in has taken effect, and no access is under way that uses what was to be forgotten.
    fn sync(&self);
}
