//! What kind of SMMU the model is: the features its ID registers report.
//!
//! A [`Config`] is what an integrator would choose; [`Config::default`] is a 3.2 part with two stages, 48 bits and
//! range invalidation. The presets are the parts that drivers get wrong: small, without range invalidation, stage 2 only.
//!
//! [`StallModel`] and [`HardwareUpdate`] are the two that are more than a yes or no.
//!
//! Spec: SMMUv3 H.a, 6.3.1 "SMMU_IDR0" to 6.3.6 "SMMU_IDR5", 6.3.8 "SMMU_AIDR".

use portcullis_types::SourceId;

use crate::geometry::Granule;
use crate::policy::Policy;

/// Whether faults may hold accesses back. Spec: SMMUv3 H.a, 6.3.1 "SMMU_IDR0", STALL_MODEL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StallModel {
    /// 0: a descriptor chooses between holding back and ending.
    Configurable,
    /// 1: no access is held back.
    #[default]
    NotSupported,
    /// 2: every fault that can be configured holds back.
    Forced,
}

/// What the SMMU updates in tables by itself. Spec: SMMUv3 H.a, 6.3.1 "SMMU_IDR0", HTTU.
///
/// Not here: 3, the Access flag of table descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum HardwareUpdate {
    /// 0: nothing.
    #[default]
    None,
    /// 1: the Access flag.
    Access,
    /// 2: the Access flag and the dirty state.
    AccessAndDirty,
}

