//! What a run has to show.

use core::time::Duration;

use serde::Serialize;

/// The result of a verified run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The machine's name.
    pub machine: String,
    /// The workload's name.
    pub workload: &'static str,
    /// The seed that decided what the models were free to decide.
    pub seed: u64,
    /// The input: a path, or what the built-in sample is.
    pub input: String,
    /// How many bytes the input has.
    pub bytes: u64,
    /// SHA-256 of the input as the host reads it, in hexadecimal.
    pub digest: String,
    /// Whether what came through the IOMMU has the same digest. A run whose digests differ is no report but an error; false only if the process
    /// that was to read it was killed, as it was to be.
    pub equal: bool,
    /// What it took.
    pub counters: Counters,
    /// How long the work took on this computer.
    pub elapsed_ns: u64,
    /// What the hardware behind this run cannot show, and the models can; nothing for models.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_shown: Vec<&'static str>,
}

impl Report {
    /// How long the work took on this computer.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_ns)
    }
}

/// What a run took, counted by those who did it: core, driver, and models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Bytes that the device wrote to memory through the IOMMU. Counted by the device's port, which QEMU's has not: 0 there.
    pub device_wrote_bytes: u64,
    /// Bytes that the device read from memory through the IOMMU. Counted by the device's port.
    pub device_read_bytes: u64,
    /// Mappings made by the DMA API.
    pub maps: u64,
    /// Mappings taken away by the DMA API.
    pub unmaps: u64,
    /// Commands that the SMMU consumed. Counted by the model; on QEMU, commands that the driver gave.
    pub commands: u64,
    /// Of these, invalidations of translations or configuration.
    pub invalidations: u64,
    /// Of these, syncs.
    pub syncs: u64,
    /// Interrupts that arrived as MSIs through the IOMMU. Counted by the ITS; on QEMU, when they were taken from memory.
    pub interrupts: u64,
    /// Faults that nobody asked for.
    pub faults: u64,
    /// Accesses to unmapped addresses that were tried on purpose.
    pub probes: u64,
    /// Of these, those that the IOMMU blocked and reported. A run in which one was let through is no report but an error.
    pub probes_blocked: u64,
    /// How often a register was read or written: of IOMMUs, devices, and configuration space.
    pub register_accesses: u64,
    /// The most memory that page tables, queues and stream tables took at one time, in bytes.
    pub table_bytes: u64,
    /// How much memory of this computer the machine's memory took, in bytes: what was touched of it. 0 on QEMU, where nobody counts.
    pub memory_bytes: u64,
    /// What sharing a process's memory took; none for work without a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sva: Option<SvaCounters>,
    /// What handing a device to user space took; none for work without that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfio: Option<VfioCounters>,
    /// What a user did who makes his own windows; none for work without that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spapr: Option<SpaprCounters>,
}

/// What a user did who makes his own windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SpaprCounters {
    /// The version of his container.
    pub version: u32,
    /// How often the input was read, each time through windows of another shape.
    pub reads: u64,
    /// The pages of these windows: their sizes, as bits.
    pub read_page_sizes: u64,
    /// Windows that he made.
    pub windows: u64,
    /// Of these, tables of different page sizes and numbers of levels.
    pub shapes: u64,
    /// Windows with one level too many that were tried, all of them refused.
    pub levels_refused: u64,
    /// Pages that were reached through windows by being tried.
    pub reached: u64,
    /// Groups that shared the windows at one time.
    pub groups: u64,
    /// Resets by which he recovered an endpoint that was stopped.
    pub resets: u64,
    /// Entries and endpoints that the bridge was told to forget. Counted by the model.
    pub kills: u64,
    /// Freezes of endpoints by accesses that were tried and must not be. Counted by the model.
    pub freezes: u64,
}

/// What handing a device to user space took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VfioCounters {
    /// The group that was handed over.
    pub group: u32,
    /// System calls of the user's driver.
    pub calls: u64,
    /// Of these, ioctls.
    pub ioctls: u64,
    /// Mappings that the user made.
    pub maps: u64,
    /// Mappings that the user took away, or that went with the container.
    pub unmaps: u64,
    /// The most pages that were pinned at one time.
    pub most_pinned_pages: u64,
    /// Bytes of the input that the disk wrote to the user's memory. Counted by the disk's port.
    pub user_bytes: u64,
    /// Signals that the user's event files got.
    pub signals: u64,
    /// Whether the user had the registers mapped, rather than reaching them through the device's file.
    pub mapped_registers: bool,
    /// Claims and drivers that were tried while somebody else had the group, all of them refused.
    pub claims_refused: u64,
    /// Mappings that were tried and must not be, all of them refused.
    pub maps_refused: u64,
    /// Whether the user's process was killed in the middle.
    pub killed: bool,
}

/// What sharing a process's memory took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SvaCounters {
    /// Which accelerator: `pcie`, `platform`.
    pub device: &'static str,
    /// Whether the process killed itself in the middle.
    pub killed: bool,
    /// The process's PASID.
    pub pasid: u32,
    /// Bytes that the device read from the process's memory, with the PASID. Counted by the device's port.
    pub pasid_read_bytes: u64,
    /// Bytes that the device wrote to the process's memory, with the PASID. Counted by the device's port.
    pub pasid_wrote_bytes: u64,
    /// How many of those are the job's output.
    pub output_bytes: u64,
    /// Requests for pages, stalls included, that reached the fault queue.
    pub page_requests: u64,
    /// Groups of them that were answered with success.
    pub responses_success: u64,
    /// Groups of them that were answered as invalid.
    pub responses_invalid: u64,
    /// Groups of them that were answered with failure.
    pub responses_failure: u64,
    /// Accesses that the device made again after an answer.
    pub retries: u64,
    /// Accesses that were held back. Counted by the model of the SMMU; what was tried on purpose is among them.
    pub stalls: u64,
    /// Commands that made the TLB forget.
    pub tlb_invalidations: u64,
    /// Commands that made devices' own TLBs forget.
    pub atc_invalidations: u64,
}
