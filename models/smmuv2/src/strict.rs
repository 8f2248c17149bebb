//! The strict mode: a list of everything software did that the book forbids, or leaves open what comes of it.
//!
//! The model goes on, as hardware would, doing one of the things that the book allows in such a case; the list says that
//! no software may count on it. Each rule has its clause, number and title, in [`clause`].
//!
//! Not here: the list itself (`model_bus::Notes`).

/// The rules, each with the clause of the book that makes it.
pub mod clause {
    /// A register accessed at a width it does not have, or not aligned to it.
    pub const REGISTER_WIDTH: &str = "9.1 \"SMMU Global Register Space 0 register summary\": register accessed at a width that not every SMMU supports";
    /// A write to a register that is read only.
    pub const READ_ONLY: &str =
        "9.1 \"SMMU Global Register Space 0 register summary\": a read-only register was written";
    /// A write to where no register is.
    pub const UNIMPLEMENTED: &str = "3.9 \"Configuration access\": a register that is not implemented was written, which may be a configuration access fault";
    /// A write to a register of the other stage's format.
    pub const WRONG_FORMAT: &str = "17.1 \"Stage 1 and stage 2 context bank format differences\": a register that the format of the bank does not have was written";
    /// Reserved bits that were not written as zero.
    pub const RESERVED_BITS: &str = "Glossary, \"RES0\": reserved bits written as one";
    /// TYPE of S2CR is 0b11.
    pub const RESERVED_TYPE: &str = "9.6.23 \"SMMU_S2CRn\": TYPE 0b11 is reserved";
    /// INSTCFG or PRIVCFG has a reserved value.
    pub const RESERVED_ATTRIBUTE: &str =
        "2.4.1 \"Reserved memory type and shareability attributes\": a reserved attribute";
    /// A StreamID that met several entries.
    pub const MULTIPLE_MATCH: &str =
        "2.3.7 \"StreamID matching\": the StreamID of a transaction matches several entries";
    /// Client accesses let in before the stream mapping table was written.
    pub const UNINITIALIZED_STREAMS: &str =
        "2.3.10 \"Reset state\": the stream mapping table was not initialized before the SMMU was enabled";
    /// EXIDENABLE changed while some entry is valid in either format.
    pub const EXTENDED_IDS: &str =
        "9.6.3 \"SMMU_sCR0\": EXIDENABLE changed while EXIDVALID, or EXMASK[15], of some group is not 0";
    /// A bank used whose registers were never written.
    pub const UNINITIALIZED_BANK: &str = "2.6.2 \"The Context Bank Attribute Register\", \"Reset state\": a register of a context bank in use was not initialized";
    /// A TLB is in use that was never invalidated, or whose invalidation no synchronization has covered.
    pub const TLB_NOT_INVALIDATED: &str =
        "2.5.2 \"Reset behavior of the TLB\": a TLB used that was not invalidated since reset";
    /// Several registers of an enabled bank changed.
    pub const CONTEXT_UPDATE: &str =
        "5.1 \"Updating the state of a context bank\": more than one register changed while SCTLR.M was 1";
    /// A bank that was enabled is changed before what it left in the TLB is gone.
    pub const CONTEXT_REUSE: &str = "5.1 \"Updating the state of a context bank\": a bank changed after SCTLR.M was cleared, without invalidation and synchronization";
    /// The banks of both stages have different VMIDs.
    pub const VMID_MISMATCH: &str = "1.6.6 \"Virtual machine identifiers, VMIDs\": stage 1 and stage 2 of one translation have different VMIDs";
    /// Two banks of one VMID and ASID differ in what they translate.
    pub const SHARED_TAGS: &str =
        "2.5 \"TLB operation\": context banks with the same ASID and VMID describe different translations";
    /// VMIDs changed their width while translations are cached.
    pub const VMID_WIDTH: &str =
        "1.6.6 \"Virtual machine identifiers, VMIDs\": VMID16EN changed while translations are cached";
    /// The sign extension position changed while translations are cached.
    pub const SIGN_EXTENSION: &str =
        "16.5.39 \"SMMU_CBn_TCR2\": SEP changed and the TLB entries of the bank were not invalidated";
    /// TnSZ out of range.
    pub const REGION_SIZE: &str =
        "2.6.4 \"The algorithm for finding the translation table descriptors\": T0SZ or T1SZ out of range";
    /// A granule that is not there.
    pub const GRANULE: &str = "16.5.38 \"SMMU_CBn_TCR\": TG0 or TG1 is reserved or not implemented";
    /// SL0 is reserved, or does not fit T0SZ.
    pub const START_LEVEL: &str = "17.3.8 \"SMMU_CBn_TCR\": SL0 reserved, or not consistent with T0SZ";
    /// EAE is 0 where there is no Short-descriptor scheme.
    pub const SHORT_DESCRIPTORS: &str =
        "16.5.38 \"SMMU_CBn_TCR\": EAE 0 where SMMU_IDR0.PTFS has no Short-descriptor scheme";
    /// A PASize that is reserved.
    pub const OUTPUT_SIZE: &str = "16.5.39 \"SMMU_CBn_TCR2\": reserved PASize";
    /// A table base that is not aligned.
    pub const TABLE_ALIGNMENT: &str =
        "16.5.40 \"SMMU_CBn_TTBRm\": base address not aligned to the size of the table";
    /// An ASID of more than eight bits where there are eight.
    pub const ASID_WIDTH: &str =
        "16.5.31 \"SMMU_CBn_TLBIASID\": bits 15:8 of the ASID not 0 while TCR2.AS is 0";
    /// A TLB operation that hypervisor contexts do not have.
    pub const HYPERVISOR_OPERATION: &str =
        "16.5.31 \"SMMU_CBn_TLBIASID\": a TLB operation that is UNPREDICTABLE in a HYPC bank";
    /// A context bank's fields that do not go with HYPC.
    pub const WALK_DISABLE_HYPERVISOR: &str = "16.5.38 \"SMMU_CBn_TCR\": EPD0 set in a HYPC bank";
    /// RESUME before FSR was cleared.
    pub const RESUME_ORDER: &str =
        "16.5.28 \"SMMU_CBn_RESUME\": written before the fault bits of SMMU_CBn_FSR were cleared";
    /// A bank reconfigured while a fault is not handled.
    pub const FAULT_OUTSTANDING: &str =
        "16.5.9 \"SMMU_CBn_FSR\", Format: a bank reconfigured while a fault is outstanding";
    /// A live translation was changed without break-before-make.
    pub const BREAK_BEFORE_MAKE: &str = "Arm DDI 0487, D8.16.1 \"Using break-before-make when updating translation table entries\": a live translation changed";
    /// The entries under one contiguous hint contradict each other.
    pub const CONTIGUOUS: &str =
        "Arm DDI 0487, D8.7.1 \"The Contiguous bit\": entries of one contiguous group differ";
}
