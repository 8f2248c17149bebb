//! What a unit can do, of what the driver asks, and why one is refused.
//!
//! Spec: VT-d 5.10, 11.4.2 "Capability Register", 11.4.3 "Extended Capability Register".

use portcullis_hal::Registers;
use portcullis_spec::vtd::capability::{Capability, ExtendedCapability, Version};
use portcullis_spec::vtd::registers::{CAP, ECAP, VER};
use portcullis_spec::vtd::{address_width_bits, fault::FAULT_RECORD_BYTES};
use portcullis_types::{PageSizes, SizeLg2};

use crate::config::{Config, Mode};

/// The end of what the driver needs of a unit's own registers; fault records lie behind.
///
/// Spec: VT-d 5.10, 11.4 "Register Descriptions".
const REGISTERS_END: usize = 0x100;

/// The fewest bits of a domain's addresses: its largest leaf.
const LEAST_INPUT_BITS: u8 = 30;

/// What a unit can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// CAP_REG.
    pub capability: Capability,
    /// ECAP_REG.
    pub extended: ExtendedCapability,
    /// Whether the tables are those of scalable mode.
    pub scalable: bool,
    /// Whether domains are first-stage tables: only where scalable mode has no second stage.
    pub first_stage_domains: bool,
    /// Levels of a domain's table.
    pub levels: u8,
    /// Bits of a domain's addresses.
    pub input_bits: u8,
    /// Bits of a host address.
    pub output_bits: u8,
    /// Sizes of a domain's leaves.
    pub page_sizes: PageSizes,
    /// AW of entries that let requests pass: the largest width there is.
    pub widest_aw: u8,
    /// Bits of a domain-id.
    pub domain_id_bits: u8,
    /// The largest address mask of an invalidation; none if whole domains are forgotten.
    pub largest_mask: Option<u8>,
    /// Whether the unit reads its own tables (root, context, PASID, interrupts) through the CPUs' caches.
    pub coherent: bool,
    /// Whether it reads domains' tables so.
    pub coherent_walk: bool,
    /// Bits of a PASID; 0 if there are none.
    pub pasid_bits: u8,
    /// Where fault records begin.
    pub fault_records_at: usize,
    /// How many there are.
    pub fault_records: usize,
}

