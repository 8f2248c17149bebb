//! What is issued on a container whose IOMMU is spapr_tce. Maps and unmaps are those of type 1.

layout! {
    /// Which windows there are, and can be.
    pub struct SpaprInfo: 32 {
        /// Bytes of the caller's structure, [`MIN_BYTES`](Self::MIN_BYTES) at least.
        argsz: u32 @ 0,
        /// [`SpaprInfoFlags`].
        flags: u32 @ 4,
        /// Where the window of 32 bits begins.
        dma32_window_start: u32 @ 8,
        /// How many bytes it has.
        dma32_window_size: u32 @ 12,
        /// In which page sizes windows can be made, a bit for each.
        pgsizes: u64 @ 16,
        /// How many windows there can be.
        max_windows: u32 @ 24,
        /// How many levels a window's table can have.
        levels: u32 @ 28,
    }
}

impl SpaprInfo {
    /// What a caller's structure has at least: up to the window of 32 bits.
    pub const MIN_BYTES: usize = 16;
}

flags! {
    /// Flags of [`SpaprInfo`].
    pub struct SpaprInfoFlags {
        /// Windows can be made; how, is told.
        DDW = 0,
    }
}

layout! {
    /// Memory that may be mapped from now on, or no more.
    pub struct RegisterMemory: 24 {
        /// Bytes of the caller's structure.
        argsz: u32 @ 0,
        /// None is defined.
        flags: u32 @ 4,
        /// The process's address.
        vaddr: u64 @ 8,
        /// How many bytes.
        size: u64 @ 16,
    }
}

layout! {
    /// A window to be made.
    pub struct CreateWindow: 40 {
        /// Bytes of the caller's structure.
        argsz: u32 @ 0,
        /// None is defined.
        flags: u32 @ 4,
        /// log2 of the page size.
        page_shift: u32 @ 8,
        /// How many bytes, a power of two.
        window_size: u64 @ 16,
        /// How many levels its table has.
        levels: u32 @ 24,
        /// In the answer, where it begins.
        start_addr: u64 @ 32,
    }
}

layout! {
    /// A window to be removed.
    pub struct RemoveWindow: 16 {
        /// Bytes of the caller's structure.
        argsz: u32 @ 0,
        /// None is defined.
        flags: u32 @ 4,
        /// Where it begins.
        start_addr: u64 @ 8,
    }
}

layout! {
    /// What to do with the groups' PEs.
    pub struct EehPeOp: 40 {
        /// Bytes of the caller's structure, [`MIN_BYTES`](Self::MIN_BYTES) at least; all of it to inject an error.
        argsz: u32 @ 0,
        /// None is defined.
        flags: u32 @ 4,
        /// One of [`eeh_op`].
        op: u32 @ 8,
        /// Of an error: in the window of 32 bits, 0, or of 64, 1.
        err_type: u32 @ 16,
        /// Of an error: which access it hits.
        err_func: u32 @ 20,
        /// Of an error: at which address.
        err_addr: u64 @ 24,
        /// Of an error: which bits of the address count.
        err_mask: u64 @ 32,
    }
}

impl EehPeOp {
    /// What a caller's structure has at least.
    pub const MIN_BYTES: usize = 12;
    /// The last of the accesses that an error can hit. Observed: Linux 7.3, arch/powerpc/include/uapi/asm/eeh.h, `EEH_ERR_FUNC_MAX`.
    pub const LAST_FUNC: u32 = 19;
}

/// What can be done with a PE.
pub mod eeh_op {
    /// No error handling.
    pub const DISABLE: u32 = 0;
    /// Error handling.
    pub const ENABLE: u32 = 1;
    /// Lets accesses to the devices go on.
    pub const UNFREEZE_IO: u32 = 2;
    /// Lets accesses by the devices go on.
    pub const UNFREEZE_DMA: u32 = 3;
    /// Answers how it is.
    pub const GET_STATE: u32 = 4;
    /// Ends a reset.
    pub const RESET_DEACTIVATE: u32 = 5;
    /// Begins a reset by the link.
    pub const RESET_HOT: u32 = 6;
    /// Begins a reset by the slot.
    pub const RESET_FUNDAMENTAL: u32 = 7;
    /// Sets the bridges up after a reset.
    pub const CONFIGURE: u32 = 8;
    /// Makes an error.
    pub const INJECT_ERR: u32 = 9;
}
