//! Freezing and recovering: what can be asked of a group whose hardware stops it at the first error (EEH).
//!
//! A reset has three steps, each asked for by itself: it begins ([`Reset::Hot`] or [`Reset::Fundamental`]), with everything stopped; it ends
//! ([`Reset::Deactivate`]), and devices are reached again; their configuration is written again ([`Eeh::configure`]). Devices come back as they were
//! after enumeration: they send no requests and no messages. Windows and tables stay.
//!
//! The driver of an IOMMU knows nothing of the bus below. Whoever has that gives it a [`Slot`].

use core::fmt;

use crate::iommu::SyncError;
use crate::owner::Errno;

/// What a group's devices can do at the moment.
///
/// The numbers are those that user space knows. Observed: Linux 7.3, include/uapi/linux/vfio.h, `VFIO_EEH_PE_STATE_…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeState {
    /// Everything.
    Normal = 0,
    /// They are being reset.
    Reset = 1,
    /// Neither DMA nor MMIO works.
    Stopped = 2,
    /// MMIO works, DMA does not.
    StoppedDma = 4,
    /// Nobody can tell.
    Unavailable = 5,
}

/// What is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Freeze {
    /// Accesses to the devices.
    Io,
    /// Accesses by the devices.
    Dma,
}

/// Which reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reset {
    /// Ends the one that is going on.
    Deactivate,
    /// By the link.
    Hot,
    /// By the slot's own signal.
    Fundamental,
}

/// An error to be made, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorInjection {
    /// In the window of 64 bits instead of the one of 32.
    pub wide: bool,
    /// Which access it hits, by the number that user space gives it.
    ///
    /// Observed: Linux 7.3, include/uapi/asm/eeh.h, `EEH_ERR_FUNC_…`.
    pub function: u32,
    /// At which address.
    pub address: u64,
    /// Which of its bits count.
    pub mask: u64,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EehError {
    /// Hardware or driver cannot do this. EINVAL.
    Unsupported,
    /// The address is not the group's. EINVAL.
    BadAddress(u64),
    /// Hardware did not confirm. EIO.
    Sync(SyncError),
}

impl EehError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Unsupported | Self::BadAddress(_) => Errno::Einval,
            Self::Sync(_) => Errno::Eio,
        }
    }
}

/// A way to reset the devices of one group, and no others.
pub trait Slot: Send + Sync + fmt::Debug {
    /// Resets them by their link. On return the link is up, and they can be configured.
    ///
    /// # Errors
    ///
    /// The link or a device did not come back.
    fn hot_reset(&self) -> Result<(), SyncError>;

    /// Resets them by the slot's own signal; by their link where the slot has none.
    ///
    /// # Errors
    ///
    /// As for [`hot_reset`](Self::hot_reset).
    fn fundamental_reset(&self) -> Result<(), SyncError> {
        self.hot_reset()
    }

    /// Makes their configuration, and that of bridges on the way to them, what it was after enumeration. They send nothing then. May be called at any time.
    ///
    /// # Errors
    ///
    /// A device does not answer.
    fn set_up(&self) -> Result<(), SyncError>;
}

/// What can be asked of a group that freezes.
pub trait Eeh {
    /// How it is.
    fn state(&self) -> PeState;

    /// Stops it.
    ///
    /// # Errors
    ///
    /// As [`EehError`] says.
    fn freeze(&self, what: Freeze) -> Result<(), EehError>;

    /// Lets it go on, and forgets what stopped it.
    ///
    /// # Errors
    ///
    /// As [`EehError`] says.
    fn unfreeze(&self, what: Freeze) -> Result<(), EehError>;

    /// Resets its devices: begins, or ends what was begun. Ending what was not begun does nothing. A reset that fails leaves the group stopped, and may be
    /// tried again.
    ///
    /// # Errors
    ///
    /// [`EehError::Unsupported`]: nobody can reset these devices without others.
    fn reset(&self, reset: Reset) -> Result<(), EehError>;

    /// Sets its devices and the bridges in front of them up again after a reset.
    ///
    /// # Errors
    ///
    /// As [`EehError`] says.
    fn configure(&self) -> Result<(), EehError>;

    /// Makes an error.
    ///
    /// # Errors
    ///
    /// As [`EehError`] says.
    fn inject(&self, error: ErrorInjection) -> Result<(), EehError>;
}
