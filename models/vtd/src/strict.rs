//! Strict mode: the list of everything software did that the book forbids.
//!
//! The list itself is shared by all models ([`Unpredictable`](crate::Unpredictable)): a conforming driver leaves it empty. Not everything on it does
//! harm at once: that is why it is a list.
//!
//! Not here: what hardware reports by itself, as a fault or a queue error. A wrong descriptor is both.

/// The rules, by number in VT-d 5.10 unless they say otherwise.
pub mod clause {
    /// A register accessed as neither an aligned doubleword nor, where it is 64 bits wide, an aligned quadword.
    pub const REGISTER_WIDTH: &str = "11.2 \"Software Access to Registers\": neither an aligned doubleword nor a quadword of a 64-bit register";
    /// A reserved bit of a register written as 1.
    pub const REGISTER_RESERVED: &str =
        "11.2 \"Software Access to Registers\": a value other than zero for a RsvdZ field";
    /// Several controls changed in one write.
    pub const COMMAND_SEVERAL: &str =
        "11.4.4.1 \"Global Command Register\": several control fields modified in one write";
    /// A command given while another is under way.
    pub const COMMAND_BUSY: &str =
        "6.9 \"Hardware Register Programming Considerations\": a command before the last is confirmed";
    /// Translation enabled without a root table pointer ever set.
    pub const ENABLE_WITHOUT_ROOT: &str = "6.6 \"Set Root Table Pointer Operation\": remapping enabled without a Set Root-Table Pointer operation";
    /// Caches not invalidated after the root table pointer was set.
    pub const ROOT_NOT_INVALIDATED: &str = "6.6 \"Set Root Table Pointer Operation\": no global invalidation of context-cache, PASID-cache and IOTLB, in that order, after it";
    /// The mode changed while translation is on.
    pub const MODE_CHANGED: &str =
        "6.6 \"Set Root Table Pointer Operation\": TTM modified while remapping is active";
    /// Interrupt remapping enabled without a table.
    pub const ENABLE_WITHOUT_INTERRUPT_TABLE: &str =
        "6.7 \"Set Interrupt Remapping Table Pointer Operation\": interrupt remapping enabled without it";
    /// The interrupt entry cache not invalidated after the table pointer was set.
    pub const INTERRUPT_TABLE_NOT_INVALIDATED: &str = "6.7 \"Set Interrupt Remapping Table Pointer Operation\": no global invalidation of the interrupt entry cache after it";
    /// EIME changed while interrupt remapping is on.
    pub const INTERRUPT_MODE_CHANGED: &str = "11.4.10 \"Interrupt Remapping Table Address Register\": EIME modified while interrupt remapping is active";
    /// The queue enabled with its tail not zero.
    pub const QUEUE_TAIL: &str = "6.5.2 \"Queued Invalidation Interface\": tail not zero when it is enabled";
    /// The queue enabled while an invalidation by register is under way.
    pub const QUEUE_ENABLED_EARLY: &str =
        "6.5.2 \"Queued Invalidation Interface\": enabled while an invalidation by register is under way";
    /// The queue's address changed while it is not empty.
    pub const QUEUE_MOVED: &str =
        "11.4.9.3 \"Invalidation Queue Address Register\": modified while the queue is not empty";
    /// The queue disabled while it is not quiet.
    pub const QUEUE_DISABLED: &str =
        "6.5.2 \"Queued Invalidation Interface\": disabled while it is not quiesced";
    /// A descriptor that is not valid.
    pub const DESCRIPTOR: &str = "6.5.2 \"Queued Invalidation Interface\": a descriptor that is not valid, or with reserved fields not zero";
    /// An address mask larger than CAP_REG.MAMV.
    pub const ADDRESS_MASK: &str =
        "11.4.2 \"Capability Register\", MAMV: an address mask larger than supported";
    /// An index mask larger than ECAP_REG.MHMV.
    pub const INDEX_MASK: &str =
        "11.4.3 \"Extended Capability Register\", MHMV: an index mask larger than supported";
    /// Invalidation by register while the queue is on.
    pub const REGISTER_INVALIDATION: &str = "6.5.1 \"Register-based Invalidation Interface\": used while queued invalidation is enabled, or not supported";
    /// An invalidation register written while an invalidation is under way.
    pub const REGISTER_BUSY: &str =
        "11.4.6 \"Register Based Invalidation Interface\": written while an invalidation is under way";
    /// Domain 0 used where CM is 1.
    pub const DOMAIN_ZERO: &str =
        "6.2.2.1 \"Context-Entry Programming Considerations\": domain-id 0 where CM is 1";
    /// One domain id, two second-stage tables.
    pub const DOMAIN_SHARED: &str = "6.2.2.1 \"Context-Entry Programming Considerations\": entries with one domain-id differ in SSPTPTR or AW";
    /// One domain id for second-stage and other tables.
    pub const DOMAIN_KINDS: &str = "6.2.3.1 \"Scalable-Mode PASID-Table Entry Programming Considerations\": one domain-id for first-stage or pass-through and for second-stage or nested";
    /// One PASID in one domain, two first-stage tables.
    pub const PASID_SHARED: &str = "6.2.3.1 \"Scalable-Mode PASID-Table Entry Programming Considerations\": entries of one PASID and domain-id differ in FSPTPTR, FSPM or PGTT";
    /// A present entry changed in a way that is not one whole step.
    pub const ENTRY_UPDATE: &str =
        "6.2.2.1, 6.2.3.1: table or type of a present entry changed without its domain-id in the same step";
    /// Pass-through with an AW that is not the largest.
    pub const PASS_THROUGH_WIDTH: &str =
        "9.3 \"Context Entry\", AW: not the largest AGAW where TT is pass-through";
    /// A page mapped to the interrupt range.
    pub const INTERRUPT_RANGE: &str =
        "3.15 \"Handling Requests to Interrupt Address Range\": a paging entry maps to it";
    /// A response to a group that did not ask.
    pub const RESPONSE_UNKNOWN: &str =
        "7.6.1 \"Page Group Response Descriptor\": of no page request group that waits for one";
    /// A response with a code that there is not.
    pub const RESPONSE_CODE: &str = "7.6.1 \"Page Group Response Descriptor\": a reserved Response Code";
    /// Protected memory changed while it is protected.
    pub const PROTECTED_CHANGED: &str = "11.4.8 \"Protected Memory Range Registers\": base or limit modified while protection is on or changing";
    /// An event's address is no interrupt.
    pub const EVENT_ADDRESS: &str =
        "5.1.6 \"Remapping Hardware Event Interrupt Programming\": address or data is no interrupt message";
    /// SSIRWE in legacy mode, or where there is none.
    pub const ROOT_POINTER: &str =
        "11.4.5 \"Root Table Address Register\": a mode that the part does not have";
}
