//! System calls of users as values. Everything is named by small numbers, taken modulo what there is, as in `life::op`.

use crate::life::OpKind;

/// A call on a file of VFIO's, or what stands around one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A user opens a container.
    OpenContainer { user: u8 },
    /// He opens a group.
    OpenGroup { user: u8, group: u8 },
    /// He puts a group into a container.
    SetContainer { user: u8, group: u8, container: u8 },
    /// He takes it out.
    UnsetContainer { user: u8, group: u8 },
    /// He says of which kind a container is.
    SetIommu { user: u8, container: u8, kind: u8 },
    /// He opens a device of a group.
    OpenDevice { user: u8, device: u8 },
    /// He closes a file.
    Close { user: u8, pick: u8 },
    /// He resets a device.
    DeviceReset { user: u8, device: u8 },
    /// He says where a device's interrupts go.
    SetIrqs { user: u8, device: u8, bits: u8 },
    /// He reads or writes registers of a device, or its configuration space.
    Region { user: u8, device: u8, bits: u64 },
    /// He maps memory.
    MapDma { user: u8, container: u8, place: u16, page: u8, pages: u8, flags: u8 },
    /// He unmaps some.
    UnmapDma { user: u8, container: u8, pick: u16, bits: u8 },
    /// He unmaps all.
    UnmapAll { user: u8, container: u8 },
    /// He passes bytes that mean nothing.
    BadBytes { user: u8, pick: u8, request: u8, bits: u64 },
    /// What containers left behind is tried again.
    Reclaim,
    /// He registers memory.
    RegisterMemory { user: u8, container: u8, page: u8, pages: u8 },
    /// He lets it go.
    UnregisterMemory { user: u8, container: u8, pick: u8 },
    /// He makes a window.
    CreateWindow { user: u8, container: u8, bits: u16 },
    /// He removes one.
    RemoveWindow { user: u8, container: u8, which: u8 },
    /// He enables a container of version 1, or disables it.
    TceEnable { user: u8, container: u8, on: bool },
    /// He recovers endpoints, or breaks them.
    Eeh { user: u8, container: u8, op: u8 },
}

impl Call {
    /// Who makes it.
    pub(crate) const fn user(&self) -> Option<u8> {
        match *self {
            Self::OpenContainer { user }
            | Self::OpenGroup { user, .. }
            | Self::SetContainer { user, .. }
            | Self::UnsetContainer { user, .. }
            | Self::SetIommu { user, .. }
            | Self::OpenDevice { user, .. }
            | Self::Close { user, .. }
            | Self::DeviceReset { user, .. }
            | Self::SetIrqs { user, .. }
            | Self::Region { user, .. }
            | Self::MapDma { user, .. }
            | Self::UnmapDma { user, .. }
            | Self::UnmapAll { user, .. }
            | Self::BadBytes { user, .. }
            | Self::RegisterMemory { user, .. }
            | Self::UnregisterMemory { user, .. }
            | Self::CreateWindow { user, .. }
            | Self::RemoveWindow { user, .. }
            | Self::TceEnable { user, .. }
            | Self::Eeh { user, .. } => Some(user),
            Self::Reclaim => None,
        }
    }

    pub(crate) const fn kind(&self) -> OpKind {
        match self {
            Self::OpenContainer { .. } => OpKind::OpenContainer,
            Self::OpenGroup { .. } => OpKind::OpenGroup,
            Self::SetContainer { .. } => OpKind::SetContainer,
            Self::UnsetContainer { .. } => OpKind::UnsetContainer,
            Self::SetIommu { .. } => OpKind::SetIommu,
            Self::OpenDevice { .. } => OpKind::OpenDevice,
            Self::Close { .. } => OpKind::Close,
            Self::DeviceReset { .. } => OpKind::DeviceReset,
            Self::SetIrqs { .. } => OpKind::SetIrqs,
            Self::Region { .. } => OpKind::Region,
            Self::MapDma { .. } => OpKind::MapDma,
            Self::UnmapDma { .. } => OpKind::UnmapDma,
            Self::UnmapAll { .. } => OpKind::UnmapAll,
            Self::BadBytes { .. } => OpKind::BadBytes,
            Self::Reclaim => OpKind::Reclaim,
            Self::RegisterMemory { .. } => OpKind::RegisterMemory,
            Self::UnregisterMemory { .. } => OpKind::UnregisterMemory,
            Self::CreateWindow { .. } => OpKind::CreateWindow,
            Self::RemoveWindow { .. } => OpKind::RemoveWindow,
            Self::TceEnable { .. } => OpKind::TceEnable,
            Self::Eeh { .. } => OpKind::Eeh,
        }
    }
}
