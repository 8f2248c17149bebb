//! Operations as values: what a plan consists of, so that some of them can be left out and the rest done again.
//!
//! Everything is named by small numbers (a device, a slot, a domain), taken modulo what there is. An operation whose objects are not there does
//! nothing and counts as skipped.

use super::irq::Forge;
use super::vfio::Call;
use crate::fault::FaultKind;
use crate::options::MachineKind;

/// Which addresses a device tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Some address that is mapped, from this one on.
    Live(u16),
    /// An address that was unmapped, this many unmaps ago.
    Stale(u8),
    /// Right behind, or before, something that is mapped.
    Edge(u16),
    /// Any.
    Wild(u64),
    /// The address of a page of memory.
    Physical(u16),
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A driver gives a buffer to its device.
    Map { device: u8, slot: u8, pages: u8, offset: u16, direction: u8 },
    /// A driver gives a list of buffers to its device.
    Scatter { device: u8, slot: u8, count: u8, shape: u32, direction: u8 },
    /// A driver takes back what it gave.
    Unmap { slot: u8 },
    /// A driver shares a buffer with its device for long.
    Coherent { device: u8, slot: u8, bytes: u16 },
    /// It shares it no more.
    FreeCoherent { slot: u8 },
    /// A domain of the DMA API is flushed.
    Flush { device: u8 },
    /// Time passes, and a domain of the DMA API is polled.
    Poll { device: u8, micros: u16 },
    /// A driver asks where its device must write an interrupt.
    Message { device: u8 },
    /// A driver is bound to a device.
    BindDriver { device: u8 },
    /// It is unbound.
    UnbindDriver { device: u8 },
    /// A user claims a device, or its whole group.
    Claim { device: u8, user: u8, whole: bool },
    /// A user gives it back.
    Release { device: u8, user: u8, whole: bool },
    /// A domain for somebody who maps by himself.
    NewDomain { domain: u8, device: u8 },
    /// It is dropped.
    DropDomain { domain: u8 },
    /// Its user maps pages.
    UserMap { domain: u8, page: u16, pages: u8, perms: u8, runs: u8 },
    /// Its user unmaps pages.
    UserUnmap { domain: u8, page: u16, pages: u8, sync: bool },
    /// Its user has hardware forget.
    UserSync { domain: u8 },
    /// A group is attached to a domain, for a user or for nobody.
    Attach { device: u8, domain: u8, user: u8 },
    /// A group is taken back.
    Detach { device: u8, user: u8 },
    /// A group gets another default domain.
    SetType { device: u8, lazy: bool },
    /// A device is taken away.
    Remove { device: u8 },
    /// It comes back.
    Add { device: u8 },
    /// A device moves bytes.
    Dma { device: u8, source: u8, pick: Pick, write: bool, offset: u16, len: u8 },
    /// Time passes.
    Step { turns: u8 },
    /// Interrupts of an SMMU are served.
    Serve { unit: u8 },
    /// A device is reset while it works.
    Reset { device: u8 },
    /// Another SMMU is brought up, and turned off again.
    Probe { shape: u8 },
    /// A process begins.
    Spawn { process: u8 },
    /// A process maps memory.
    ProcessMap { process: u8, area: u8, pages: u8 },
    /// A process unmaps some.
    ProcessUnmap { process: u8, area: u8, page: u8, pages: u8 },
    /// A process changes permissions.
    Protect { process: u8, area: u8, page: u8, pages: u8, perms: u8 },
    /// A process reads or writes.
    Touch { process: u8, area: u8, page: u8, write: bool },
    /// A process forks.
    Fork { process: u8, child: u8 },
    /// A process exits.
    Exit { process: u8 },
    /// A process is bound to a device.
    Bind { device: u8, process: u8, bond: u8 },
    /// A bond is given back.
    Unbind { bond: u8 },
    /// A device starts to share.
    Enable { device: u8 },
    /// A device shares no more.
    Disable { device: u8 },
    /// A device works in a process's memory, faulting where it must.
    SharedDma { bond: u8, area: u8, page: u8, write: bool, offset: u16 },
    /// A device sends page requests that nobody should.
    PageRequest { device: u8, bits: u64, count: u8 },
    /// A device sends accesses by addresses that it says were translated.
    Translated { device: u8, pick: Pick, write: bool },
    /// A driver takes interrupts for its device.
    TakeIrqs { device: u8, place: u8, count_lg2: u8, bits: u16 },
    /// One becomes another.
    MoveIrq { place: u8, index: u8, bits: u16 },
    /// One becomes nothing.
    ClearIrq { place: u8, index: u8 },
    /// They are given back.
    FreeIrqs { place: u8 },
    /// A device raises one, or what is none of its own.
    RaiseIrq { device: u8, source: u8, place: u8, index: u8, forge: Forge },
    /// A user dies with everything that he has.
    Die { user: u8 },
    /// A user makes a call on a file of VFIO's.
    Call(Call),
    /// A fault is armed: it fires at its `n`-th chance.
    Arm { fault: FaultKind, n: u16 },
}

