//! What the hardware can do, read from its identification registers.
//!
//! Spec: SMMUv3 H.a, 6.3.1 "SMMU_IDR0" to 6.3.8 "SMMU_AIDR".

use portcullis_core::iommu::SyncError;
use portcullis_hal::Registers;
use portcullis_spec::smmuv3::address_bits;
use portcullis_spec::smmuv3::registers::{
    AIDR, Aidr, IDR0, IDR1, IDR3, IDR5, Idr0, Idr1, Idr3, Idr5, ST_LEVEL_2, ST_LEVEL_LINEAR,
    STALL_MODEL_BOTH, STALL_MODEL_FORCED, STALL_MODEL_TERMINATE, TTENDIAN_BIG, TTENDIAN_LITTLE,
    TTENDIAN_MIXED,
};
use portcullis_types::{PageSizes, SizeLg2, SourceId};

use crate::config::Overrides;

/// The identification registers as they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRegisters {
    /// SMMU_IDR0.
    pub idr0: Idr0,
    /// SMMU_IDR1.
    pub idr1: Idr1,
    /// SMMU_IDR3.
    pub idr3: Idr3,
    /// SMMU_IDR5.
    pub idr5: Idr5,
    /// SMMU_AIDR.
    pub aidr: Aidr,
}

impl IdRegisters {
    /// Reads them.
    pub fn read(registers: &impl Registers) -> Self {
        Self {
            idr0: Idr0::from_bits(registers.read32(IDR0)),
            idr1: Idr1::from_bits(registers.read32(IDR1)),
            idr3: Idr3::from_bits(registers.read32(IDR3)),
            idr5: Idr5::from_bits(registers.read32(IDR5)),
            aidr: Aidr::from_bits(registers.read32(AIDR)),
        }
    }
}

/// What the hardware can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// y of SMMUv3.y.
    pub version_minor: u8,
    /// Stage 1 is there.
    pub stage1: bool,
    /// Stage 2 is there.
    pub stage2: bool,
    /// The SMMU's own accesses are coherent with the CPUs' caches.
    pub coherent: bool,
    /// Bits of a StreamID.
    pub stream_bits: u8,
    /// Bits of a SubstreamID; 0 if there are none.
    pub substream_bits: u8,
    /// Bits of an ASID, 8 or 16.
    pub asid_bits: u8,
    /// Bits of a VMID, 8 or 16.
    pub vmid_bits: u8,
    /// Bits of an address of stage 1's input, 48 or 52, with the 64 KiB granule or where `large_addresses` is set; else 48.
    pub input_bits: u8,
    /// Bits of an output address, as IDR5.OAS says.
    pub output_bits: u8,
    /// The granules, a set of page sizes.
    pub granules: PageSizes,
    /// 52-bit addresses with the 4 KiB and 16 KiB granules.
    pub large_addresses: bool,
    /// Two-level stream tables are there.
    pub two_level_streams: bool,
    /// Two-level tables of context descriptors are there.
    pub two_level_contexts: bool,
    /// The SMMU can send MSIs.
    pub msi: bool,
    /// Invalidation by range is there.
    pub range_invalidation: bool,
    /// How much of break-before-make is needed: level 0, 1 or 2.
    pub break_before_make_level: u8,
    /// The EL2 stream worlds are there.
    pub hyp: bool,
    /// Broadcast TLB maintenance is received.
    pub broadcast: bool,
    /// ATS is there.
    pub ats: bool,
    /// Page requests are there.
    pub page_requests: bool,
    /// Faults can be made to stall or not.
    pub stall_configurable: bool,
    /// Faults always stall.
    pub stall_forced: bool,
    /// Most transactions that can be stalled at once, as IDR5.STALL_MAX says.
    pub stall_max: u16,
    /// The hardware can set access flags.
    pub access_flag: bool,
    /// The hardware can update dirty state.
    pub dirty_state: bool,
    /// Responses that the SMMU gives by itself carry the PASID of the request.
    pub automatic_pasid: bool,
    /// Incoming memory attributes can be overridden, so that STE.SHCFG means something.
    pub attribute_override: bool,
    /// Most entries of the command queue, as log2.
    pub command_queue_lg2: u8,
    /// Most entries of the event queue, as log2.
    pub event_queue_lg2: u8,
    /// Most entries of the PRI queue, as log2.
    pub page_request_queue_lg2: u8,
}

