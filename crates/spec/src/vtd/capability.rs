//! What a remapping unit says it can do.
//!
//! Spec: VT-d 5.10, 11.4.1 "Version Register", 11.4.2 "Capability Register", 11.4.3 "Extended Capability Register".

use bitfield_struct::bitfield;

/// VER_REG.
///
/// Spec: VT-d 5.10, 11.4.1 "Version Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Version {
    /// MIN: the minor version.
    #[bits(4)]
    pub min: u8,
    /// MAX: the major version.
    #[bits(4)]
    pub max: u8,
    #[bits(24)]
    __: u32,
}

/// CAP_REG.
///
/// Spec: VT-d 5.10, 11.4.2 "Capability Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND: domain-ids have `4 + 2 * nd` bits; 7 is reserved.
    #[bits(3)]
    pub nd: u8,
    __: bool,
    /// RWBF: the write buffer must be flushed before a change is seen.
    pub rwbf: bool,
    /// PLMR: there is a protected low-memory region.
    pub plmr: bool,
    /// PHMR: there is a protected high-memory region.
    pub phmr: bool,
    /// CM: caching mode, entries that are not present may be cached.
    pub cm: bool,
    /// SAGAW: bit n says that second-stage tables may have the width that AW value n stands for.
    #[bits(5)]
    pub sagaw: u8,
    #[bits(3)]
    __: u8,
    /// MGAW: guest addresses have at most `mgaw + 1` bits.
    #[bits(6)]
    pub mgaw: u8,
    /// ZLR: reads of no bytes are let through to write-only pages.
    pub zlr: bool,
    __: bool,
    /// FRO: fault records begin at `16 * fro`.
    #[bits(10)]
    pub fro: u16,
    /// SSLPS: bit 0 second-stage leaves of 2 MiB, bit 1 of 1 GiB.
    #[bits(4)]
    pub sslps: u8,
    __: bool,
    /// PSI: page-selective invalidation of the IOTLB.
    pub psi: bool,
    /// NFR: there are `nfr + 1` fault records.
    pub nfr: u8,
    /// MAMV: the largest address mask of a second-stage invalidation.
    #[bits(6)]
    pub mamv: u8,
    /// DWD: writes can be drained.
    pub dwd: bool,
    /// DRD: reads can be drained.
    pub drd: bool,
    /// FS1GP: first-stage leaves of 1 GiB.
    pub fs1gp: bool,
    #[bits(2)]
    __: u8,
    /// PI: posted interrupts.
    pub pi: bool,
    /// FS5LP: first-stage tables of 5 levels.
    pub fs5lp: bool,
    /// ECMDS: enhanced commands.
    pub ecmds: bool,
    /// ESIRTPS: setting the interrupt remapping table pointer invalidates the interrupt entry cache.
    pub esirtps: bool,
    /// ESRTPS: setting the root table pointer invalidates all translation caches.
    pub esrtps: bool,
}

impl Capability {
    /// How many bits a domain-id has; none for the reserved value of ND.
    pub const fn domain_id_bits(self) -> Option<u8> {
        match self.nd() {
            nd @ 0..=6 => Some(4 + 2 * nd),
            _ => None,
        }
    }

    /// How many bits a guest address may have, by MGAW alone.
    pub const fn guest_address_bits(self) -> u8 {
        self.mgaw() + 1
    }

    /// Where the first fault record is, in bytes from the unit's base.
    pub const fn fault_record_offset(self) -> usize {
        self.fro() as usize * 16
    }

    /// How many fault records there are.
    pub const fn fault_records(self) -> usize {
        self.nfr() as usize + 1
    }
}

/// ECAP_REG.
///
/// Spec: VT-d 5.10, 11.4.3 "Extended Capability Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedCapability {
    /// C: the unit's accesses to its tables, and to second-stage tables of legacy mode, are coherent.
    pub c: bool,
    /// QI: queued invalidation.
    pub qi: bool,
    /// DT: device TLBs.
    pub dt: bool,
    /// IR: interrupt remapping.
    pub ir: bool,
    /// EIM: 32-bit APIC-IDs.
    pub eim: bool,
    __: bool,
    /// PT: pass-through.
    pub pt: bool,
    /// SC: snoop control.
    pub sc: bool,
    /// IRO: the IOTLB registers begin at `16 * iro`.
    #[bits(10)]
    pub iro: u16,
    #[bits(2)]
    __: u8,
    /// MHMV: the largest index mask of an interrupt entry cache invalidation.
    #[bits(4)]
    pub mhmv: u8,
    __: bool,
    /// MTS: memory types in tables count.
    pub mts: bool,
    /// NEST: nested translation.
    pub nest: bool,
    #[bits(2)]
    __: u8,
    /// PRS: page requests.
    pub prs: bool,
    /// ERS: execute requests; planned to go.
    pub ers: bool,
    /// SRS: supervisor requests.
    pub srs: bool,
    __: bool,
    /// NWFS: the No Write flag of translation requests counts.
    pub nwfs: bool,
    /// EAFS: the extended accessed flag.
    pub eafs: bool,
    /// PSS: PASIDs have `pss + 1` bits.
    #[bits(5)]
    pub pss: u8,
    /// PASID: requests with a PASID.
    pub pasid: bool,
    /// DIT: invalidations of device TLBs are throttled.
    pub dit: bool,
    /// PDS: a wait descriptor can drain page requests.
    pub pds: bool,
    /// SMTS: scalable mode.
    pub smts: bool,
    /// VCS: virtual commands.
    pub vcs: bool,
    /// SSADS: accessed and dirty flags in second-stage tables.
    pub ssads: bool,
    /// SSTS: second-stage translation in scalable mode.
    pub ssts: bool,
    /// FSTS: first-stage translation.
    pub fsts: bool,
    /// SMPWCS: walks in scalable mode can be coherent.
    pub smpwcs: bool,
    /// RPS: the PASID of requests without one can be chosen.
    pub rps: bool,
    /// TDXCS: TDX Connect.
    pub tdxcs: bool,
    /// PMS: performance monitoring.
    pub pms: bool,
    /// ADMS: abort-dma mode.
    pub adms: bool,
    /// RPRIVS: the privilege of requests without PASID can be chosen.
    pub rprivs: bool,
    __: bool,
    /// HPTS: host permission tables.
    pub hpts: bool,
    /// PTRS: PASIDs in translated requests.
    pub ptrs: bool,
    /// SSIRWS: I/O read and I/O write bits in second-stage tables.
    pub ssirws: bool,
    /// SMS: stop marker messages.
    pub sms: bool,
    /// HPT1GPS: host permission tables with pages of 1 GiB.
    pub hpt1gps: bool,
    /// RDTS: RMID and CLOS can be configured.
    pub rdts: bool,
    /// EIMER: only extended interrupt mode works.
    pub eimer: bool,
    /// IRREQ: without interrupt remapping, requests are blocked.
    pub irreq: bool,
    __: bool,
}

impl ExtendedCapability {
    /// Where the IOTLB registers are, in bytes from the unit's base.
    pub const fn iotlb_offset(self) -> usize {
        self.iro() as usize * 16
    }

    /// How many bits a PASID has.
    pub const fn pasid_bits(self) -> u8 {
        self.pss() + 1
    }
}
