//! What the embedder decides about one SMMU.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_core::sva::CpuFacts;
use portcullis_types::{Pa, SizeLg2, SourceId};

/// What firmware and embedder say about one SMMU. [`Config::new`] is right for most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// A name for people: where firmware says it is.
    pub name: String,
    /// Whether firmware says that the SMMU snoops the CPUs' caches (`dma-coherent`). Coherent accesses are used where the hardware says so
    /// as well.
    pub coherent: bool,
    /// What the hardware can do whatever its registers say.
    pub overrides: Overrides,
    /// Where the SMMU's own interrupts go, if they are MSIs and the hardware can send them.
    pub msi: Option<Msi>,
    /// Which stage translates for domains.
    pub stage: Stage,
    /// The granule of page tables; the smallest that the hardware has if none, and also if it does not have this one.
    pub granule: Option<SizeLg2>,
    /// Bits of a domain's addresses, at most what hardware and granule can do; 48, or what they can do, if none.
    pub input_bits: Option<u8>,
    /// Streams that firmware uses while the machine boots, and that are to pass untranslated until their device is first attached. Everybody else is blocked. An
    /// SMMU that is found on has to be turned off for a moment, in which these are blocked, too: who else would pass then is not known.
    pub boot_streams: Vec<SourceId>,
    /// The shape of the stream table.
    pub stream_table: TableShape,
    /// The shape of tables of context descriptors.
    pub context_table: TableShape,
    /// How many bits of SubstreamID each device gets, at most what the hardware has; 0 for one context descriptor.
    pub substream_bits: u8,
    /// Whether invalidation by range is used where the hardware has it.
    pub range_invalidation: bool,
    /// How the end of a sync is noticed.
    pub completion: Completion,
    /// What the CPUs do with page tables, which processes can then share with devices. Nothing is shared if none.
    pub cpus: Option<CpuFacts>,
    /// Whether the SMMU listens to the CPUs' TLB maintenance where they broadcast it and hardware hears it.
    pub broadcast: bool,
    /// Entries of the command queue, as log2, at most what the hardware can do.
    pub command_queue_lg2: u8,
    /// Entries of the event queue, as log2, at most what the hardware can do.
    pub event_queue_lg2: u8,
    /// Entries of the PRI queue, as log2, at most what the hardware can do. There is one only where processes are shared.
    pub page_request_queue_lg2: u8,
    /// Longest wait for the hardware, in nanoseconds.
    pub wait_limit_ns: u64,
}

/// What firmware knows better than SMMU_IDR0. It only ever adds.
///
/// Spec: Arm DEN0049 E.f, "SMMUv3 node", Flags, COHACC override and HTTU override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Overrides {
    /// COHACC: the SMMU's own accesses are coherent with the CPUs' caches.
    pub coherent: bool,
    /// HTTU of 1 and above: access flags are set by hardware.
    pub access_flag: bool,
    /// HTTU of 2: and dirty state.
    pub dirty_state: bool,
}

impl Config {
    /// Coherent, no MSIs, stage 1 where it is, everything else as the hardware can do it, nothing shared with processes, nobody keeps anything from before; queues of 256
    /// commands, 128 events and 128 page requests; waits of at
    /// most one second.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            coherent: true,
            overrides: Overrides::default(),
            msi: None,
            stage: Stage::Auto,
            granule: None,
            input_bits: None,
            boot_streams: Vec::new(),
            stream_table: TableShape::Auto,
            context_table: TableShape::Auto,
            substream_bits: 0,
            range_invalidation: true,
            cpus: None,
            broadcast: true,
            completion: Completion::Auto,
            command_queue_lg2: 8,
            event_queue_lg2: 7,
            page_request_queue_lg2: 7,
            wait_limit_ns: 1_000_000_000,
        }
    }
}

/// Where the SMMU's own interrupts are written, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// The physical address of the doorbell, a multiple of 4, not 0. The SMMU's own writes are not translated.
    pub doorbell: Pa,
    /// What is written for the event queue.
    pub event_data: u32,
    /// What is written for a global error.
    pub error_data: u32,
    /// What is written for the PRI queue.
    pub page_request_data: u32,
}

/// Which stage translates for domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stage {
    /// Stage 1 if the hardware has it, else stage 2.
    #[default]
    Auto,
    /// Stage 1.
    One,
    /// Stage 2.
    Two,
}

/// The shape of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TableShape {
    /// Two levels where the hardware has them and a linear table would be larger than one second-level table.
    #[default]
    Auto,
    /// One level.
    Linear,
    /// Two levels where the hardware has them.
    TwoLevel,
}

/// How the end of a sync is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Completion {
    /// By an MSI to memory where the hardware can send one coherently, else by polling.
    #[default]
    Auto,
    /// By polling SMMU_CMDQ_CONS.
    Poll,
    /// As `Auto`.
    Msi,
}