impl Features {
    /// What these registers say.
    ///
    /// # Errors
    ///
    /// As [`ProbeError`] says: something that this driver needs is not there, or a field holds a reserved value.
    pub fn decode(ids: &IdRegisters) -> Result<Self, ProbeError> {
        let IdRegisters { idr0, idr1, idr3, idr5, aidr } = *ids;
        if aidr.arch_major_rev() != 0 {
            return Err(ProbeError::NotSmmuv3 { aidr: aidr.into_bits() });
        }
        if idr1.queues_preset() || idr1.tables_preset() {
            return Err(ProbeError::Preset { idr1: idr1.into_bits() });
        }
        if !idr0.s1p() && !idr0.s2p() {
            return Err(ProbeError::NoTranslation);
        }
        if idr0.ttf() & 0b10 == 0 || idr0.ttendian() == TTENDIAN_BIG {
            return Err(ProbeError::TableFormat { idr0: idr0.into_bits() });
        }
        let kinds = matches!(idr0.ttendian(), TTENDIAN_MIXED | TTENDIAN_LITTLE)
            && matches!(idr0.stall_model(), STALL_MODEL_BOTH | STALL_MODEL_TERMINATE | STALL_MODEL_FORCED)
            && matches!(idr0.st_level(), ST_LEVEL_LINEAR | ST_LEVEL_2);
        if !kinds {
            return Err(ProbeError::Reserved { register: "SMMU_IDR0", value: idr0.into_bits() });
        }
        let sizes = idr1.sidsize() <= 32
            && idr1.ssidsize() <= 20
            && idr1.cmdqs() <= 19
            && idr1.eventqs() <= 19
            && idr1.priqs() <= 19;
        if !sizes {
            return Err(ProbeError::Reserved { register: "SMMU_IDR1", value: idr1.into_bits() });
        }
        if idr3.bbml() >= 3 {
            return Err(ProbeError::Reserved { register: "SMMU_IDR3", value: idr3.into_bits() });
        }
        if idr5.vax() >= 3 {
            return Err(ProbeError::Reserved { register: "SMMU_IDR5", value: idr5.into_bits() });
        }
        let granules = granules(idr5);
        if granules.is_empty() {
            return Err(ProbeError::NoGranule);
        }
        // 56 bits want 128-bit descriptors; with 64-bit ones 52 are the most.
        let output_bits = address_bits(idr5.oas()).unwrap_or(32).min(52);
        Ok(Self {
            version_minor: aidr.arch_minor_rev(),
            stage1: idr0.s1p(),
            stage2: idr0.s2p(),
            coherent: idr0.cohacc(),
            stream_bits: idr1.sidsize(),
            substream_bits: idr1.ssidsize(),
            asid_bits: if idr0.asid16() { 16 } else { 8 },
            vmid_bits: if idr0.vmid16() { 16 } else { 8 },
            input_bits: if idr5.vax() > 0 { 52 } else { 48 },
            output_bits,
            granules,
            large_addresses: idr5.ds(),
            two_level_streams: idr0.st_level() == ST_LEVEL_2,
            two_level_contexts: idr0.cd2l(),
            msi: idr0.msi(),
            range_invalidation: idr3.ril(),
            break_before_make_level: idr3.bbml(),
            hyp: idr0.hyp(),
            broadcast: idr0.btm(),
            ats: idr0.ats(),
            page_requests: idr0.pri(),
            stall_configurable: idr0.stall_model() == STALL_MODEL_BOTH,
            stall_forced: idr0.stall_model() == STALL_MODEL_FORCED,
            stall_max: idr5.stall_max(),
            access_flag: idr0.httu() >= 1,
            dirty_state: idr0.httu() >= 2,
            automatic_pasid: idr3.pps(),
            attribute_override: idr1.attr_types_ovr(),
            command_queue_lg2: idr1.cmdqs(),
            event_queue_lg2: idr1.eventqs(),
            page_request_queue_lg2: idr1.priqs(),
        })
    }

    /// These, and what firmware knows to be there besides.
    pub(crate) fn with(self, overrides: Overrides) -> Self {
        Self {
            coherent: self.coherent || overrides.coherent,
            access_flag: self.access_flag || overrides.access_flag || overrides.dirty_state,
            dirty_state: self.dirty_state || overrides.dirty_state,
            ..self
        }
    }
}

fn granules(idr5: Idr5) -> PageSizes {
    [(idr5.gran4k(), SizeLg2::KIB_4), (idr5.gran16k(), SizeLg2::KIB_16), (idr5.gran64k(), SizeLg2::KIB_64)]
        .into_iter()
        .filter(|&(there, _)| there)
        .fold(PageSizes::default(), |set, (_, size)| set.with(size))
}

