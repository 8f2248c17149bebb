//! What a unit can do: everything that the capability registers say, to be chosen.
//!
//! [`Config`] is the choice, [`Config::cap`] and [`Config::ecap`] say it as the registers do. What the book says a part without one thing also
//! lacks ("also report this field as Clear") is taken off by [`Config::settled`], which the model applies to whatever it is given.
//!
//! Spec: VT-d 5.10, 11.4.1 "Version Register", 11.4.2 "Capability Register", 11.4.3 "Extended Capability Register".
//! Not here, and never reported: host permission tables, posted interrupts, memory types, enhanced and virtual commands, performance monitoring,
//! execute requests, page-request stop markers' support.

use crate::bits::mask;
use crate::policy::Policy;

/// Where the fault recording registers are.
pub(crate) const FAULT_RECORDS: u64 = 0x1000;
/// Where IVA_REG is; IOTLB_REG follows.
pub(crate) const IOTLB_REGISTERS: u64 = 0x500;

/// How deep second-stage tables may be. Spec: VT-d 5.10, 11.4.2, SAGAW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depths {
    /// 39-bit AGAW.
    pub three: bool,
    /// 48-bit AGAW.
    pub four: bool,
    /// 57-bit AGAW.
    pub five: bool,
}

impl Depths {
    /// Whether tables of so many levels are walked.
    pub(crate) fn has(self, levels: u32) -> bool {
        match levels {
            3 => self.three,
            4 => self.four,
            5 => self.five,
            _ => false,
        }
    }

    /// The widest AGAW, in bits; 0 if there is none.
    pub(crate) fn widest(self) -> u32 {
        [(5, 57), (4, 48), (3, 39)]
            .into_iter()
            .find(|&(levels, _)| self.has(levels))
            .map_or(0, |(_, bits)| bits)
    }
}

/// Scalable mode, and what there is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalable {
    /// FSTS: first-stage translation.
    pub first_stage: bool,
    /// FS1GP: pages of 1 GiB in it.
    pub first_stage_1g: bool,
    /// FS5LP: five levels in it.
    pub first_stage_5_levels: bool,
    /// SSTS: second-stage translation.
    pub second_stage: bool,
    /// NEST: nested translation.
    pub nested: bool,
    /// PASID and PSS: requests with a PASID, of so many bits, 1 to 20.
    pub pasid_bits: Option<u8>,
    /// RPS: RID_PASID.
    pub rid_pasid: bool,
    /// SRS: requests for a supervisor.
    pub supervisor_requests: bool,
    /// RPRIVS: RID_PRIV.
    pub rid_priv: bool,
    /// EAFS: the extended-accessed flag.
    pub extended_accessed: bool,
    /// SSADS: accessed and dirty flags in the second stage.
    pub second_stage_dirty: bool,
    /// SMPWCS: walks from PASID-table entries snoop where PWSNP says so.
    pub coherent_walks: bool,
    /// PRS: page requests.
    pub page_requests: bool,
    /// PDS: wait descriptors that drain page requests.
    pub page_request_drain: bool,
    /// SMS: stop markers that cannot be written are dropped in silence.
    pub stop_markers: bool,
    /// PTRS: a PASID in translated requests.
    pub translated_pasid: bool,
}

impl Scalable {
    /// All that the model has, but for a PASID in translated requests, which asks more of devices.
    pub const fn full() -> Self {
        Self {
            first_stage: true,
            first_stage_1g: true,
            first_stage_5_levels: true,
            second_stage: true,
            nested: true,
            pasid_bits: Some(20),
            rid_pasid: true,
            supervisor_requests: true,
            rid_priv: true,
            extended_accessed: true,
            second_stage_dirty: true,
            coherent_walks: true,
            page_requests: true,
            page_request_drain: true,
            stop_markers: true,
            translated_pasid: false,
        }
    }
}