/// An operation's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OpKind {
    /// Map a buffer.
    Map,
    /// Scatter list.
    Scatter,
    /// Unmap a buffer or list.
    Unmap,
    /// Coherent buffer.
    Coherent,
    /// Free it.
    FreeCoherent,
    /// Flush a DMA domain.
    Flush,
    /// Poll a lazy domain.
    Poll,
    /// Compose a message.
    Message,
    /// Bind a driver.
    BindDriver,
    /// Unbind it.
    UnbindDriver,
    /// Claim.
    Claim,
    /// Release.
    Release,
    /// New unmanaged domain.
    NewDomain,
    /// Drop it.
    DropDomain,
    /// Map in it.
    UserMap,
    /// Unmap in it.
    UserUnmap,
    /// Sync it.
    UserSync,
    /// Attach a group.
    Attach,
    /// Detach it.
    Detach,
    /// Another default domain.
    SetType,
    /// Remove a device.
    Remove,
    /// Add it.
    Add,
    /// DMA.
    Dma,
    /// Time passes.
    Step,
    /// Serve interrupts.
    Serve,
    /// Reset a device.
    Reset,
    /// Probe an SMMU and tear it down.
    Probe,
    /// A process begins.
    Spawn,
    /// It maps.
    ProcessMap,
    /// It unmaps.
    ProcessUnmap,
    /// It protects.
    Protect,
    /// It touches.
    Touch,
    /// It forks.
    Fork,
    /// It exits.
    Exit,
    /// It is bound.
    Bind,
    /// It is unbound.
    Unbind,
    /// A device starts to share.
    Enable,
    /// It stops.
    Disable,
    /// It works in a process's memory.
    SharedDma,
    /// Forged page requests.
    PageRequest,
    /// Forged translated accesses.
    Translated,
    /// Take interrupts.
    TakeIrqs,
    /// Make one another.
    MoveIrq,
    /// Make one nothing.
    ClearIrq,
    /// Give them back.
    FreeIrqs,
    /// Raise one.
    RaiseIrq,
    /// A user dies.
    Die,
    /// Open a container.
    OpenContainer,
    /// Open a group.
    OpenGroup,
    /// Put a group into a container.
    SetContainer,
    /// Take it out.
    UnsetContainer,
    /// Say of which kind a container is.
    SetIommu,
    /// Open a device.
    OpenDevice,
    /// Close a file.
    Close,
    /// Reset a device by its file.
    DeviceReset,
    /// Say where interrupts go.
    SetIrqs,
    /// Read or write a device's registers.
    Region,
    /// Map a user's memory.
    MapDma,
    /// Unmap some.
    UnmapDma,
    /// Unmap all.
    UnmapAll,
    /// Bytes that mean nothing.
    BadBytes,
    /// Try again what containers left behind.
    Reclaim,
    /// Register memory.
    RegisterMemory,
    /// Let it go.
    UnregisterMemory,
    /// Make a window.
    CreateWindow,
    /// Remove it.
    RemoveWindow,
    /// Enable or disable a container of version 1.
    TceEnable,
    /// Freeze, thaw and reset endpoints.
    Eeh,
    /// The end of a life.
    Teardown,
}

/// What an operation can touch, and so which faults it can meet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// It may take memory for tables or buffers.
    pub(crate) memory: bool,
    /// It may queue commands.
    pub(crate) commands: bool,
    /// It may invalidate an ATC.
    pub(crate) atc: bool,
    /// An access may be refused in it.
    pub(crate) refusals: bool,
}