/// Why an SMMU was not brought up. If it is an SMMUv3 at all, it is off and its traffic is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// The architecture version is not 3. A bus where nothing answers reads so as well.
    NotSmmuv3 {
        /// SMMU_AIDR.
        aidr: u32,
    },
    /// Tables or queues are fixed in the hardware, which this driver cannot use.
    Preset {
        /// SMMU_IDR1.
        idr1: u32,
    },
    /// Neither stage translates.
    NoTranslation,
    /// The stage that the configuration asks for is not there.
    NoSuchStage,
    /// VMSAv8-64 tables in little-endian order cannot be walked.
    TableFormat {
        /// SMMU_IDR0.
        idr0: u32,
    },
    /// No granule is there.
    NoGranule,
    /// A field holds a value that the book does not define.
    Reserved {
        /// The register's name.
        register: &'static str,
        /// What it holds.
        value: u32,
    },
    /// No memory for a table or a queue.
    NoMemory,
    /// A stream that is to pass while the machine boots is beyond what the stream table covers.
    BootStream(SourceId),
    /// The MSI doorbell is 0, not a multiple of 4, or beyond what the hardware reaches.
    BadDoorbell,
    /// A register did not come to say what was written.
    Timeout {
        /// The register's name.
        register: &'static str,
        /// The value that was wanted.
        wanted: u32,
        /// The value that was last read.
        last: u32,
    },
    /// The first commands were not confirmed.
    Sync(SyncError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> IdRegisters {
        IdRegisters {
            idr0: Idr0::new().with_s1p(true).with_ttf(2).with_cohacc(true).with_st_level(1).with_ttendian(2),
            idr1: Idr1::new().with_sidsize(16).with_cmdqs(8).with_eventqs(7),
            idr3: Idr3::new(),
            idr5: Idr5::new().with_oas(5).with_gran4k(true),
            aidr: Aidr::new(),
        }
    }

    #[test]
    fn plain_hardware_is_taken_as_it_is() {
        let features = Features::decode(&ids()).unwrap();
        assert!(features.stage1 && !features.stage2 && features.coherent && features.two_level_streams);
        assert_eq!((features.stream_bits, features.output_bits, features.input_bits), (16, 48, 48));
        assert_eq!((features.asid_bits, features.granules.bits()), (8, 0x1000));
    }

    #[test]
    fn hardware_that_cannot_be_driven_is_refused_with_the_reason() {
        let refused = |change: fn(&mut IdRegisters)| {
            let mut ids = ids();
            change(&mut ids);
            Features::decode(&ids).unwrap_err()
        };
        assert_eq!(refused(|ids| ids.aidr = Aidr::from_bits(0x10)), ProbeError::NotSmmuv3 { aidr: 0x10 });
        assert_eq!(refused(|ids| ids.idr0.set_s1p(false)), ProbeError::NoTranslation);
        assert!(matches!(refused(|ids| ids.idr0.set_ttf(1)), ProbeError::TableFormat { .. }));
        assert!(matches!(refused(|ids| ids.idr0.set_ttendian(3)), ProbeError::TableFormat { .. }));
        let reserved = |change: fn(&mut IdRegisters)| match refused(change) {
            ProbeError::Reserved { register, .. } => register,
            other => panic!("{other:?}"),
        };
        assert_eq!(reserved(|ids| ids.idr0.set_st_level(2)), "SMMU_IDR0");
        assert_eq!(reserved(|ids| ids.idr0.set_ttendian(1)), "SMMU_IDR0");
        assert_eq!(reserved(|ids| ids.idr0.set_stall_model(3)), "SMMU_IDR0");
        assert_eq!(reserved(|ids| ids.idr3.set_bbml(3)), "SMMU_IDR3");
        assert!(matches!(refused(|ids| ids.idr1.set_sidsize(33)), ProbeError::Reserved { .. }));
        assert!(matches!(
            refused(|ids| ids.idr5.set_vax(3)),
            ProbeError::Reserved { register: "SMMU_IDR5", value } if value >> 10 & 3 == 3
        ));
        assert!(matches!(refused(|ids| ids.idr1.set_queues_preset(true)), ProbeError::Preset { .. }));
        assert!(matches!(refused(|ids| ids.idr1.set_tables_preset(true)), ProbeError::Preset { .. }));
        assert_eq!(refused(|ids| ids.idr5.set_gran4k(false)), ProbeError::NoGranule);
    }

    #[test]
    fn a_dead_bus_is_refused() {
        let ids = IdRegisters {
            idr0: Idr0::from_bits(u32::MAX),
            idr1: Idr1::from_bits(u32::MAX),
            idr3: Idr3::from_bits(u32::MAX),
            idr5: Idr5::from_bits(u32::MAX),
            aidr: Aidr::from_bits(u32::MAX),
        };
        assert_eq!(Features::decode(&ids), Err(ProbeError::NotSmmuv3 { aidr: u32::MAX }));
    }
}