/// The features of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// VER: major and minor version, each below 16. From major 2 on accesses are always drained, from 6 on there is no invalidation by register.
    pub version: (u8, u8),
    /// ND: 4 to 16 bits of domain id, an even number.
    pub domain_bits: u8,
    /// HAW: bits of a host physical address, 32 to 52. No register says it: firmware does.
    pub host_bits: u8,
    /// MGAW: bits of a second-stage input address, up to 57.
    pub guest_bits: u8,
    /// SAGAW.
    pub depths: Depths,
    /// SSLPS: second-stage pages of 2 MiB.
    pub pages_2m: bool,
    /// SSLPS: second-stage pages of 1 GiB.
    pub pages_1g: bool,
    /// CM: what is not present or wrong is cached, too.
    pub caching_mode: bool,
    /// RWBF: write buffers that software must flush.
    pub write_buffers: bool,
    /// PLMR and PHMR.
    pub protected_memory: bool,
    /// ZLR: zero-length reads of write-only pages pass.
    pub zero_length_reads: bool,
    /// PSI, and then MAMV: the largest address mask.
    pub page_selective: Option<u8>,
    /// NFR: how many fault recording registers there are, 1 to 256.
    pub fault_records: u16,
    /// DRD and DWD.
    pub drains: bool,
    /// ESRTPS: setting the root table pointer invalidates everything.
    pub root_invalidates: bool,
    /// ESIRTPS: setting the interrupt table pointer does.
    pub interrupt_table_invalidates: bool,
    /// C: tables are read through the CPUs' caches.
    pub coherent: bool,
    /// QI.
    pub queued_invalidation: bool,
    /// DT.
    pub device_tlbs: bool,
    /// IR.
    pub interrupt_remapping: bool,
    /// EIM: 32-bit APIC ids.
    pub wide_apic_ids: bool,
    /// MHMV: the largest index mask of an interrupt entry cache invalidation.
    pub index_mask: u8,
    /// PT.
    pub pass_through: bool,
    /// SC.
    pub snoop_control: bool,
    /// NWFS.
    pub no_write_flag: bool,
    /// ADMS.
    pub abort_dma: bool,
    /// SSIRWS: permissions by bits 61 and 62.
    pub io_permissions: bool,
    /// SMTS, and what comes with it.
    pub scalable: Option<Scalable>,
    /// Where the book leaves a choice.
    pub policy: Policy,
    /// Every access is traced.
    pub verbose: bool,
}

impl Default for Config {
    /// A server of some years ago: everything, without caching mode, write buffers or protected memory.
    fn default() -> Self {
        Self {
            version: (5, 0),
            domain_bits: 16,
            host_bits: 46,
            guest_bits: 57,
            depths: Depths { three: true, four: true, five: true },
            pages_2m: true,
            pages_1g: true,
            caching_mode: false,
            write_buffers: false,
            protected_memory: false,
            zero_length_reads: true,
            page_selective: Some(18),
            fault_records: 8,
            drains: true,
            root_invalidates: false,
            interrupt_table_invalidates: false,
            coherent: true,
            queued_invalidation: true,
            device_tlbs: true,
            interrupt_remapping: true,
            wide_apic_ids: true,
            index_mask: 15,
            pass_through: true,
            snoop_control: true,
            no_write_flag: true,
            abort_dma: true,
            io_permissions: false,
            scalable: Some(Scalable::full()),
            policy: Policy::stale(),
            verbose: false,
        }
    }
}

impl Config {
    /// The default without scalable mode and what needs it.
    pub fn legacy() -> Self {
        Self { scalable: None, abort_dma: false, ..Self::default() }
    }

    /// Without what the book says cannot be there.
    #[must_use]
    pub fn settled(self) -> Self {
        let queue = self.queued_invalidation;
        let remapping = self.interrupt_remapping && queue;
        let tlbs = self.device_tlbs && queue;
        let scalable = self.scalable.filter(|_| queue).map(|mode| Scalable {
            first_stage_1g: mode.first_stage_1g && mode.first_stage,
            first_stage_5_levels: mode.first_stage_5_levels && mode.first_stage,
            nested: mode.nested && mode.first_stage && mode.second_stage,
            rid_priv: mode.rid_priv && mode.supervisor_requests,
            extended_accessed: mode.extended_accessed && mode.first_stage && mode.coherent_walks,
            second_stage_dirty: mode.second_stage_dirty && mode.coherent_walks,
            page_requests: mode.page_requests && tlbs,
            page_request_drain: mode.page_request_drain && tlbs,
            stop_markers: mode.stop_markers && mode.page_requests && tlbs,
            translated_pasid: mode.translated_pasid && tlbs && mode.pasid_bits.is_some(),
            pasid_bits: mode.pasid_bits.map(|bits| bits.clamp(1, 20)),
            ..mode
        });
        Self {
            host_bits: self.host_bits.clamp(32, 52),
            guest_bits: self.guest_bits.clamp(self.host_bits.clamp(32, 52), 57),
            domain_bits: self.domain_bits.clamp(4, 16) & !1,
            fault_records: self.fault_records.clamp(1, 256),
            pages_1g: self.pages_1g && self.pages_2m,
            write_buffers: self.write_buffers && scalable.is_none(),
            drains: self.drains || self.version.0 >= 2,
            interrupt_remapping: remapping,
            wide_apic_ids: self.wide_apic_ids && remapping,
            index_mask: if remapping { self.index_mask & 0xf } else { 0 },
            device_tlbs: tlbs,
            no_write_flag: self.no_write_flag && tlbs,
            scalable,
            ..self
        }
    }

