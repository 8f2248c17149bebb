//! What is issued on a device.

layout! {
    /// What a device is.
    pub struct DeviceInfo: 24 {
        /// Bytes of the caller's structure, [`MIN_BYTES`](Self::MIN_BYTES) at least.
        argsz: u32 @ 0,
        /// [`DeviceInfoFlags`].
        flags: u32 @ 4,
        /// How many regions: their indexes are below this.
        num_regions: u32 @ 8,
        /// How many kinds of interrupts: their indexes are below this.
        num_irqs: u32 @ 12,
        /// Where the chain of capabilities begins; 0 if there is none.
        cap_offset: u32 @ 16,
    }
}

impl DeviceInfo {
    /// What a caller's structure has at least.
    pub const MIN_BYTES: usize = 16;
}

flags! {
    /// Flags of [`DeviceInfo`].
    pub struct DeviceInfoFlags {
        /// It can be reset.
        RESET = 0,
        /// It is a PCI function: regions and interrupts are as in [`pci`](super::pci).
        PCI = 1,
        /// It is a platform device.
        PLATFORM = 2,
        /// A chain of capabilities follows.
        CAPS = 7,
    }
}

layout! {
    /// Where a region of a device is.
    pub struct RegionInfo: 32 {
        /// Bytes of the caller's structure; in the answer, bytes that the whole answer needs.
        argsz: u32 @ 0,
        /// [`RegionInfoFlags`].
        flags: u32 @ 4,
        /// Which region is asked for.
        index: u32 @ 8,
        /// Where the chain of capabilities begins; 0 if there is none, or no room for it.
        cap_offset: u32 @ 12,
        /// How many bytes; 0 if there is no such region.
        size: u64 @ 16,
        /// Where it begins in the device's file.
        offset: u64 @ 24,
    }
}

flags! {
    /// Flags of [`RegionInfo`].
    pub struct RegionInfoFlags {
        /// The file can be read there.
        READ = 0,
        /// The file can be written there.
        WRITE = 1,
        /// The file can be mapped there.
        MMAP = 2,
        /// A chain of capabilities follows, or would if there were room.
        CAPS = 3,
    }
}

layout! {
    /// A capability of [`RegionInfo`]: which parts of a region can be mapped. Followed by so many [`SparseArea`]s.
    pub struct SparseMmap: 8 {
        /// How many areas.
        nr_areas: u32 @ 0,
    }
}

impl SparseMmap {
    /// Its id.
    pub const ID: u16 = 1;
}

layout! {
    /// A part of a region that can be mapped.
    pub struct SparseArea: 16 {
        /// Where it begins in the region.
        offset: u64 @ 0,
        /// How many bytes.
        size: u64 @ 8,
    }
}

layout! {
    /// How many interrupts of a kind a device has.
    pub struct IrqInfo: 16 {
        /// Bytes of the caller's structure.
        argsz: u32 @ 0,
        /// [`IrqInfoFlags`].
        flags: u32 @ 4,
        /// Which kind is asked for.
        index: u32 @ 8,
        /// How many.
        count: u32 @ 12,
    }
}

flags! {
    /// Flags of [`IrqInfo`].
    pub struct IrqInfoFlags {
        /// They can signal event files.
        EVENTFD = 0,
        /// They can be masked.
        MASKABLE = 1,
        /// They mask themselves when they come.
        AUTOMASKED = 2,
        /// The number of those in use is settled when the first is.
        NORESIZE = 3,
    }
}

layout! {
    /// What becomes of a device's interrupts; followed by data for each, as its flags say.
    pub struct IrqSet: 20 {
        /// Bytes of the caller's structure, with the data.
        argsz: u32 @ 0,
        /// [`IrqSetFlags`]: one kind of data, one action.
        flags: u32 @ 4,
        /// Which kind of interrupt.
        index: u32 @ 8,
        /// The first one.
        start: u32 @ 12,
        /// How many.
        count: u32 @ 16,
    }
}

flags! {
    /// Flags of [`IrqSet`].
    pub struct IrqSetFlags {
        /// No data.
        DATA_NONE = 0,
        /// A byte for each: whether it is meant.
        DATA_BOOL = 1,
        /// 32 bits for each: an event file, or -1 for none.
        DATA_EVENTFD = 2,
        /// They are kept back.
        ACTION_MASK = 3,
        /// They are let through.
        ACTION_UNMASK = 4,
        /// They are raised; with event files, those are signalled from now on when the device raises them.
        ACTION_TRIGGER = 5,
    }
}

impl IrqSetFlags {
    /// The kinds of data.
    pub const DATA: u32 = Self::DATA_NONE | Self::DATA_BOOL | Self::DATA_EVENTFD;
    /// The actions.
    pub const ACTION: u32 = Self::ACTION_MASK | Self::ACTION_UNMASK | Self::ACTION_TRIGGER;
}
