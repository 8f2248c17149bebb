//! What a mapping allows, and what kind of memory it says it is.

use bitflags::bitflags;

bitflags! {
    /// What a mapping allows a device to do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Perms: u8 {
        /// The device may read.
        const READ = 1 << 0;
        /// The device may write.
        const WRITE = 1 << 1;
        /// The device may fetch instructions.
        const EXECUTE = 1 << 2;
        /// Only privileged accesses are allowed what the other bits say.
        const PRIVILEGED = 1 << 3;
    }
}

impl Perms {
    /// Read and write, for anybody.
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITE);
}

/// How a mapping's memory is to be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Cacheability {
    /// Normal memory, cached, coherent with the CPU's caches.
    #[default]
    Cached,
    /// Normal memory, not cached: for a device that does not snoop.
    Uncached,
    /// Device memory: no gathering, no reordering, early acknowledgement. Doorbells are this.
    Device,
}

/// Permissions and memory kind of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Prot {
    /// What the device may do.
    pub perms: Perms,
    /// How memory is accessed.
    pub cacheability: Cacheability,
}

impl Prot {
    /// Cached memory with these permissions.
    pub const fn cached(perms: Perms) -> Self {
        Self { perms, cacheability: Cacheability::Cached }
    }

    /// Uncached memory with these permissions.
    pub const fn uncached(perms: Perms) -> Self {
        Self { perms, cacheability: Cacheability::Uncached }
    }

    /// Device memory with these permissions.
    pub const fn device(perms: Perms) -> Self {
        Self { perms, cacheability: Cacheability::Device }
    }
}
