//! The strict mode: a list of everything software did that nobody said the hardware takes.
//!
//! The model goes on, doing one of the things that hardware might do; the list says that no software may count on it.
//!
//! Not here: the list itself (`model_bus::Notes`).

/// The rules, each with where it was seen.
pub mod clause {
    /// A register accessed at another width than 64 bits, or not aligned.
    pub const REGISTER_WIDTH: &str =
        "QEMU pnv_phb3_reg_read: registers but CONFIG_DATA are accessed with 64 aligned bits";
    /// Nothing is there.
    pub const UNKNOWN_REGISTER: &str = "skiboot phb3-regs.h: no register at this offset";
    /// A store to a register that only tells.
    pub const READ_ONLY: &str = "skiboot phb3-regs.h: store to a register that is only read";
    /// A BAR of a table in memory with bits that its address does not have.
    pub const BAR_ALIGNMENT: &str =
        "skiboot phb3.h: \"All those tables have to be naturally aligned\": BAR with other bits set";
    /// IODA_ADDR selects a table that there is not.
    pub const IODA_TABLE: &str = "skiboot phb3-regs.h, IODA2_TBL_*: IODA_ADDR selects no table";
    /// A kill that says none or several of all, PE and one.
    pub const KILL_FORM: &str =
        "Linux pci-ioda.c, PHB3_TCE_KILL_INVAL_*: a kill that is not exactly one of all, PE and one";
    /// A TVE that PHB3 does not have, used.
    pub const TVE_FORM: &str =
        "skiboot phb3_map_pe_dma_window: a window with levels, size, page or address that PHB3 does not have";
    /// A table of TCEs not aligned to its size.
    pub const TABLE_ALIGNMENT: &str =
        "QEMU pnv_phb3_translate_tve: index joined to a table that is not aligned to its size";
    /// A TCE with address bits inside of its page, or above real addresses.
    pub const TCE_ADDRESS: &str =
        "QEMU pnv_phb3_translate_tve: address in a TCE not aligned to its page, or beyond 50 bits";
    /// A TCE of a window that was changed since, used before it was killed.
    pub const STALE_WINDOW: &str =
        "Linux pnv_pci_ioda2_set_window: window used after it was set, before the TCEs of its PE were killed";
    /// An error while the PELT-V was off.
    pub const PELTV_DISABLED: &str =
        "skiboot phb3.h: PELT-V must exist before errors do, or the whole PHB goes into Fatal error state";
    /// An error while the PEST was off.
    pub const PEST_DISABLED: &str =
        "skiboot phb3_read_phb_status: an error with no PEST in memory to tell of it";
    /// A message while the IVT was off.
    pub const IVT_DISABLED: &str = "QEMU phb3_msi_ive_addr: a message with the IVT BAR off";
    /// A device's access while the RTT was off.
    pub const RTT_DISABLED: &str = "QEMU pnv_phb3_resolve_pe: DMA with the RTT BAR off";
    /// A register accessed while the bridge is fenced or in reset.
    pub const FENCED: &str = "skiboot phb3_fenced: register accessed while the PHB is fenced or in reset";
    /// FFI_REQUEST without the lock.
    pub const FFI_UNLOCKED: &str = "skiboot phb3_pci_msi_check_q: FFI_REQUEST without having taken FFI_LOCK";
    /// BARs changed while they are on.
    pub const XSCOM_BAR: &str = "QEMU pnv_pbcq_nest_xscom_write: BAR changed while it is enabled";
}
