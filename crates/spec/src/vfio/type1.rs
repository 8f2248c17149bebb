//! What is issued on a container whose IOMMU is type 1.

layout! {
    /// What can be mapped.
    pub struct IommuInfo: 24 {
        /// Bytes of the caller's structure, [`MIN_BYTES`](Self::MIN_BYTES) at least; in the answer, bytes that the whole answer needs.
        argsz: u32 @ 0,
        /// [`IommuInfoFlags`].
        flags: u32 @ 4,
        /// Page sizes, a bit for each.
        iova_pgsizes: u64 @ 8,
        /// Where the chain of capabilities begins; 0 if there is no room for it.
        cap_offset: u32 @ 16,
    }
}

impl IommuInfo {
    /// What a caller's structure has at least.
    pub const MIN_BYTES: usize = 16;
    /// What it has if it has room for where the chain begins.
    pub const WITH_CAP_OFFSET_BYTES: usize = 20;
}

flags! {
    /// Flags of [`IommuInfo`].
    pub struct IommuInfoFlags {
        /// Page sizes are told.
        PGSIZES = 0,
        /// A chain of capabilities follows, or would if there were room.
        CAPS = 1,
    }
}

layout! {
    /// A capability of [`IommuInfo`]: the addresses that can be mapped. Followed by so many [`IovaArea`]s.
    pub struct IovaRanges: 8 {
        /// How many ranges.
        nr_iovas: u32 @ 0,
    }
}

impl IovaRanges {
    /// Its id.
    pub const ID: u16 = 1;
}

layout! {
    /// A range of addresses that can be mapped.
    pub struct IovaArea: 16 {
        /// The first address.
        start: u64 @ 0,
        /// The last address.
        end: u64 @ 8,
    }
}

layout! {
    /// A capability of [`IommuInfo`]: what [`DirtyPages`] can do.
    pub struct Migration: 24 {
        /// None is defined.
        flags: u32 @ 0,
        /// Page sizes for which there are bitmaps, a bit for each.
        pgsize_bitmap: u64 @ 8,
        /// The largest bitmap, in bytes.
        max_dirty_bitmap_size: u64 @ 16,
    }
}

impl Migration {
    /// Its id.
    pub const ID: u16 = 2;
}

layout! {
    /// A capability of [`IommuInfo`]: how many more mappings there can be.
    pub struct AvailableDma: 4 {
        /// So many.
        avail: u32 @ 0,
    }
}

impl AvailableDma {
    /// Its id.
    pub const ID: u16 = 3;
}

layout! {
    /// Maps user memory.
    pub struct MapDma: 32 {
        /// Bytes of the caller's structure.
        argsz: u32 @ 0,
        /// [`MapDmaFlags`].
        flags: u32 @ 4,
        /// Where the memory is, for the process.
        vaddr: u64 @ 8,
        /// Where it is to be, for devices.
        iova: u64 @ 16,
        /// How many bytes.
        size: u64 @ 24,
    }
}

flags! {
    /// Flags of [`MapDma`].
    pub struct MapDmaFlags {
        /// Devices may read it.
        READ = 0,
        /// Devices may write it.
        WRITE = 1,
    }
}

layout! {
    /// Takes mappings away; followed by a [`Bitmap`] if flags say so.
    pub struct UnmapDma: 24 {
        /// Bytes of the caller's structure.
        argsz: u32 @ 0,
        /// [`UnmapDmaFlags`].
        flags: u32 @ 4,
        /// From where.
        iova: u64 @ 8,
        /// How many bytes; in the answer, how many were taken away.
        size: u64 @ 16,
    }
}

flags! {
    /// Flags of [`UnmapDma`].
    pub struct UnmapDmaFlags {
        /// Which pages devices have written is asked for, too.
        GET_DIRTY_BITMAP = 0,
        /// All mappings, wherever they are.
        ALL = 1,
    }
}

layout! {
    /// Where a bitmap is: a bit for each page, in words of 64 bits.
    pub struct Bitmap: 24 {
        /// How large a page is, in bytes.
        pgsize: u64 @ 0,
        /// How large the bitmap is, in bytes.
        size: u64 @ 8,
        /// Where it is, for the process.
        data: u64 @ 16,
    }
}

impl Bitmap {
    /// How many pages a bitmap has at most.
    pub const MAX_PAGES: u64 = i32::MAX as u64;

    /// How many bytes a bitmap for so many pages has: whole words.
    pub const fn bytes_for(pages: u64) -> u64 {
        pages.div_ceil(64) * 8
    }

    /// How many bytes a bitmap has at most.
    pub const MAX_BYTES: u64 = Self::bytes_for(Self::MAX_PAGES);
}

layout! {
    /// Which pages devices have written; followed by a [`DirtyRange`] if flags say so.
    pub struct DirtyPages: 8 {
        /// Bytes of the caller's structure, with what follows.
        argsz: u32 @ 0,
        /// [`DirtyPagesFlags`]: one of them.
        flags: u32 @ 4,
    }
}

flags! {
    /// Flags of [`DirtyPages`].
    pub struct DirtyPagesFlags {
        /// From now on it is watched which pages are written.
        START = 0,
        /// It is watched no more.
        STOP = 1,
        /// Which they are is asked for.
        GET_BITMAP = 2,
    }
}

layout! {
    /// For which addresses it is asked, and where the answer goes.
    pub struct DirtyRange: 40 {
        /// From where.
        iova: u64 @ 0,
        /// How many bytes.
        size: u64 @ 8,
        /// [`Bitmap::pgsize`].
        pgsize: u64 @ 16,
        /// [`Bitmap::size`].
        bitmap_size: u64 @ 24,
        /// [`Bitmap::data`].
        data: u64 @ 32,
    }
}

impl DirtyRange {
    /// Where the answer goes.
    pub const fn bitmap(&self) -> Bitmap {
        Bitmap { pgsize: self.pgsize, size: self.bitmap_size, data: self.data }
    }
}
