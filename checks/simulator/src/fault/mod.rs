//! The faults that a life has to survive, each with a name and with what is owed while it lasts.
//!
//! A fault is *armed* by an operation, and *met* when it fires: where it fires counts it, and nobody else. `docs/faults.md` says the same in prose; a
//! test compares the two.
//!
//! | file | what |
//! |---|---|
//! | `armed` | which are armed, which fire |
//! | `tap` | what is done to commands on their way to an IOMMU |

use crate::options::MachineKind;

mod armed;
mod tap;

pub(crate) use armed::Faults;
pub(crate) use tap::{CommandTap, DescriptorTap, SyncTap, Tap, Written};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FaultKind {
    /// An allocation gets nothing.
    AllocationFails,
    /// A command is refused by hardware.
    CommandError,
    /// Hardware stops consuming commands for a while.
    LateSync,
    /// Hardware stops consuming commands for as long as an operation waits.
    NoSync,
    /// A message of the SMMU's own is lost.
    MessageLost,
    /// The event queue is full.
    EventOverflow,
    /// The queue of page requests is full.
    PageOverflow,
    /// An ATC answers an invalidation late.
    AtcSlow,
    /// An ATC answers an invalidation twice.
    AtcTwice,
    /// An ATC never answers an invalidation.
    AtcNever,
    /// A page request with a PASID that means nothing.
    WrongPasid,
    /// A page request of a group that is waiting for its answer.
    WrongGroup,
    /// Page requests of a group that never ends.
    NoLast,
    /// More page requests than the device has credits for.
    NoCredits,
    /// A page request after the stop marker.
    AfterStop,
    /// Page requests by the thousand.
    Flood,
    /// A translated request to an address that was never given.
    ForgedTranslated,
    /// An interrupt by an entry that is not the device's own, or by none.
    ForgedInterrupt,
    /// DMA after the mapping, or the bond, is gone.
    DmaAfterUnbind,
    /// DMA of a device that was reset.
    DmaAfterReset,
    /// DMA to memory that was freed.
    DmaToFreed,
    /// A bit of a table flips.
    BitFlip,
    /// A user dies in the middle.
    UserDies,
    /// A firmware table says what cannot be.
    LyingFirmware,
}

impl FaultKind {
    /// How many there are.
    pub const COUNT: usize = 24;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::AllocationFails,
        Self::CommandError,
        Self::LateSync,
        Self::NoSync,
        Self::MessageLost,
        Self::EventOverflow,
        Self::PageOverflow,
        Self::AtcSlow,
        Self::AtcTwice,
        Self::AtcNever,
        Self::WrongPasid,
        Self::WrongGroup,
        Self::NoLast,
        Self::NoCredits,
        Self::AfterStop,
        Self::Flood,
        Self::ForgedTranslated,
        Self::ForgedInterrupt,
        Self::DmaAfterUnbind,
        Self::DmaAfterReset,
        Self::DmaToFreed,
        Self::BitFlip,
        Self::UserDies,
        Self::LyingFirmware,
    ];

    /// Whether a device does it, and nobody else notices: no operation may fail for it.
    pub(crate) fn is_of_devices(self) -> bool {
        matches!(
            self,
            Self::ForgedTranslated
                | Self::ForgedInterrupt
                | Self::DmaAfterUnbind
                | Self::DmaAfterReset
                | Self::DmaToFreed
        )
    }

    /// Whether it can happen on a machine of a kind.
    pub(crate) fn is_on(self, kind: MachineKind) -> bool {
        let of_sharing = matches!(
            self,
            Self::PageOverflow
                | Self::AtcSlow
                | Self::AtcTwice
                | Self::AtcNever
                | Self::WrongPasid
                | Self::WrongGroup
                | Self::NoLast
                | Self::NoCredits
                | Self::AfterStop
                | Self::Flood
        );
        let of_kernels = matches!(self, Self::ForgedTranslated | Self::DmaToFreed | Self::LyingFirmware);
        let of_queues = matches!(self, Self::CommandError | Self::LateSync | Self::MessageLost);
        if self == Self::ForgedInterrupt {
            return kind.is_pc();
        }
        match kind {
            MachineKind::Sva | MachineKind::X86Sva => true,
            MachineKind::Any | MachineKind::Smmuv3 => !of_sharing,
            MachineKind::X86 => !of_sharing,
            MachineKind::Smmuv2 => {
                let of_commands = matches!(self, Self::CommandError | Self::MessageLost);
                !of_sharing && !of_commands
            }
            MachineKind::Vfio => !of_sharing && !of_kernels && self != Self::BitFlip,
            MachineKind::Power8 => {
                let of_kernels = of_kernels && self != Self::LyingFirmware;
                !of_sharing && !of_kernels && !of_queues && self != Self::EventOverflow
            }
        }
    }

    /// Its name, as in `docs/faults.md`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllocationFails => "allocation-fails",
            Self::CommandError => "command-error",
            Self::LateSync => "late-sync",
            Self::NoSync => "no-sync",
            Self::MessageLost => "message-lost",
            Self::EventOverflow => "event-overflow",
            Self::PageOverflow => "page-overflow",
            Self::AtcSlow => "atc-slow",
            Self::AtcTwice => "atc-twice",
            Self::AtcNever => "atc-never",
            Self::WrongPasid => "wrong-pasid",
            Self::WrongGroup => "wrong-group",
            Self::NoLast => "no-last",
            Self::NoCredits => "no-credits",
            Self::AfterStop => "after-stop",
            Self::Flood => "flood",
            Self::ForgedTranslated => "forged-translated",
            Self::ForgedInterrupt => "forged-interrupt",
            Self::DmaAfterUnbind => "dma-after-unbind",
            Self::DmaAfterReset => "dma-after-reset",
            Self::DmaToFreed => "dma-to-freed",
            Self::BitFlip => "bit-flip",
            Self::UserDies => "user-dies",
            Self::LyingFirmware => "lying-firmware",
        }
    }
}
