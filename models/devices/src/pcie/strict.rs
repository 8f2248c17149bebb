//! The strict mode of a function: a list of what software did with its services that the book forbids, or leaves open what comes of it.
//!
//! The function goes on, doing one of the things that the book allows in such a case. Each rule has its clause, number and title, in [`clause`].
//!
//! Not here: the list itself (`model_bus::Notes`).

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Notes, Unpredictable};
use portcullis_types::trace::Sink;

/// The rules, each with the clause of the book that makes it.
pub mod clause {
    /// STU changed while ATS is on.
    pub const UNIT_CHANGED: &str =
        "PCIe 6.0, 10.5.1.3 \"ATS Control Register\": Smallest Translation Unit changed while Enable is set";
    /// An invalidation of less than STU says.
    pub const INVALIDATION_TOO_SMALL: &str =
        "PCIe 6.0, 10.5.1.3 \"ATS Control Register\": an invalidation below the Smallest Translation Unit";
    /// Page requests enabled while some of before are outstanding.
    pub const ENABLED_BEFORE_STOPPED: &str =
        "PCIe 6.0, 10.5.2.2 \"Page Request Control Register\": Enable set while Stopped was clear";
    /// The allocation changed while page requests are on.
    pub const ALLOCATION_CHANGED: &str =
        "PCIe 6.0, 10.5.2.5 \"Outstanding Page Request Allocation\": changed while page requests are enabled";
    /// A response with a PASID, where the function takes none.
    pub const RESPONSE_PASID: &str = "PCIe 6.0, 10.5.2.3 \"Page Request Status Register\": a response with a PASID where PRG Response PASID Required is clear";
    /// Where an interrupt goes, or what it says, changed while it may be sent.
    pub const LIVE_VECTOR: &str =
        "PCIe 6.0, 6.1.4.2 \"MSI-X Configuration\": address or data of an entry changed while it is unmasked";
    /// Both ways to interrupt by message enabled.
    pub const BOTH_MESSAGES: &str =
        "PCIe 6.0, 6.1.4 \"Message Signaled Interrupt (MSI/MSI-X) Support\": MSI and MSI-X enabled at once";
    /// A part of a register of MSI-X accessed.
    pub const VECTOR_IN_PARTS: &str = "PCIe 6.0, 7.7.2 \"MSI-X Capability and Table Structure\": an access that is no aligned DWORD or QWORD";
    /// PASIDs switched while ATS is on.
    pub const PASIDS_CHANGED: &str =
        "PCIe 6.0, 7.8.9.3 \"PASID Control Register\": changed while ATS is enabled";
}

/// The list of one of a function's services.
pub(crate) struct Strict(Mutex<Notes>);

impl fmt::Debug for Strict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strict").finish_non_exhaustive()
    }
}

impl Strict {
    /// An empty list.
    pub(crate) fn new(sink: Arc<dyn Sink>) -> Self {
        Self(Mutex::new(Notes::new("model.pcie", sink)))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was done.
    pub(crate) fn record(&self, clause: &'static str, detail: String) {
        self.notes().record(clause, detail);
    }

    /// Everything since the last call.
    pub(crate) fn take(&self) -> Vec<Unpredictable> {
        self.notes().take()
    }
}
