//! How processes' tables look: Arm's stage 1, or the paging structures of x86-64.
//!
//! Both are formats of `pgtable`, and a [`Form`] is one of them. What belongs to a table besides its entries goes with it: the registers of the CPUs that walk it,
//! and what devices are told ([`ProcessTable`]).
//!
//! | | Arm | x86 |
//! |---|---|---|
//! | pages | 4, 16 or 64 KiB | 4 KiB |
//! | bits of a process's addresses | as TCR says | 47, or 56: the lower half |
//! | tag of what CPUs remember | ASID | PCID |
//! | marks | where CPUs or an SMMU set them | always |
//!
//! Leaves are pages, in either.
//!
//! Spec: Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging"; 12.12.4 "Programming the PAT".
//! Not here: the CPUs (`cores`).

use model_cpu::{Context, x86};
use portcullis::core::mm::ProcessTable;
use portcullis::pgtable::arm::{Config, HardwareUpdate, MAIR, Stage1, ttbr};
use portcullis::pgtable::vtd::{FirstConfig, FirstStage};
use portcullis::pgtable::{BreakBeforeMake, Format, Geometry, Item, Marks};
use portcullis::types::{Pa, PageSizes, Prot, SizeLg2};

use super::cores::{CoreContext, Cores};
use super::kernel::{KernelError, KernelOptions};

/// IA32_PAT after reset, which this kernel leaves as it is: what PCD and PWT of `pgtable`'s entries count in.
const PAT: u64 = 0x0007_0406_0007_0406;

/// How processes' tables look.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// VMSAv8-64 stage 1.
    Arm(Stage1),
    /// x86-64.
    X86(FirstStage),
}

impl Form {
    /// What these CPUs walk. What of the options is not to be chosen there says afterwards what it is.
    pub(super) fn of(cpus: &Cores, options: &mut KernelOptions) -> Result<Self, KernelError> {
        match cpus {
            Cores::Arm(_) => Self::arm(options),
            Cores::X86(_) => {
                options.hardware_update = HardwareUpdate::AccessAndDirty;
                options.wide_asids = false;
                Self::x86(options)
            }
        }
    }

    fn arm(options: &KernelOptions) -> Result<Self, KernelError> {
        let config = Config {
            input_bits: options.input_bits,
            output_bits: options.output_bits,
            large: options.large_descriptors,
            hardware_update: options.hardware_update,
            break_before_make: BreakBeforeMake::Always,
            page_sizes: PageSizes::default().with(options.granule),
            ..Config::new(options.granule)
        };
        Stage1::new(config).map(Self::Arm).map_err(KernelError::Table)
    }

    fn x86(options: &KernelOptions) -> Result<Self, KernelError> {
        let levels = match options.input_bits {
            47 => 4,
            56 => 5,
            bits => return Err(KernelError::NoSuchX86Table { granule: options.granule, input_bits: bits }),
        };
        if options.granule != SizeLg2::KIB_4 {
            let KernelOptions { granule, input_bits, .. } = *options;
            return Err(KernelError::NoSuchX86Table { granule, input_bits });
        }
        let config = FirstConfig {
            output_bits: options.output_bits,
            page_sizes: PageSizes::default().with(options.granule),
            ..FirstConfig::new(levels)
        };
        FirstStage::new(config).map(Self::X86).map_err(KernelError::X86Table)
    }

    /// What core is told of a table with this root.
    pub(super) fn process_table(&self, options: &KernelOptions, root: Pa) -> ProcessTable {
        match self {
            Self::Arm(_) => ProcessTable::Vmsa64 {
                root,
                granule: options.granule,
                input_bits: options.input_bits,
                output_bits: options.output_bits,
                large_descriptors: options.large_descriptors,
                mair: MAIR,
            },
            Self::X86(form) => {
                let &FirstConfig { levels, output_bits, .. } = form.config();
                ProcessTable::X86 { root, levels, output_bits, pat: PAT }
            }
        }
    }

    /// The registers for a table with this root, under a tag. `able`: which marks the CPUs set.
    pub(super) fn context(
        &self,
        options: &KernelOptions,
        able: HardwareUpdate,
        root: Pa,
        tag: u16,
    ) -> CoreContext {
        match self {
            Self::Arm(form) => {
                let ttbr0 = ttbr(root, form.wide()) | u64::from(tag) << 48;
                let tcr = form.tcr(able) | u64::from(options.wide_asids) << 36;
                CoreContext::Arm(Context { ttbr0, tcr, mair: MAIR })
            }
            Self::X86(form) => CoreContext::X86(x86::Context::new(root, tag, form.config().levels)),
        }
    }
}

/// Says what the format that it is says.
macro_rules! either {
    ($self:ident, $form:ident => $what:expr) => {
        match $self {
            Form::Arm($form) => $what,
            Form::X86($form) => $what,
        }
    };
}

impl Format for Form {
    fn geometry(&self) -> &Geometry {
        either!(self, form => form.geometry())
    }

    fn page_sizes(&self) -> PageSizes {
        either!(self, form => form.page_sizes())
    }

    fn break_before_make(&self) -> BreakBeforeMake {
        either!(self, form => form.break_before_make())
    }

    fn coherent(&self) -> bool {
        either!(self, form => form.coherent())
    }

    fn output_bits(&self) -> u8 {
        either!(self, form => form.output_bits())
    }

    fn decode(&self, word: u64, height: u8) -> Item {
        either!(self, form => form.decode(word, height))
    }

    fn attributes(&self, prot: Prot) -> Option<u64> {
        either!(self, form => form.attributes(prot))
    }

    fn prot(&self, word: u64) -> Prot {
        either!(self, form => form.prot(word))
    }

    fn leaf(&self, height: u8, pa: Pa, attributes: u64) -> u64 {
        either!(self, form => form.leaf(height, pa, attributes))
    }

    fn table(&self, pa: Pa) -> u64 {
        either!(self, form => form.table(pa))
    }

    fn marks(&self, word: u64) -> Marks {
        either!(self, form => form.marks(word))
    }

    fn with_marks(&self, word: u64, marks: Marks) -> u64 {
        either!(self, form => form.with_marks(word, marks))
    }

    fn contiguous_bit(&self) -> u64 {
        either!(self, form => form.contiguous_bit())
    }

    fn contiguous_lg2(&self, height: u8) -> u8 {
        either!(self, form => form.contiguous_lg2(height))
    }

    fn counting_bits(&self) -> u8 {
        either!(self, form => form.counting_bits())
    }
}