impl OpKind {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in their order.
    pub const ALL: [Self; 69] = [
        Self::Map,
        Self::Scatter,
        Self::Unmap,
        Self::Coherent,
        Self::FreeCoherent,
        Self::Flush,
        Self::Poll,
        Self::Message,
        Self::BindDriver,
        Self::UnbindDriver,
        Self::Claim,
        Self::Release,
        Self::NewDomain,
        Self::DropDomain,
        Self::UserMap,
        Self::UserUnmap,
        Self::UserSync,
        Self::Attach,
        Self::Detach,
        Self::SetType,
        Self::Remove,
        Self::Add,
        Self::Dma,
        Self::Step,
        Self::Serve,
        Self::Reset,
        Self::Probe,
        Self::Spawn,
        Self::ProcessMap,
        Self::ProcessUnmap,
        Self::Protect,
        Self::Touch,
        Self::Fork,
        Self::Exit,
        Self::Bind,
        Self::Unbind,
        Self::Enable,
        Self::Disable,
        Self::SharedDma,
        Self::PageRequest,
        Self::Translated,
        Self::TakeIrqs,
        Self::MoveIrq,
        Self::ClearIrq,
        Self::FreeIrqs,
        Self::RaiseIrq,
        Self::Die,
        Self::OpenContainer,
        Self::OpenGroup,
        Self::SetContainer,
        Self::UnsetContainer,
        Self::SetIommu,
        Self::OpenDevice,
        Self::Close,
        Self::DeviceReset,
        Self::SetIrqs,
        Self::Region,
        Self::MapDma,
        Self::UnmapDma,
        Self::UnmapAll,
        Self::BadBytes,
        Self::Reclaim,
        Self::RegisterMemory,
        Self::UnregisterMemory,
        Self::CreateWindow,
        Self::RemoveWindow,
        Self::TceEnable,
        Self::Eeh,
        Self::Teardown,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Scatter => "scatter",
            Self::Unmap => "unmap",
            Self::Coherent => "coherent",
            Self::FreeCoherent => "free-coherent",
            Self::Flush => "flush",
            Self::Poll => "poll",
            Self::Message => "message",
            Self::BindDriver => "bind-driver",
            Self::UnbindDriver => "unbind-driver",
            Self::Claim => "claim",
            Self::Release => "release",
            Self::NewDomain => "new-domain",
            Self::DropDomain => "drop-domain",
            Self::UserMap => "user-map",
            Self::UserUnmap => "user-unmap",
            Self::UserSync => "user-sync",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::SetType => "set-type",
            Self::Remove => "remove",
            Self::Add => "add",
            Self::Dma => "dma",
            Self::Step => "step",
            Self::Serve => "serve",
            Self::Reset => "reset",
            Self::Probe => "probe",
            Self::Spawn => "spawn",
            Self::ProcessMap => "mmap",
            Self::ProcessUnmap => "munmap",
            Self::Protect => "mprotect",
            Self::Touch => "touch",
            Self::Fork => "fork",
            Self::Exit => "exit",
            Self::Bind => "bind",
            Self::Unbind => "unbind",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::SharedDma => "shared-dma",
            Self::PageRequest => "page-request",
            Self::Translated => "translated",
            Self::TakeIrqs => "take-irqs",
            Self::MoveIrq => "move-irq",
            Self::ClearIrq => "clear-irq",
            Self::FreeIrqs => "free-irqs",
            Self::RaiseIrq => "raise-irq",
            Self::Die => "die",
            Self::OpenContainer => "open-container",
            Self::OpenGroup => "open-group",
            Self::SetContainer => "set-container",
            Self::UnsetContainer => "unset-container",
            Self::SetIommu => "set-iommu",
            Self::OpenDevice => "open-device",
            Self::Close => "close",
            Self::DeviceReset => "device-reset",
            Self::SetIrqs => "set-irqs",
            Self::Region => "region",
            Self::MapDma => "map-dma",
            Self::UnmapDma => "unmap-dma",
            Self::UnmapAll => "unmap-all",
            Self::BadBytes => "bad-bytes",
            Self::Reclaim => "reclaim",
            Self::RegisterMemory => "register-memory",
            Self::UnregisterMemory => "unregister-memory",
            Self::CreateWindow => "create-window",
            Self::RemoveWindow => "remove-window",
            Self::TceEnable => "tce-enable",
            Self::Eeh => "eeh",
            Self::Teardown => "teardown",
        }
    }

    /// Whether machines of a kind do it.
    pub(crate) fn is_on(self, kind: MachineKind) -> bool {
        let of_sharing = matches!(
            self,
            Self::Spawn
                | Self::ProcessMap
                | Self::ProcessUnmap
                | Self::Protect
                | Self::Touch
                | Self::Fork
                | Self::Exit
                | Self::Bind
                | Self::Unbind
                | Self::Enable
                | Self::Disable
                | Self::SharedDma
                | Self::PageRequest
        );
        let of_remapping =
            matches!(self, Self::TakeIrqs | Self::MoveIrq | Self::ClearIrq | Self::FreeIrqs | Self::RaiseIrq);
        match kind {
            MachineKind::Vfio => self.is_on_users() && !self.is_of_windows(),
            MachineKind::Power8 => {
                let comes = matches!(self, Self::Add | Self::Remove | Self::Probe);
                comes || self.is_on_users() && self != Self::UnmapAll
            }
            MachineKind::Sva => !self.is_of_users() && !of_remapping,
            MachineKind::X86Sva => !self.is_of_users() && self != Self::Message,
            MachineKind::X86 => !of_sharing && !self.is_of_users() && self != Self::Message,
            MachineKind::Any | MachineKind::Smmuv3 | MachineKind::Smmuv2 => {
                !of_sharing && !self.is_of_users() && !of_remapping
            }
        }
    }

    /// Whether it is a call of a user's.
    pub(crate) const fn is_of_users(self) -> bool {
        self as usize >= Self::OpenContainer as usize && !matches!(self, Self::Teardown)
    }

    /// Whether users make it only where they make their windows themselves.
    pub(crate) const fn is_of_windows(self) -> bool {
        matches!(
            self,
            Self::RegisterMemory
                | Self::UnregisterMemory
                | Self::CreateWindow
                | Self::RemoveWindow
                | Self::TceEnable
                | Self::Eeh
        )
    }

    /// Whether machines with users do it.
    const fn is_on_users(self) -> bool {
        let of_kernel =
            matches!(self, Self::Map | Self::Unmap | Self::BindDriver | Self::UnbindDriver | Self::Teardown);
        let of_all = matches!(self, Self::Dma | Self::Step | Self::Die | Self::Reset);
        of_kernel || of_all || self.is_of_users()
    }

    /// Whether others get turns in the middle of it: it stores, waits or writes registers.
    pub(crate) const fn has_turns(self) -> bool {
        let needs = self.needs();
        needs.commands
            // A function takes its time to be reset.
            || matches!(self, Self::OpenDevice | Self::DeviceReset | Self::Region)
            || needs.memory && !matches!(self, Self::Spawn | Self::ProcessMap | Self::RegisterMemory)
    }

    /// Whether somebody may die while it waits. Whoever moves a group, or changes a process, has its lock then, and a death waits for that.
    pub(crate) const fn lets_die(self) -> bool {
        matches!(
            self,
            Self::Map
                | Self::Scatter
                | Self::Unmap
                | Self::Coherent
                | Self::FreeCoherent
                | Self::Flush
                | Self::Poll
                | Self::UserMap
                | Self::UserUnmap
                | Self::UserSync
                | Self::OpenDevice
                | Self::DeviceReset
                | Self::Region
        )
    }

    /// What it can touch.
    pub(crate) const fn needs(self) -> Needs {
        let none = Needs { memory: false, commands: false, atc: false, refusals: false };
        let commands = Needs { commands: true, ..none };
        let both = Needs { memory: true, ..commands };
        match self {
            // What a map undoes, and an ATC may have, too.
            Self::Map | Self::Scatter | Self::Coherent | Self::Message | Self::UserMap | Self::UserUnmap => {
                Needs { atc: true, ..both }
            }
            Self::Unmap
            | Self::FreeCoherent
            | Self::Flush
            | Self::Poll
            | Self::UnbindDriver
            | Self::UserSync => Needs { atc: true, ..commands },
            Self::Claim | Self::Release | Self::Attach | Self::Detach | Self::Die | Self::BindDriver => both,
            Self::NewDomain | Self::Spawn | Self::ProcessMap => Needs { memory: true, ..none },
            Self::DropDomain | Self::Remove => commands,
            Self::Reset => Needs { refusals: true, ..none },
            Self::SetType | Self::Add | Self::Probe | Self::Enable => both,
            Self::Dma | Self::Translated | Self::RaiseIrq => Needs { refusals: true, ..none },
            Self::TakeIrqs | Self::MoveIrq | Self::ClearIrq | Self::FreeIrqs => commands,
            Self::Touch | Self::Fork | Self::Bind | Self::Disable | Self::Teardown => {
                Needs { atc: true, ..both }
            }
            Self::ProcessUnmap | Self::Protect | Self::Exit | Self::Unbind | Self::Serve => {
                Needs { atc: true, ..commands }
            }
            Self::SharedDma => Needs { atc: true, refusals: true, ..both },
            Self::PageRequest => commands,
            Self::MapDma | Self::SetContainer | Self::SetIommu | Self::Close | Self::Reclaim => both,
            Self::UnmapDma | Self::UnmapAll | Self::UnsetContainer => both,
            Self::RegisterMemory => Needs { memory: true, ..none },
            Self::UnregisterMemory | Self::CreateWindow | Self::RemoveWindow | Self::TceEnable => both,
            Self::Eeh => commands,
            Self::OpenContainer | Self::OpenGroup | Self::OpenDevice | Self::DeviceReset => none,
            // The first of a domain's messages maps its doorbell.
            Self::SetIrqs => both,
            Self::Region | Self::BadBytes => none,
            Self::Step => none,
        }
    }
}

