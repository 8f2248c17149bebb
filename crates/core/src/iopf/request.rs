//! What a device asks, and what it is told.

use portcullis_types::{Iova, Pasid, Perms, SourceId};

/// By what a device knows its requests again: the response carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupTag {
    /// The index of a page request group, 9 bits. The device is not stalled, and may ask in parts.
    Prg(u16),
    /// A stalled transaction. A group of its own.
    Stall {
        /// The tag that hardware gave it, which it gives again once this one is answered or ended.
        tag: u16,
        /// Which of those with this tag it is, in the driver's own count: a late answer is not taken for another's.
        nth: u32,
    },
}

impl GroupTag {
    /// The number alone.
    pub const fn number(self) -> u16 {
        match self {
            Self::Prg(index) => index,
            Self::Stall { tag, .. } => tag,
        }
    }
}

/// One request of a device's for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// From which of the device's sources. The response goes to the same one.
    pub source: SourceId,
    /// In which address space; none for the one of accesses without PASID.
    pub pasid: Option<Pasid>,
    /// In which group.
    pub group: GroupTag,
    /// Whether it completes the group. A stalled transaction always does, whatever this says.
    pub last: bool,
    /// What the device wants to do with the page; [`Perms::PRIVILEGED`] if it says that it is privileged.
    pub wanted: Perms,
    /// Any address in the page.
    pub address: Iova,
}

impl PageRequest {
    /// Whether this request completes its group, and so is to be answered.
    pub const fn is_last(&self) -> bool {
        self.last || matches!(self.group, GroupTag::Stall { .. })
    }

    /// Whether this is no request but the mark that a device puts behind the last one for a PASID: last, and neither read nor write. It
    /// gets no response. The same without a PASID is an ordinary request.
    ///
    /// Spec: PCIe 6.0, 10.4.1.2.1 "Stop Marker Messages".
    pub const fn is_stop_marker(&self) -> bool {
        let prg = matches!(self.group, GroupTag::Prg(_));
        prg && self.last && self.pasid.is_some() && !self.wanted.intersects(Perms::READ_WRITE)
    }

    /// Whether both are of one group.
    pub(super) fn groups_with(&self, other: &Self) -> bool {
        (self.source, self.group) == (other.source, other.group)
    }

    /// The response to the group that this request completes.
    pub(super) fn response(&self, code: ResponseCode) -> PageResponse {
        PageResponse { source: self.source, pasid: self.pasid, group: self.group, code }
    }
}

/// What a device is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseCode {
    /// The pages are there: try again.
    Success,
    /// A page is not to be had: give this access up.
    Invalid,
    /// Something is badly wrong: give this access up, and ask for no more pages.
    Failure,
}

impl ResponseCode {
    /// The number in events. Hardware has its own.
    ///
    /// Observed: Linux 7.3, `enum iommu_page_response_code`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Invalid => 1,
            Self::Failure => 2,
        }
    }
}

/// The response to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageResponse {
    /// The source that sent the last request of the group.
    pub source: SourceId,
    /// The PASID of that request.
    pub pasid: Option<Pasid>,
    /// Its tag.
    pub group: GroupTag,
    /// What it is told.
    pub code: ResponseCode,
}

/// The way back to the device: an IOMMU's driver.
pub trait Responder: Send + Sync {
    /// Sends a response. Called with no lock held, possibly in interrupt context; must not sleep, and any wait for hardware has a limit. A
    /// response that hardware does not take is the driver's to send again, or to report: it is not told a second time.
    fn respond(&self, response: &PageResponse);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: GroupTag = GroupTag::Stall { tag: 3, nth: 0 };

    const REQUEST: PageRequest = PageRequest {
        source: SourceId(1),
        pasid: Pasid::new(7),
        group: GroupTag::Prg(3),
        last: true,
        wanted: Perms::empty(),
        address: Iova::new(0x1000),
    };

    #[test]
    fn a_stop_marker_is_last_with_a_pasid_and_neither_reads_nor_writes() {
        assert!(REQUEST.is_stop_marker());
        let requests = [
            PageRequest { pasid: None, ..REQUEST },
            PageRequest { last: false, ..REQUEST },
            PageRequest { wanted: Perms::READ, ..REQUEST },
            PageRequest { wanted: Perms::WRITE, ..REQUEST },
            PageRequest { group: STALL, ..REQUEST },
        ];
        assert!(requests.iter().all(|request| !request.is_stop_marker()));
    }

    #[test]
    fn a_stalled_transaction_is_always_a_whole_group() {
        assert!(PageRequest { group: STALL, last: false, ..REQUEST }.is_last());
        assert!(!PageRequest { last: false, ..REQUEST }.is_last());
    }

    #[test]
    fn groups_differ_by_source_and_by_kind_of_tag() {
        assert!(REQUEST.groups_with(&PageRequest { pasid: None, last: false, ..REQUEST }));
        assert!(!REQUEST.groups_with(&PageRequest { source: SourceId(2), ..REQUEST }));
        assert!(!REQUEST.groups_with(&PageRequest { group: STALL, ..REQUEST }));
    }
}