/// The features of a model, and how it behaves where the book leaves it open.
#[derive(Clone, Debug)]
pub struct Config {
    /// AIDR.ArchMinorRev: 1 for SMMUv3.1, 2 for SMMUv3.2. Never 0: what 3.0 leaves unpredictable is ILLEGAL here.
    pub minor_revision: u8,
    /// IDR0.S1P: stage 1 is there.
    pub stage1: bool,
    /// IDR0.S2P: stage 2 is there.
    pub stage2: bool,
    /// IDR0.Hyp: streams may run in the hypervisor's own regime (STE.STRW), and the EL2 commands exist.
    pub hyp: bool,
    /// IDR5.GRAN4K.
    pub granule_4k: bool,
    /// IDR5.GRAN16K.
    pub granule_16k: bool,
    /// IDR5.GRAN64K.
    pub granule_64k: bool,
    /// IDR5.OAS in bits: 32, 36, 40, 42, 44, 48 or 52. Another number counts as the next lower one.
    pub output_bits: u8,
    /// IDR5.VAX: virtual addresses of 52 bits.
    pub input_52_bits: bool,
    /// IDR5.DS: 52-bit addresses with 4 KiB and 16 KiB granules.
    pub large_descriptors: bool,
    /// IDR0.ASID16.
    pub asid_16_bits: bool,
    /// IDR0.VMID16.
    pub vmid_16_bits: bool,
    /// IDR1.SIDSIZE: bits of a StreamID, 0 to 32.
    pub stream_id_bits: u8,
    /// IDR1.SSIDSIZE: bits of a SubstreamID, 0 (none) to 20.
    pub substream_id_bits: u8,
    /// IDR0.ST_LEVEL: two-level stream tables.
    pub two_level_streams: bool,
    /// IDR0.CD2L: two-level context descriptor tables.
    pub two_level_contexts: bool,
    /// IDR1.CMDQS: log2 of the most entries of the command queue, 0 to 19.
    pub command_queue_lg2: u8,
    /// IDR1.EVENTQS: log2 of the most entries of the event queue, 0 to 19.
    pub event_queue_lg2: u8,
    /// IDR3.RIL: range invalidation and level hints.
    pub range_invalidation: bool,
    /// IDR3.BBML: 0, 1 or 2.
    pub break_before_make_level: u8,
    /// IDR0.MSI: the SMMU's own interrupts are messages.
    pub msi: bool,
    /// IDR0.SEV: CMD_SYNC may send an event.
    pub sev: bool,
    /// IDR0.COHACC: the walker snoops the CPU's caches.
    pub coherent: bool,
    /// IDR3.HAD: hierarchical attributes can be switched off.
    pub hierarchical_disable: bool,
    /// IDR3.XNX: stage 2 tells privileged from unprivileged execution.
    pub stage2_execute_never_extended: bool,
    /// IDR3.STT: small translation tables.
    pub small_tables: bool,
    /// IDR1.ATTR_PERMS_OVR: an STE may override privilege and instruction marks.
    pub attribute_overrides: bool,
    /// IDR0.TERM_MODEL: terminated means aborted, never read-as-zero.
    pub terminate_aborts: bool,
    /// IDR0.ATS: devices may keep translations of their own.
    pub ats: bool,
    /// IDR0.PRI: devices may ask for pages.
    pub pri: bool,
    /// IDR1.PRIQS: log2 of the most entries of the PRI queue, 0 to 19. Counts only with `pri`.
    pub page_queue_lg2: u8,
    /// IDR3.PPS: the SMMU's own answers to page requests carry the PASID of the request, whatever STE.PPAR says.
    pub pasid_on_auto_response: bool,
    /// IDR0.STALL_MODEL.
    pub stall: StallModel,
    /// IDR5.STALL_MAX: the most accesses held back at once, at least 1; a further one waits unseen until another is answered.
    pub most_stalls: u16,
    /// IDR0.HTTU.
    pub hardware_update: HardwareUpdate,
    /// IDR0.BTM: the SMMU can take part in broadcast TLB maintenance.
    pub broadcast: bool,
    /// DeviceID under which the SMMU's own messages reach the interrupt controller.
    pub msi_source: Option<SourceId>,
    /// What the model does where the book leaves a choice.
    pub policy: Policy,
    /// Whether each translation is told to the trace, too.
    pub verbose: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            minor_revision: 2,
            stage1: true,
            stage2: true,
            hyp: false,
            granule_4k: true,
            granule_16k: true,
            granule_64k: true,
            output_bits: 48,
            input_52_bits: false,
            large_descriptors: false,
            asid_16_bits: true,
            vmid_16_bits: true,
            stream_id_bits: 16,
            substream_id_bits: 0,
            two_level_streams: true,
            two_level_contexts: true,
            command_queue_lg2: 8,
            event_queue_lg2: 7,
            range_invalidation: true,
            break_before_make_level: 2,
            msi: true,
            sev: false,
            coherent: true,
            hierarchical_disable: true,
            stage2_execute_never_extended: true,
            small_tables: false,
            attribute_overrides: true,
            terminate_aborts: false,
            ats: false,
            pri: false,
            page_queue_lg2: 0,
            pasid_on_auto_response: false,
            stall: StallModel::NotSupported,
            most_stalls: 64,
            hardware_update: HardwareUpdate::None,
            broadcast: false,
            msi_source: None,
            policy: Policy::stale(),
            verbose: false,
        }
    }
}

impl Config {
    /// A small part: 36 bits, 4 KiB pages only, 8-bit ASIDs and VMIDs, a linear stream table of at most 64 streams, tiny queues, no messages.
    pub fn small() -> Self {
        Self {
            granule_16k: false,
            granule_64k: false,
            output_bits: 36,
            asid_16_bits: false,
            vmid_16_bits: false,
            stream_id_bits: 6,
            two_level_streams: false,
            two_level_contexts: false,
            command_queue_lg2: 4,
            event_queue_lg2: 3,
            msi: false,
            ..Self::default()
        }
    }

    /// A 3.1 part: no range invalidation, break-before-make for every change of size.
    pub fn no_range_invalidation() -> Self {
        Self { minor_revision: 1, range_invalidation: false, break_before_make_level: 0, ..Self::default() }
    }

    /// A part without stage 1.
    pub fn stage2_only() -> Self {
        Self { stage1: false, two_level_contexts: false, ..Self::default() }
    }

    /// A part with 52-bit addresses everywhere.
    pub fn large() -> Self {
        Self { output_bits: 52, input_52_bits: true, large_descriptors: true, ..Self::default() }
    }

    /// Which sizes of physical address the code of IDR5.OAS stands for.
    const ADDRESS_BITS: [u8; 7] = [32, 36, 40, 42, 44, 48, 52];

