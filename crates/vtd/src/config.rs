//! What the embedder decides about one remapping unit.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_core::sva::CpuFacts;
use portcullis_types::{IovaRange, SourceId};

/// What firmware and embedder say about one unit. [`Config::new`] is right for most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// A name for people: where firmware says it is.
    pub name: String,
    /// Bits of a host address: what ACPI's DMAR says, 32 to 52.
    pub host_address_bits: u8,
    /// Which tables lead to domains.
    pub mode: Mode,
    /// Bits of a domain's addresses, 30 or more, at most what the hardware can do; 48, or what it can do, if none.
    pub input_bits: Option<u8>,
    /// Whether invalidations may name pages, where hardware has that; otherwise whole domains are forgotten.
    pub page_selective: bool,
    /// Memory that firmware goes on using (RMRR): mapped 1:1 for its sources before translation is turned on.
    pub boot_regions: Vec<BootRegion>,
    /// How interrupts are remapped; not at all if none, or if hardware cannot.
    pub interrupts: Option<InterruptConfig>,
    /// Where the unit's own interrupts are written; none if it is polled. They are never remapped.
    pub msi: Option<Msi>,
    /// What the CPUs do with page tables, which processes can then share with devices. Nothing is shared if none.
    pub cpus: Option<CpuFacts>,
    /// Whether a domain in which guests' tables are nested may map pages for reading alone.
    ///
    /// Erratum: Intel 772415, Sapphire Rapids and others: with nested translation, writes go through to pages that the second stage lets be read only. Set it to false there;
    /// such a map is refused then.
    ///
    /// Observed: Linux 6.12, ERRATA_772415_SPR17.
    pub read_only_parents: bool,
    /// Entries of the invalidation queue, as log2: 7 to 14. One page holds 128, or 256 of the short ones.
    pub queue_lg2: u8,
    /// Entries of the page request queue, as log2: 7 to 14. There is one only where processes are shared.
    pub page_request_queue_lg2: u8,
    /// Longest wait for the hardware, in nanoseconds.
    pub wait_limit_ns: u64,
}

impl Config {
    /// 48 bits of host address, scalable mode where it is, no reserved memory, interrupts not remapped, no MSIs, nothing shared with processes, no errata; queues of
    /// 256 descriptors and 128 page requests; waits of at most one second.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            host_address_bits: 48,
            mode: Mode::Auto,
            input_bits: None,
            page_selective: true,
            boot_regions: Vec::new(),
            interrupts: None,
            msi: None,
            cpus: None,
            read_only_parents: true,
            queue_lg2: 8,
            page_request_queue_lg2: 7,
            wait_limit_ns: 1_000_000_000,
        }
    }
}

/// Which tables lead to domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Scalable mode where hardware has it, else legacy mode.
    #[default]
    Auto,
    /// Legacy mode: context tables, second stage, no PASIDs.
    Legacy,
    /// Scalable mode: PASID tables. Probe fails where hardware does not have it.
    Scalable,
}

/// Memory that firmware goes on using by DMA of some sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRegion {
    /// Where, in multiples of 4 KiB.
    pub range: IovaRange,
    /// Whose.
    pub sources: Vec<SourceId>,
    /// Whether it is no longer needed once a driver has the device: USB and graphics.
    pub relaxable: bool,
}

/// How interrupts are remapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptConfig {
    /// Entries of the table, as log2: 8 to 16.
    pub entries_lg2: u8,
    /// Whether destinations have 32 bits, as x2APIC has them. Probe fails where hardware does not have it.
    pub x2apic: bool,
}

/// Where the unit's own interrupts are written, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// The address, a multiple of 4.
    pub address: u64,
    /// What is written for a fault, and for an error of the invalidation queue: 16 bits.
    pub fault_data: u32,
    /// What is written for page requests: 16 bits.
    pub page_request_data: u32,
}
