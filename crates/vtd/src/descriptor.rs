//! Descriptors of the invalidation queue, as the driver says them.
//!
//! Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface".
//! Not here: getting them to the hardware (`queue`).

use portcullis_spec::vtd::capability::{Capability, ExtendedCapability};
use portcullis_spec::vtd::invalidation::*;
use portcullis_spec::vtd::page_request::{PageGroupResponseWord0, PageGroupResponseWord1};

use crate::span::Span;

/// One descriptor. Where descriptors have 128 bits, words 2 and 3 are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub [u64; 4]);

/// How many invalidations a device is given at once.
///
/// Choice: one. A device's own limit (Invalidate Queue Depth) is not known here, and 1 suits all.
const IN_PARALLEL: u8 = 1;

impl Descriptor {
    /// The type: `TYPE_CONTEXT` and its kin.
    pub const fn kind(&self) -> u8 {
        DescriptorWord0::from_bits(self.0[0]).descriptor_type()
    }

    /// Whether it is answered by a device, which may not answer.
    pub(crate) fn asks_a_device(&self) -> bool {
        matches!(self.kind(), TYPE_DEVICE_TLB | TYPE_PASID_DEVICE_TLB)
    }

    /// The same without what is reserved where the unit cannot do it.
    ///
    /// Spec: VT-d 5.10, 6.5.2.3 "IOTLB Invalidate", DW, DR; 6.5.2.5 "Device-TLB Invalidate Descriptor", PFSID; 11.4.2 "Capability Register", DWD, DRD.
    pub(crate) fn fitted(self, capability: Capability, extended: ExtendedCapability) -> Self {
        let word0 = self.0[0];
        let fitted = match self.kind() {
            TYPE_IOTLB => {
                let word = IotlbInvalidate::from_bits(word0);
                let (dw, dr) = (word.dw() && capability.dwd(), word.dr() && capability.drd());
                word.with_dw(dw).with_dr(dr).into_bits()
            }
            TYPE_DEVICE_TLB if !extended.dit() => {
                DeviceTlbInvalidate::from_bits(word0).with_pfsid(0).into_bits()
            }
            TYPE_PASID_DEVICE_TLB if !extended.dit() => {
                PasidDeviceTlbInvalidate::from_bits(word0).with_pfsid(0).into_bits()
            }
            _ => word0,
        };
        Self([fitted, self.0[1], self.0[2], self.0[3]])
    }

    const fn two(word0: u64, word1: u64) -> Self {
        Self([word0, word1, 0, 0])
    }

    /// All of the context cache.
    pub(crate) const fn context_all() -> Self {
        Self::two(ContextInvalidate::new().with_g(CONTEXT_GLOBAL).into_bits(), 0)
    }

    /// What the context cache holds of one source, whose entry had this domain-id.
    pub(crate) const fn context(did: u16, sid: u16) -> Self {
        let word = ContextInvalidate::new().with_g(CONTEXT_DEVICE).with_did(did).with_sid(sid);
        Self::two(word.into_bits(), 0)
    }

    /// All of the PASID cache.
    pub(crate) const fn pasid_cache_all() -> Self {
        Self::two(PasidCacheInvalidate::new().with_g(PASID_CACHE_GLOBAL).into_bits(), 0)
    }

    /// What the PASID cache holds of one PASID, whose entry had this domain-id.
    pub(crate) const fn pasid_cache(did: u16, pasid: u32) -> Self {
        let word = PasidCacheInvalidate::new().with_g(PASID_CACHE_PASID).with_did(did).with_pasid(pasid);
        Self::two(word.into_bits(), 0)
    }

    /// All of the IOTLB; accesses that are under way are finished first.
    pub(crate) const fn iotlb_all() -> Self {
        let word = IotlbInvalidate::new().with_g(IOTLB_GLOBAL).with_dw(true).with_dr(true);
        Self::two(word.into_bits(), 0)
    }

    /// What the IOTLB holds of a domain.
    pub(crate) const fn iotlb_domain(did: u16) -> Self {
        let word = IotlbInvalidate::new().with_g(IOTLB_DOMAIN).with_did(did).with_dw(true).with_dr(true);
        Self::two(word.into_bits(), 0)
    }

    /// What the IOTLB holds of pages of a domain; without what it holds of tables above if `leaves_only`.
    pub(crate) const fn iotlb_pages(did: u16, span: Span, leaves_only: bool) -> Self {
        let word = IotlbInvalidate::new().with_g(IOTLB_PAGES).with_did(did).with_dw(true).with_dr(true);
        Self::two(word.into_bits(), pages(span, leaves_only))
    }

    /// What the IOTLB holds of a PASID.
    pub(crate) const fn iotlb_pasid(did: u16, pasid: u32) -> Self {
        let word = PasidIotlbInvalidate::new().with_g(PASID_IOTLB_PASID).with_did(did).with_pasid(pasid);
        Self::two(word.into_bits(), 0)
    }

    /// What the IOTLB holds of pages of a PASID.
    pub(crate) const fn iotlb_pasid_pages(did: u16, pasid: u32, span: Span, leaves_only: bool) -> Self {
        let word = PasidIotlbInvalidate::new().with_g(PASID_IOTLB_PAGES).with_did(did).with_pasid(pasid);
        Self::two(word.into_bits(), pages(span, leaves_only))
    }