    /// The bits of an output address, made one of the sizes there are.
    pub(crate) fn oas(&self) -> u32 {
        u32::from(Self::ADDRESS_BITS.into_iter().rfind(|&bits| bits <= self.output_bits).unwrap_or(32))
    }

    /// The bits of an intermediate address. Spec: SMMUv3 H.a, 3.4 "Address sizes": with 64-bit tables only, IAS is OAS.
    pub(crate) fn ias(&self) -> u32 {
        self.oas()
    }

    /// What a PS or IPS code stands for, capped by OAS. Spec: SMMUv3 H.a, 5.4 "CD", IPS.
    pub(crate) fn effective_bits(&self, code: u64) -> u32 {
        let index = usize::try_from(code.min(6)).unwrap_or(6);
        u32::from(Self::ADDRESS_BITS[index]).min(self.oas())
    }

    pub(crate) fn supports(&self, granule: Granule) -> bool {
        match granule {
            Granule::Kib4 => self.granule_4k,
            Granule::Kib16 => self.granule_16k,
            Granule::Kib64 => self.granule_64k,
        }
    }

    /// IDR0.PRI: there is none without ATS.
    pub(crate) fn has_pri(&self) -> bool {
        self.ats && self.pri
    }

    /// IDR3.PPS: it means something only where there are page requests, and substreams.
    pub(crate) fn responds_with_pasid(&self) -> bool {
        self.has_pri() && self.substream_id_bits != 0 && self.pasid_on_auto_response
    }

    /// log2 of the Smallest Translation Unit. Spec: SMMUv3 H.a, 3.9.1 "ATS Interface": "the smallest granule that the SMMU implements".
    pub(crate) fn smallest_unit_lg2(&self) -> u32 {
        let granules = [Granule::Kib4, Granule::Kib16, Granule::Kib64];
        granules.into_iter().find(|&granule| self.supports(granule)).map_or(12, Granule::bits)
    }

    /// SMMU_IDR0.
    pub(crate) fn idr0(&self) -> u32 {
        bit(0, self.stage2)
            | bit(1, self.stage1)
            | 0b10 << 2 // TTF: 64-bit tables only
            | bit(4, self.coherent)
            | (self.hardware_update as u32) << 6
            | bit(5, self.broadcast)
            | bit(9, self.hyp)
            | bit(10, self.ats) // NS1ATS stays 0: split-stage ATS is there, too
            | bit(12, self.asid_16_bits)
            | bit(13, self.msi)
            | bit(14, self.sev)
            | bit(16, self.has_pri())
            | bit(18, self.vmid_16_bits && self.stage2)
            | bit(19, self.two_level_contexts && self.stage1)
            | 0b10 << 21 // TTENDIAN: little-endian only
            | (self.stall as u32) << 24
            | bit(26, self.terminate_aborts)
            | bit(27, self.two_level_streams)
    }

    /// SMMU_IDR1.
    pub(crate) fn idr1(&self) -> u32 {
        u32::from(self.stream_id_bits.min(32))
            | u32::from(self.substream_id_bits.min(20)) << 6
            | if self.has_pri() { u32::from(self.page_queue_lg2.min(19)) << 11 } else { 0 }
            | u32::from(self.event_queue_lg2.min(19)) << 16
            | u32::from(self.command_queue_lg2.min(19)) << 21
            | bit(26, self.attribute_overrides)
    }

    /// SMMU_IDR3.
    pub(crate) fn idr3(&self) -> u32 {
        bit(2, self.hierarchical_disable)
            | bit(4, self.stage2_execute_never_extended)
            | bit(5, self.responds_with_pasid())
            | bit(9, self.small_tables)
            | bit(10, self.range_invalidation)
            | u32::from(self.break_before_make_level.min(2)) << 11
    }

    /// SMMU_IDR5.
    pub(crate) fn idr5(&self) -> u32 {
        let code = Self::ADDRESS_BITS.iter().position(|&bits| u32::from(bits) == self.oas()).unwrap_or(0);
        u32::try_from(code).unwrap_or(0)
            | bit(4, self.granule_4k)
            | bit(5, self.granule_16k)
            | bit(6, self.granule_64k)
            | bit(7, self.large_descriptors)
            | bit(10, self.input_52_bits)
            | u32::from(self.stall_max()) << 16
    }

