//! The strict mode: a list of everything software did that the book forbids.
//!
//! The model goes on, as hardware would, doing one of the things that the book allows in such a case; the list says that
//! no software may count on it. Each rule has its clause, number and title, in [`clause`].
//!
//! Not here: the list itself (`model_bus::Notes`).

/// The rules, each with the clause of the book that makes it.
pub mod clause {
    /// A register accessed at a width it does not have, or not aligned to it.
    pub const REGISTER_WIDTH: &str =
        "6.2 \"Register overview\": register accessed at a width or alignment it does not have";
    /// Event queue indexes accessed in page 0; they are in page 1.
    pub const PAGE_ONE: &str = "6.2.2 \"SMMU registers, Page 1\": a page 1 register accessed in page 0";
    /// A register written while what it configures is enabled.
    pub const WRITE_WHILE_ENABLED: &str =
        "6.3 \"Register formats\": register written while what it configures is enabled";
    /// A field of CR0 or IRQ_CTRL written while an Update of it is under way.
    pub const UPDATE_IN_PROGRESS: &str =
        "6.3.9.7 \"Update procedure\": a field written while its Update is in progress";
    /// GBPA written without Update, or while Update is set.
    pub const GBPA_UPDATE: &str =
        "6.3.14 \"SMMU_GBPA\": written without Update, or while an Update is in progress";
    /// A bit of GERRORN toggled whose error is not active.
    pub const GERRORN_INACTIVE: &str = "6.3.20 \"SMMU_GERRORN\": an error acknowledged that is not active";
    /// The base of a queue is not aligned to its size.
    pub const QUEUE_ALIGNMENT: &str =
        "6.3.26 \"SMMU_CMDQ_BASE\": queue base not aligned to the size of the queue";
    /// A queue larger than IDR1 allows.
    pub const QUEUE_SIZE: &str = "6.3.26 \"SMMU_CMDQ_BASE\": LOG2SIZE above what SMMU_IDR1 reports";
    /// Queue indexes that contradict each other.
    pub const QUEUE_INDEXES: &str = "3.5.1 \"SMMU circular queues\": PROD and CONS in an inconsistent state";
    /// The stream table is not aligned to its size.
    pub const STREAM_TABLE_ALIGNMENT: &str =
        "6.3.24 \"SMMU_STRTAB_BASE\": stream table not aligned to its size";
    /// FMT or SPLIT has a reserved value.
    pub const STREAM_TABLE_FORMAT: &str = "6.3.25 \"SMMU_STRTAB_BASE_CFG\": reserved FMT or SPLIT";
    /// LOG2SIZE is more than SIDSIZE.
    pub const STREAM_TABLE_SIZE: &str = "6.3.25 \"SMMU_STRTAB_BASE_CFG\": LOG2SIZE above SMMU_IDR1.SIDSIZE";
    /// SMMUEN set before the caches were invalidated for the first time, or a stream led to EL2 before those of EL2 were.
    pub const ENABLED_BEFORE_INVALIDATION: &str =
        "3.11 \"Reset, Enable and initialization\": enabled before all caches were invalidated";
    /// A command that the SMMU refused.
    pub const ILLEGAL_COMMAND: &str = "4.1.3 \"Command errors\": CERROR_ILL";
    /// A command's StreamID, SubstreamID, ASID or VMID is out of range.
    pub const COMMAND_RANGE: &str =
        "4.1.7 \"Out-of-range parameters\": a parameter of a command is out of range";
    /// The address of a range invalidation is not aligned as its level hint demands.
    pub const RANGE_ALIGNMENT: &str =
        "4.4.1.1 \"Range-based invalidation and level hint\": address not aligned for TG and TTL";
    /// An STE of more than one live word was changed without passing through an invalid one.
    pub const STE_UPDATE: &str =
        "3.21.3 \"Configuration structures\": STE changed in more than one word between invalidations";
    /// The same for a CD.
    pub const CD_UPDATE: &str =
        "3.21.3 \"Configuration structures\": CD changed in more than one word between invalidations";
    /// A CD, or a table of them, is not aligned.
    pub const CD_ALIGNMENT: &str =
        "5.2 \"Stream Table Entry\": S1ContextPtr not aligned to the size of the CD table";
    /// A root table is not aligned to its size.
    pub const ROOT_ALIGNMENT: &str =
        "5.4 \"Context Descriptor\": translation table base not aligned to the size of the table";
    /// EATS went from Full to Split-stage or back without being off between.
    pub const EATS_CHANGE: &str =
        "3.9.2 \"Changing ATS configuration\": EATS changed between 0bx1 and 0b10 without 0b00 between";
    /// ATSCHK was cleared while an STE that is cached has Split-stage ATS.
    pub const ATSCHK_CLEARED: &str =
        "3.9.2 \"Changing ATS configuration\": ATSCHK cleared while STEs with EATS 0b10 exist";
    /// An ATC invalidation smaller than the smallest granule.
    pub const ATC_SIZE: &str =
        "4.5.1 \"CMD_ATC_INV\": Size below the Smallest Translation Unit of the system";
    /// SSV set where there are no substreams.
    pub const ATS_SUBSTREAM: &str = "4.5 \"ATS and PRI\": SSV set where SMMU_IDR1.SSIDSIZE is 0";
    /// A live translation was changed without break-before-make.
    pub const BREAK_BEFORE_MAKE: &str = "3.21.1.1 \"Translation tables update procedure\": a live translation changed without break-before-make";
    /// CMD_RESUME for an access that no event told of, or that was answered.
    pub const RESUME_UNKNOWN: &str =
        "4.7.1 \"CMD_RESUME\": StreamID and STAG of no stall event that waits for an answer";
    /// CMD_STALL_TERM for a stream whose new accesses might still be held back.
    pub const STALL_TERM: &str =
        "4.7.2 \"CMD_STALL_TERM\": STE not updated, invalidated and synchronized to terminate with abort";
    /// HD or S2HD without HA or S2HA.
    pub const DIRTY_WITHOUT_ACCESS: &str =
        "5.4 \"CD, Context Descriptor\": HD without HA, or S2HD without S2HA, is Reserved";
    /// CR2.E2H changed while translations of EL2 were cached.
    pub const E2H_CHANGE: &str =
        "6.3.12 \"SMMU_CR2\": E2H changed without invalidation of all that is cached of EL2";
    /// The entries under one contiguous hint contradict each other.
    pub const CONTIGUOUS: &str =
        "Arm DDI 0487, D8.7.1 \"The Contiguous bit\": entries of one contiguous group differ";
    /// Two CDs of one address space differ.
    pub const SHARED_ASID: &str =
        "5.4.1 \"CD notes\": CDs with one ASID and VMID differ in what a TLB may cache";
    /// Two STEs with one VMID differ in stage 2.
    pub const SHARED_VMID: &str =
        "5.2.1 \"General properties of the STE\": STEs with one S2VMID differ in stage 2";
}
