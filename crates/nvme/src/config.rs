//! What the binder of the driver decides: sizes, limits, interrupts.

use alloc::sync::Arc;
use core::fmt;

/// An MSI-X vector as the platform's interrupt code sees it.
pub trait Interrupt: Send + Sync {
    /// Whether the vector has signalled since this was last asked; asking clears it.
    fn take(&self) -> bool;
}

/// A vector of the device's MSI-X table, and how its signals arrive.
#[derive(Clone)]
pub struct Vector {
    /// Its index in the device's table.
    pub index: u16,
    /// Where its signals arrive.
    pub interrupt: Arc<dyn Interrupt>,
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vector({})", self.index)
    }
}

/// How the controller's interrupts arrive. Both may be the same vector.
#[derive(Clone, Debug)]
pub struct Interrupts {
    /// Vector 0: the admin completion queue can use no other.
    ///
    /// Spec: NVMe Base 2.0, 3.1.3.10 "ACQ – Admin Completion Queue Base Address".
    pub admin: Arc<dyn Interrupt>,
    /// The vector of the I/O completion queue.
    pub io: Vector,
}

impl fmt::Debug for dyn Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupt")
    }
}

/// Sizes and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many I/O commands may be in flight, 1 to 1023. The controller may allow fewer.
    pub queue_depth: u16,
    /// The most bytes of one command; the controller may allow fewer. A transfer that is longer becomes several commands.
    pub max_transfer_bytes: u32,
    /// Which namespace, from 1.
    pub namespace: u32,
    /// How large the region of registers is, in bytes: a doorbell beyond it is refused, not rung.
    pub register_bytes: usize,
    /// How long a command may take, in nanoseconds. Enabling and disabling have the controller's own limit (`CAP.TO`).
    pub command_limit_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_depth: 32,
            max_transfer_bytes: 1 << 20,
            namespace: 1,
            register_bytes: 0x4000,
            command_limit_ns: 5_000_000_000,
        }
    }
}