    /// IDR5.STALL_MAX: 0 where nothing can be held back.
    fn stall_max(&self) -> u16 {
        if self.stall == StallModel::NotSupported { 0 } else { self.most_stalls.max(1) }
    }
}

fn bit(position: u32, set: bool) -> u32 {
    u32::from(set) << position
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reads_as_the_book_lays_the_fields_out() {
        let config = Config::default();
        // S2P, S1P, TTF=2, COHACC, ASID16, MSI, VMID16, CD2L, TTENDIAN=2, STALL_MODEL=1, ST_LEVEL=1.
        assert_eq!(config.idr0(), 0x094c_301b);
        // SIDSIZE=16, EVENTQS=7, CMDQS=8, ATTR_PERMS_OVR.
        assert_eq!(config.idr1(), 0x0507_0010);
        // HAD, XNX, RIL, BBML=2.
        assert_eq!(config.idr3(), 0x0000_1414);
        // OAS=48, three granules.
        assert_eq!(config.idr5(), 0x0000_0075);
    }

    #[test]
    fn stalls_updates_and_broadcasts_lie_where_the_book_says() {
        let idr0 = |config: Config| config.idr0() ^ Config::default().idr0();
        assert_eq!(idr0(Config { stall: StallModel::Configurable, ..Config::default() }), 1 << 24);
        assert_eq!(idr0(Config { stall: StallModel::Forced, ..Config::default() }), 3 << 24);
        assert_eq!(idr0(Config { hardware_update: HardwareUpdate::Access, ..Config::default() }), 1 << 6);
        assert_eq!(
            idr0(Config { hardware_update: HardwareUpdate::AccessAndDirty, ..Config::default() }),
            2 << 6
        );
        assert_eq!(idr0(Config { broadcast: true, ..Config::default() }), 1 << 5);
    }

    #[test]
    fn how_many_accesses_can_be_held_back_is_reported_where_any_can() {
        let stall_max = |stall| Config { stall, most_stalls: 5, ..Config::default() }.idr5() >> 16;
        assert_eq!(stall_max(StallModel::NotSupported), 0);
        assert_eq!((stall_max(StallModel::Configurable), stall_max(StallModel::Forced)), (5, 5));
    }

    #[test]
    fn page_services_are_reported_only_where_they_can_be() {
        let all = Config {
            ats: true,
            pri: true,
            page_queue_lg2: 9,
            pasid_on_auto_response: true,
            substream_id_bits: 20,
            ..Config::default()
        };
        let plain = Config::default();
        assert_eq!(all.idr0() ^ plain.idr0(), 1 << 10 | 1 << 16);
        assert_eq!(all.idr1() ^ plain.idr1(), 9 << 11 | 20 << 6);
        assert_eq!(all.idr3() ^ plain.idr3(), 1 << 5);
        let without_ats = Config { ats: false, ..all.clone() };
        assert_eq!(without_ats.idr0(), plain.idr0());
        assert_eq!(without_ats.idr1() ^ plain.idr1(), 20 << 6);
        assert_eq!(without_ats.idr3(), plain.idr3());
        assert_eq!(Config { substream_id_bits: 0, ..all }.idr3(), plain.idr3());
    }

    #[test]
    fn presets_differ_where_they_say() {
        assert_eq!(Config::small().idr5(), 0x0000_0011);
        assert_eq!(Config::small().idr1() & 0x3f, 6);
        assert_eq!(Config::no_range_invalidation().idr3() & 0x1c00, 0);
        assert_eq!(Config::stage2_only().idr0() & 3, 1);
        assert_eq!(Config::large().idr5(), 0x0000_04f6);
    }

    #[test]
    fn an_address_size_that_no_code_has_is_rounded_down() {
        assert_eq!(Config { output_bits: 47, ..Config::default() }.oas(), 44);
        assert_eq!(Config { output_bits: 8, ..Config::default() }.oas(), 32);
        assert_eq!(Config::default().effective_bits(6), 48);
        assert_eq!(Config::default().effective_bits(1), 36);
    }
}