    /// What a device holds of its accesses without PASID; everything if there is no span.
    pub(crate) fn device_tlb(sid: u16, span: Option<Span>) -> Self {
        let (s, address) = Span::ats(span);
        let word0 = DeviceTlbInvalidate::new().with_sid(sid).with_pfsid(sid).with_mip(IN_PARALLEL);
        Self::two(word0.into_bits(), DeviceTlbPages::new().with_s(s).with_address(address).into_bits())
    }

    /// What a device holds of a PASID; everything if there is no span.
    pub(crate) fn pasid_device_tlb(sid: u16, pasid: u32, span: Option<Span>) -> Self {
        let (s, address) = Span::ats(span);
        let word0 = PasidDeviceTlbInvalidate::new()
            .with_sid(sid)
            .with_pfsid(sid)
            .with_mip(IN_PARALLEL)
            .with_pasid(pasid);
        Self::two(word0.into_bits(), PasidDeviceTlbPages::new().with_s(s).with_address(address).into_bits())
    }

    /// All of the interrupt entry cache.
    pub(crate) const fn interrupts_all() -> Self {
        Self::two(InterruptInvalidate::new().into_bits(), 0)
    }

    /// `1 << count_lg2` entries of the interrupt entry cache.
    pub(crate) const fn interrupts(first: u16, count_lg2: u8) -> Self {
        Self::two(InterruptInvalidate::new().with_g(true).with_iidx(first).with_im(count_lg2).into_bits(), 0)
    }

    /// A wait that writes `value` to `address`; behind all page requests received so far if `drain`.
    pub(crate) const fn wait(address: u64, value: u32, drain: bool) -> Self {
        let word0 = WaitWord0::new().with_sw(true).with_pd(drain).with_fence(drain).with_status_data(value);
        Self::two(word0.into_bits(), WaitWord1::new().with_status_address(address).into_bits())
    }

    /// What does nothing: a wait that tells nobody.
    pub(crate) const fn nothing() -> Self {
        Self::two(WaitWord0::new().into_bits(), 0)
    }

    /// The answer to a group of page requests.
    pub(crate) fn response(sid: u16, pasid: Option<u32>, group: u16, code: u8) -> Self {
        let word0 = PageGroupResponseWord0::new()
            .with_pp(pasid.is_some())
            .with_rc(code)
            .with_rid(sid)
            .with_pasid(pasid.unwrap_or(0));
        Self::two(word0.into_bits(), PageGroupResponseWord1::new().with_prgi(group).into_bits())
    }
}

const fn pages(span: Span, leaves_only: bool) -> u64 {
    IotlbPages::new().with_am(span.mask).with_ih(leaves_only).with_address(span.first).into_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_words_of_the_book() {
        let span = Span { first: 0x12_3450_0000, mask: 4 };
        let words = |descriptor: Descriptor| [descriptor.0[0], descriptor.0[1]];
        assert_eq!(words(Descriptor::context_all()), [0x11, 0]);
        assert_eq!(words(Descriptor::context(7, 0x1234)), [0x1234_0007_0031, 0]);
        assert_eq!(words(Descriptor::iotlb_all()), [0xd2, 0]);
        assert_eq!(words(Descriptor::iotlb_domain(7)), [0x7_00e2, 0]);
        assert_eq!(words(Descriptor::iotlb_pages(7, span, true)), [0x7_00f2, 0x12_3450_0044]);
        assert_eq!(words(Descriptor::pasid_cache_all()), [0x37, 0]);
        assert_eq!(words(Descriptor::pasid_cache(7, 5)), [0x5_0007_0017, 0]);
        assert_eq!(words(Descriptor::iotlb_pasid(7, 5)), [0x5_0007_0026, 0]);
        assert_eq!(
            words(Descriptor::device_tlb(0x1234, None)),
            [0x1230_1234_0001_4003, 0x7fff_ffff_ffff_f001]
        );
        assert_eq!(words(Descriptor::interrupts_all()), [4, 0]);
        assert_eq!(words(Descriptor::interrupts(0x20, 2)), [0x0020_1000_0014, 0]);
        assert_eq!(words(Descriptor::wait(0x1000, 9, false)), [0x9_0000_0025, 0x1000]);
        assert_eq!(words(Descriptor::wait(0x1000, 9, true)), [0x9_0000_00e5, 0x1000]);
        assert_eq!(words(Descriptor::response(0x1234, Some(5), 3, 1)), [0x5_1234_1019, 0x18]);
    }

    #[test]
    fn what_a_unit_cannot_do_is_not_asked_of_it() {
        let none = (Capability::new(), ExtendedCapability::new());
        let some = (Capability::new().with_dwd(true), ExtendedCapability::new().with_dit(true));
        let word = |descriptor: Descriptor, unit: (Capability, ExtendedCapability)| {
            descriptor.fitted(unit.0, unit.1).0[0]
        };
        assert_eq!(word(Descriptor::iotlb_all(), none), 0x12);
        assert_eq!(word(Descriptor::iotlb_all(), some), 0x52);
        assert_eq!(word(Descriptor::device_tlb(0x1234, None), none), 0x1234_0001_0003);
        assert_eq!(word(Descriptor::device_tlb(0x1234, None), some), 0x1230_1234_0001_4003);
        assert_eq!(word(Descriptor::pasid_device_tlb(0x1234, 5, None), none), 0x0005_1234_0018);
        assert_eq!(word(Descriptor::context_all(), none), 0x11);
    }
}