impl Op {
    /// Its kind; none for the arming of a fault, which nobody sees.
    pub(crate) const fn kind(&self) -> Option<OpKind> {
        Some(match self {
            Self::Map { .. } => OpKind::Map,
            Self::Scatter { .. } => OpKind::Scatter,
            Self::Unmap { .. } => OpKind::Unmap,
            Self::Coherent { .. } => OpKind::Coherent,
            Self::FreeCoherent { .. } => OpKind::FreeCoherent,
            Self::Flush { .. } => OpKind::Flush,
            Self::Poll { .. } => OpKind::Poll,
            Self::Message { .. } => OpKind::Message,
            Self::BindDriver { .. } => OpKind::BindDriver,
            Self::UnbindDriver { .. } => OpKind::UnbindDriver,
            Self::Claim { .. } => OpKind::Claim,
            Self::Release { .. } => OpKind::Release,
            Self::NewDomain { .. } => OpKind::NewDomain,
            Self::DropDomain { .. } => OpKind::DropDomain,
            Self::UserMap { .. } => OpKind::UserMap,
            Self::UserUnmap { .. } => OpKind::UserUnmap,
            Self::UserSync { .. } => OpKind::UserSync,
            Self::Attach { .. } => OpKind::Attach,
            Self::Detach { .. } => OpKind::Detach,
            Self::SetType { .. } => OpKind::SetType,
            Self::Remove { .. } => OpKind::Remove,
            Self::Add { .. } => OpKind::Add,
            Self::Dma { .. } => OpKind::Dma,
            Self::Step { .. } => OpKind::Step,
            Self::Serve { .. } => OpKind::Serve,
            Self::Reset { .. } => OpKind::Reset,
            Self::Probe { .. } => OpKind::Probe,
            Self::Spawn { .. } => OpKind::Spawn,
            Self::ProcessMap { .. } => OpKind::ProcessMap,
            Self::ProcessUnmap { .. } => OpKind::ProcessUnmap,
            Self::Protect { .. } => OpKind::Protect,
            Self::Touch { .. } => OpKind::Touch,
            Self::Fork { .. } => OpKind::Fork,
            Self::Exit { .. } => OpKind::Exit,
            Self::Bind { .. } => OpKind::Bind,
            Self::Unbind { .. } => OpKind::Unbind,
            Self::Enable { .. } => OpKind::Enable,
            Self::Disable { .. } => OpKind::Disable,
            Self::SharedDma { .. } => OpKind::SharedDma,
            Self::PageRequest { .. } => OpKind::PageRequest,
            Self::Translated { .. } => OpKind::Translated,
            Self::TakeIrqs { .. } => OpKind::TakeIrqs,
            Self::MoveIrq { .. } => OpKind::MoveIrq,
            Self::ClearIrq { .. } => OpKind::ClearIrq,
            Self::FreeIrqs { .. } => OpKind::FreeIrqs,
            Self::RaiseIrq { .. } => OpKind::RaiseIrq,
            Self::Die { .. } => OpKind::Die,
            Self::Call(call) => call.kind(),
            Self::Arm { .. } => return None,
        })
    }
}