/// Why a unit was not brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// Nothing answers at its registers: all ones, or no version.
    NotThere {
        /// CAP_REG.
        capability: u64,
        /// ECAP_REG.
        extended: u64,
    },
    /// A field of a capability register has a value that no unit can have.
    Absurd {
        /// The field, as the book calls it.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The unit has no invalidation queue.
    NoQueue,
    /// The unit does not have what the configuration demands, by the book's name of the capability.
    Missing(&'static str),
    /// The configuration says what no unit can do.
    BadConfig {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A region that firmware reserved cannot be mapped 1:1.
    BadRegion {
        /// Its first address.
        first: u64,
    },
    /// No memory for a table.
    NoMemory,
    /// A register did not become what it should within the limit.
    Timeout {
        /// The register.
        register: &'static str,
        /// What it said last.
        last: u64,
    },
    /// The unit did not confirm an invalidation.
    Sync(portcullis_core::iommu::SyncError),
}

impl Features {
    /// Reads the capability registers and holds the configuration against them.
    ///
    /// # Errors
    ///
    /// As [`ProbeError`] says.
    pub fn read(registers: &impl Registers, config: &Config) -> Result<Self, ProbeError> {
        let version = Version::from_bits(registers.read32(VER));
        let (capability, extended) = (registers.read64(CAP), registers.read64(ECAP));
        if version.max() == 0 || capability == u64::MAX || extended == u64::MAX || capability == 0 {
            return Err(ProbeError::NotThere { capability, extended });
        }
        Self::decode(Capability::from_bits(capability), ExtendedCapability::from_bits(extended), config)
    }

    fn decode(
        capability: Capability,
        extended: ExtendedCapability,
        config: &Config,
    ) -> Result<Self, ProbeError> {
        check_config(config)?;
        if !extended.qi() {
            return Err(ProbeError::NoQueue);
        }
        let nd = capability.nd();
        let domain_id_bits =
            capability.domain_id_bits().ok_or(ProbeError::Absurd { field: "ND", value: nd.into() })?;
        let fault_records_at = capability.fault_record_offset();
        if fault_records_at < REGISTERS_END - FAULT_RECORD_BYTES {
            return Err(ProbeError::Absurd { field: "FRO", value: capability.fro().into() });
        }
        let scalable = choose_mode(extended, config)?;
        let first_stage_domains = scalable && !extended.ssts();
        let widest_aw = (1..=3).rev().find(|aw| capability.sagaw() >> aw & 1 == 1);
        if widest_aw.is_none() && !first_stage_domains {
            return Err(ProbeError::Absurd { field: "SAGAW", value: capability.sagaw().into() });
        }
        let (levels, input_bits) = if first_stage_domains {
            first_stage_shape(capability, config)
        } else {
            second_stage_shape(capability, config)?
        };
        Ok(Self {
            scalable,
            first_stage_domains,
            levels,
            input_bits,
            output_bits: config.host_address_bits,
            page_sizes: page_sizes(capability, first_stage_domains),
            widest_aw: widest_aw.unwrap_or(0),
            domain_id_bits,
            largest_mask: (capability.psi() && config.page_selective).then(|| capability.mamv()),
            coherent: extended.c(),
            coherent_walk: if scalable { extended.smpwcs() } else { extended.c() },
            pasid_bits: if scalable && extended.pasid() { extended.pasid_bits().min(20) } else { 0 },
            fault_records_at,
            fault_records: capability.fault_records(),
            capability,
            extended,
        })
    }

    /// Whether hardware may cache entries that are not present.
    pub fn caching_mode(&self) -> bool {
        self.capability.cm()
    }

    /// Whether descriptors have 256 bits.
    pub fn wide_descriptors(&self) -> bool {
        self.scalable
    }
}

fn check_config(config: &Config) -> Result<(), ProbeError> {
    let bad = |field, value: u64| Err(ProbeError::BadConfig { field, value });
    if !(32..=52).contains(&config.host_address_bits) {
        return bad("host_address_bits", config.host_address_bits.into());
    }
    if let Some(bits) = config.input_bits.filter(|&bits| bits < LEAST_INPUT_BITS) {
        return bad("input_bits", bits.into());
    }
    if !(7..=14).contains(&config.queue_lg2) {
        return bad("queue_lg2", config.queue_lg2.into());
    }
    if !(7..=14).contains(&config.page_request_queue_lg2) {
        return bad("page_request_queue_lg2", config.page_request_queue_lg2.into());
    }
    match (config.interrupts, config.msi) {
        (Some(interrupts), _) if !(8..=16).contains(&interrupts.entries_lg2) => {
            bad("entries_lg2", interrupts.entries_lg2.into())
        }
        (_, Some(msi)) if msi.address % 4 != 0 => bad("msi", msi.address),
        (_, Some(msi)) if (msi.fault_data | msi.page_request_data) >> 16 != 0 => {
            bad("msi", (msi.fault_data | msi.page_request_data).into())
        }
        _ => Ok(()),
    }
}

/// Whether scalable mode is used: it must be able to translate at all.
fn choose_mode(extended: ExtendedCapability, config: &Config) -> Result<bool, ProbeError> {
    let usable = extended.smts() && (extended.ssts() || extended.fsts());
    match config.mode {
        Mode::Scalable if !usable => Err(ProbeError::Missing("SMTS")),
        Mode::Legacy => Ok(false),
        Mode::Auto | Mode::Scalable => Ok(usable),
    }
}

/// Levels and bits of a second-stage table: 4 levels if nothing else is wished, else the most there are below, else 5.
///
/// Spec: VT-d 5.10, 11.4.2 "Capability Register", SAGAW, MGAW.
fn second_stage_shape(capability: Capability, config: &Config) -> Result<(u8, u8), ProbeError> {
    let wished = config.input_bits.unwrap_or(48);
    let has = |aw: &u8| capability.sagaw() >> aw & 1 == 1;
    let mut widths = (1..=3u8).filter(has);
    let enough = |aw: &u8| address_width_bits(*aw).is_some_and(|bits| bits >= wished);
    let aw = widths.clone().find(enough).or_else(|| widths.next_back());
    let aw = aw.ok_or(ProbeError::Absurd { field: "SAGAW", value: capability.sagaw().into() })?;
    let levels = aw + 2;
    let bits = wished.min(12 + 9 * levels).min(capability.guest_address_bits());
    if bits < LEAST_INPUT_BITS {
        return Err(ProbeError::Absurd { field: "MGAW", value: capability.mgaw().into() });
    }
    Ok((levels, bits))
}

/// Levels and bits of a first-stage table: 4 levels unless more is wished than they have. Addresses are those of the lower half.
fn first_stage_shape(capability: Capability, config: &Config) -> (u8, u8) {
    let wished = config.input_bits.unwrap_or(48);
    if wished > 48 && capability.fs5lp() { (5, wished.min(56)) } else { (4, wished.min(47)) }
}

fn page_sizes(capability: Capability, first_stage: bool) -> PageSizes {
    let mut sizes = PageSizes::default().with(SizeLg2::KIB_4);
    if first_stage || capability.sslps() & 1 != 0 {
        sizes = sizes.with(SizeLg2::MIB_2);
    }
    if if first_stage { capability.fs1gp() } else { capability.sslps() & 2 != 0 } {
        sizes = sizes.with(SizeLg2::GIB_1);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Msi;

    /// 4 levels, 48 bits, 2 MiB and 1 GiB, 16-bit domain-ids, page-selective with masks up to 18, fault records at 0x220.
    const CAP_48: u64 = 0x0012_008c_222f_0406 | 1 << 34 | 1 << 35;
    /// QI, coherent, pass-through, IOTLB registers at 0xf0.
    const ECAP_QI: u64 = 0x0000_0000_0000_0f43;

    fn read(capability: u64, extended: u64, change: impl Fn(&mut Config)) -> Result<Features, ProbeError> {
        let mut config = Config::new("unit");
        change(&mut config);
        Features::decode(Capability::from_bits(capability), ExtendedCapability::from_bits(extended), &config)
    }

    #[test]
    fn capabilities_decide_widths_sizes_and_modes() {
        let features = read(CAP_48, ECAP_QI, |_| {}).unwrap();
        assert_eq!((features.levels, features.input_bits, features.widest_aw), (4, 48, 2));
        assert!(features.coherent && !features.scalable && features.page_sizes.contains(SizeLg2::GIB_1));
        assert_eq!((features.largest_mask, features.domain_id_bits), (Some(18), 16));
        assert_eq!(features.fault_records_at, 0x220);
        let narrow = read(CAP_48 & !0x1f00 | 0x200, ECAP_QI, |_| {}).unwrap();
        assert_eq!((narrow.levels, narrow.input_bits, narrow.widest_aw), (3, 39, 1));
        let five =
            read(CAP_48 & !0x3f_0000 | 56 << 16 | 0x800, ECAP_QI, |config| config.input_bits = Some(57));
        assert_eq!(five.map(|five| (five.levels, five.input_bits)), Ok((5, 57)));
        let guest = read(CAP_48 & !0x3f_0000 | 38 << 16, ECAP_QI, |_| {}).unwrap();
        assert_eq!((guest.levels, guest.input_bits), (4, 39));
    }

    #[test]
    fn fewer_bits_can_be_had_of_a_first_stage_too() {
        // SMTS (bit 43) and FSTS (47), without SSTS; FS5LP is bit 60 of CAP_REG.
        let first = |bits: Option<u8>, capability: u64| {
            let features = read(capability, ECAP_QI | 1 << 43 | 1 << 47, |config| config.input_bits = bits);
            let features = features.unwrap();
            let format = crate::table::choose(&features).unwrap();
            (features.levels, features.input_bits, format.aperture().last().get())
        };
        let last = |bits: u8| (1 << bits) - 1;
        assert_eq!(first(None, CAP_48), (4, 47, last(47)));
        assert_eq!(first(Some(39), CAP_48), (4, 39, last(39)));
        assert_eq!(first(Some(57), CAP_48), (4, 47, last(47)));
        assert_eq!(first(Some(52), CAP_48 | 1 << 60), (5, 52, last(52)));
        assert_eq!(first(Some(57), CAP_48 | 1 << 60), (5, 56, last(56)));
        for extended in [ECAP_QI, ECAP_QI | 1 << 43 | 1 << 47] {
            let few = read(CAP_48, extended, |config| config.input_bits = Some(29));
            assert_eq!(few, Err(ProbeError::BadConfig { field: "input_bits", value: 29 }));
        }
    }

    #[test]
    fn absurd_capabilities_are_refused_by_name() {
        let field = |result: Result<Features, ProbeError>| match result {
            Err(ProbeError::Absurd { field, .. } | ProbeError::Missing(field)) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(read(CAP_48 | 7, ECAP_QI, |_| {})), "ND");
        assert_eq!(field(read(CAP_48 & !0x1f00, ECAP_QI, |_| {})), "SAGAW");
        assert_eq!(field(read(CAP_48 & !(0x3ff << 24), ECAP_QI, |_| {})), "FRO");
        assert_eq!(field(read(CAP_48 & !0x3f_0000, ECAP_QI, |_| {})), "MGAW");
        assert_eq!(field(read(CAP_48, ECAP_QI, |config| config.mode = Mode::Scalable)), "SMTS");
        assert_eq!(read(CAP_48, ECAP_QI & !2, |_| {}), Err(ProbeError::NoQueue));
        let bad = read(CAP_48, ECAP_QI, |config| config.queue_lg2 = 40);
        assert_eq!(bad, Err(ProbeError::BadConfig { field: "queue_lg2", value: 40 }));
        for (data, page_request_data) in [(0x1_0041, 0x42), (0x41, 0x1_0042)] {
            let msi = Msi { address: 0xfee0_1004, fault_data: data, page_request_data };
            let bad = read(CAP_48, ECAP_QI, |config| config.msi = Some(msi));
            assert!(matches!(bad, Err(ProbeError::BadConfig { field: "msi", .. })), "{bad:?}");
        }
    }
}
