//! Requester ids, and what the rest of the machine makes of them.

use core::fmt;

use portcullis_types::SourceId;

/// Who made a request on PCIe: bus, device and function. Spec: PCIe 6.0, 2.2.6.2 "Transaction Descriptor – Transaction ID Field".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rid(pub u16);

impl Rid {
    /// The id of the function `devfn` (device in bits 7:3, function in 2:0) on `bus`.
    pub const fn new(bus: u8, devfn: u8) -> Self {
        Self((bus as u16) << 8 | devfn as u16)
    }
}

impl fmt::Display for Rid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.0 >> 8, self.0 >> 3 & 0x1f, self.0 & 7)
    }
}

impl fmt::Debug for Rid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rid({self})")
    }
}

/// A run of requester ids and the numbers that stand for them, as in a device tree's `iommu-map` and `msi-map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RidRange {
    /// The first requester id.
    pub first: Rid,
    /// How many.
    pub count: u32,
    /// What the first one is mapped to; the others follow.
    pub to: SourceId,
}

/// From requester ids to StreamIDs, or to DeviceIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RidMap(Vec<RidRange>);

impl RidMap {
    /// The first range that holds an id decides.
    pub fn new(ranges: Vec<RidRange>) -> Self {
        Self(ranges)
    }

    /// Every requester id plus `base`.
    pub fn offset(base: u32) -> Self {
        Self(vec![RidRange { first: Rid(0), count: 0x1_0000, to: SourceId(base) }])
    }

    /// The number of `rid`; its own where no range holds it.
    pub fn get(&self, rid: Rid) -> SourceId {
        self.ranged(rid).unwrap_or(SourceId(u32::from(rid.0)))
    }

    fn ranged(&self, rid: Rid) -> Option<SourceId> {
        self.0.iter().find_map(|range| {
            let index = u32::from(rid.0.checked_sub(range.first.0)?);
            (index < range.count).then(|| SourceId(range.to.0.wrapping_add(index)))
        })
    }

    /// The requester ids whose number is `source`: what leads back to a device.
    pub fn rids(&self, source: SourceId) -> impl Iterator<Item = Rid> {
        let rid = |number: u32| u16::try_from(number).ok().map(Rid);
        let ranged = self.0.iter().filter_map(move |range| {
            let index = source.0.wrapping_sub(range.to.0);
            (index < range.count).then(|| rid(u32::from(range.first.0).checked_add(index)?))?
        });
        // A range before may have taken the id elsewhere.
        let ranged = ranged.filter(move |&rid| self.get(rid) == source);
        ranged.chain(rid(source.0).filter(|&rid| self.ranged(rid).is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_bus_device_function() {
        assert_eq!(Rid::new(2, 3 << 3 | 1), Rid(0x0219));
        assert_eq!(Rid(0x0219).to_string(), "02:03.1");
    }

    #[test]
    fn a_number_leads_back_to_the_ids_that_have_it() {
        let range = |first, count, to| RidRange { first: Rid(first), count, to: SourceId(to) };
        let map = RidMap::new(vec![range(0x100, 0x10, 0x8000), range(0x100, 0x20, 0x9000)]);
        let back = |source| map.rids(SourceId(source)).map(|rid| rid.0).collect::<Vec<_>>();
        assert_eq!(back(0x8003), [0x103, 0x8003]);
        assert_eq!(back(0x9003), [0x9003]);
        assert_eq!(back(0x9013), [0x113, 0x9013]);
        assert_eq!((back(0x103), back(0x50)), (vec![], vec![0x50]));
        assert_eq!(RidMap::offset(0).rids(SourceId(7)).collect::<Vec<_>>(), [Rid(7)]);
        assert_eq!(RidMap::offset(0x1_0000).rids(SourceId(0x2_0000)).count(), 0);
    }

    #[test]
    fn ranges_map_the_ids_they_hold() {
        let map = RidMap::new(vec![RidRange { first: Rid(0x100), count: 0x10, to: SourceId(0x8000) }]);
        assert_eq!([0xff, 0x100, 0x10f, 0x110].map(|rid| map.get(Rid(rid)).0), [0xff, 0x8000, 0x800f, 0x110]);
        assert_eq!(RidMap::offset(0x1_0000).get(Rid(0xffff)), SourceId(0x1_ffff));
    }
}
