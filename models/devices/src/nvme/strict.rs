//! The strict mode of the controller: what software did with its registers that the book forbids, or leaves open what comes of it.
//!
//! The controller goes on, doing one of the things that the book allows in such a case.
//!
//! Not here: the list itself (`model_bus::Notes`); what software did with the function's interrupts (`pcie`).

/// The rules, each with the clause of the book that makes it.
pub mod clause {
    /// The controller enabled before it was done with being disabled.
    pub const ENABLED_WHILE_READY: &str =
        "NVMe 1.4, 3.1.5 \"CC – Controller Configuration\", EN: set while CSTS.RDY is 1";
    /// The controller disabled before it was done with being enabled.
    pub const DISABLED_BEFORE_READY: &str =
        "NVMe 1.4, 3.1.5 \"CC – Controller Configuration\", EN: cleared while CSTS.RDY is 0";
    /// What memory pages, commands or arbitration are like changed under the controller.
    pub const LIVE_CONFIGURATION: &str =
        "NVMe 1.4, 3.1.5 \"CC – Controller Configuration\", CSS, MPS, AMS: changed while EN is 1";
    /// Where the admin queues are, or how long, changed under the controller.
    pub const LIVE_ADMIN_QUEUE: &str =
        "NVMe 1.4, 3.1.5 \"CC – Controller Configuration\", EN: AQA, ASQ or ACQ changed while it is 1";
    /// An admin queue that does not begin with a memory page.
    pub const ADMIN_QUEUE_OFF_ITS_PAGE: &str = "NVMe 1.4, 3.1.8 \"ASQ – Admin Submission Queue Base Address\", 3.1.9 \"ACQ – Admin Completion Queue Base Address\": not aligned to a memory page";
}