    /// VER_REG.
    pub fn ver(&self) -> u32 {
        u32::from(self.version.0 & 0xf) << 4 | u32::from(self.version.1 & 0xf)
    }

    /// CAP_REG.
    pub fn cap(&self) -> u64 {
        let scalable = self.scalable;
        let has = |test: fn(&Scalable) -> bool| scalable.as_ref().is_some_and(test);
        let depths = [(self.depths.three, 9), (self.depths.four, 10), (self.depths.five, 11)];
        let flags = [
            (self.write_buffers, 4),
            (self.protected_memory, 5),
            (self.protected_memory, 6),
            (self.caching_mode, 7),
            (self.zero_length_reads, 22),
            (self.pages_2m, 34),
            (self.pages_1g, 35),
            (self.page_selective.is_some(), 39),
            (self.drains, 54),
            (self.drains, 55),
            (has(|mode| mode.first_stage_1g), 56),
            (has(|mode| mode.first_stage_5_levels), 60),
            (self.interrupt_table_invalidates, 62),
            (self.root_invalidates, 63),
        ];
        collect(&depths)
            | collect(&flags)
            | u64::from(self.domain_bits / 2 - 2)
            | u64::from(self.guest_bits - 1) << 16
            | (FAULT_RECORDS / 16) << 24
            | u64::from(self.fault_records - 1) << 40
            | u64::from(self.page_selective.unwrap_or(0) & 0x3f) << 48
    }

    /// ECAP_REG.
    pub fn ecap(&self) -> u64 {
        let flags = [
            (self.coherent, 0),
            (self.queued_invalidation, 1),
            (self.device_tlbs, 2),
            (self.interrupt_remapping, 3),
            (self.wide_apic_ids, 4),
            (self.pass_through, 6),
            (self.snoop_control, 7),
            (self.no_write_flag, 33),
            (self.abort_dma, 52),
            (self.io_permissions, 57),
        ];
        let fixed = collect(&flags) | (IOTLB_REGISTERS / 16) << 8 | u64::from(self.index_mask) << 20;
        let Some(mode) = self.scalable else {
            return fixed;
        };
        let flags = [
            (mode.nested, 26),
            (mode.page_requests, 29),
            (mode.supervisor_requests, 31),
            (mode.extended_accessed, 34),
            (mode.pasid_bits.is_some(), 40),
            (mode.page_request_drain, 42),
            (true, 43),
            (mode.second_stage_dirty, 45),
            (mode.second_stage, 46),
            (mode.first_stage, 47),
            (mode.coherent_walks, 48),
            (mode.rid_pasid, 49),
            (mode.rid_priv, 53),
            (mode.translated_pasid, 56),
            (mode.stop_markers, 58),
        ];
        fixed | collect(&flags) | u64::from(mode.pasid_bits.map_or(0, |bits| bits - 1)) << 35
    }

    /// Bits of an address that are above HAW, down to bit 12: of a pointer, they are reserved.
    pub(crate) fn beyond_host(&self) -> u64 {
        mask(63, u32::from(self.host_bits))
    }

    /// The table or queue that a register points to: bits 63:HAW are not implemented.
    pub(crate) fn base_of(&self, register: u64) -> u64 {
        register & mask(63, 12) & !self.beyond_host()
    }

    /// Whether the scalable mode has something.
    pub(crate) fn scalable_has(&self, test: impl Fn(&Scalable) -> bool) -> bool {
        self.scalable.as_ref().is_some_and(test)
    }

    /// The bits of a domain id that are there.
    pub(crate) fn domain_mask(&self) -> u16 {
        u16::MAX >> (16 - u32::from(self.domain_bits))
    }
}

fn collect(flags: &[(bool, u32)]) -> u64 {
    flags.iter().filter(|(set, _)| *set).fold(0, |word, &(_, n)| word | 1 << n)
}
