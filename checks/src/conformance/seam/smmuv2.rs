//! SMMUv2: what its book calls refusals, and what it promises besides.
//!
//! Spec: SMMUv2 D.c, 3.7 "Context faults", 3.8 "Global faults", 9.6.1 "SMMU_IDR0-7, Identification registers".

use std::sync::Arc;

use portcullis::core::iommu::{Iommu, SyncError};
use portcullis::core::nested::{GuestTable, GuestTables};
use portcullis::hal::Registers;
use portcullis::smmuv2::{Config, Operation, Smmu, Stage};
use portcullis::types::{Gpa, SizeLg2};

use super::cases::AT;
use super::guest::{Dialect, Guest};
use super::suite::{Bench, Case};
use super::{Refusal, Vendor};
use crate::conformance::bed::Bed;
use crate::conformance::bench::Outcome;
use crate::conformance::floor::write;
use crate::conformance::via::{Via, ViaRegisters};
use crate::ensure;

/// The vendor.
pub struct Smmuv2;

/// SMMU_IDR0 and SMMU_IDR2.
const IDR0: usize = 0x20;
const IDR2: usize = 0x28;

impl Vendor for Smmuv2 {
    type Driver<B: Bed> = Smmu<Via<B::Platform>, ViaRegisters<B::Registers>>;
    type Config = Config;
    /// Whether stage 2, and the granule.
    type Setting = (bool, SizeLg2);

    fn settings() -> Vec<(&'static str, Self::Setting)> {
        vec![
            ("stage 1, 4 KiB", (false, SizeLg2::KIB_4)),
            ("stage 1, 16 KiB", (false, SizeLg2::KIB_16)),
            ("stage 1, 64 KiB", (false, SizeLg2::KIB_64)),
            ("stage 2, 4 KiB", (true, SizeLg2::KIB_4)),
            ("stage 2, 16 KiB", (true, SizeLg2::KIB_16)),
            ("stage 2, 64 KiB", (true, SizeLg2::KIB_64)),
        ]
    }

    fn missing<B: Bed>(bed: &B, (stage_2, granule): Self::Setting) -> Option<String> {
        let (idr0, idr2) = (bed.registers().read32(IDR0), bed.registers().read32(IDR2));
        // S1TS, S2TS; PTFSv8_4kB and its kin.
        let (position, stage) =
            if stage_2 { (29, "S2TS is 0: no stage 2") } else { (30, "S1TS is 0: no stage 1") };
        let size = match granule {
            SizeLg2::KIB_16 => 13,
            SizeLg2::KIB_64 => 14,
            _ => 12,
        };
        if idr0 >> position & 1 == 0 {
            return Some(format!("IDR0.{stage}"));
        }
        (idr2 >> size & 1 == 0).then(|| format!("IDR2: no granule of {granule}"))
    }

    fn config<B: Bed>(bed: &B, (stage_2, granule): Self::Setting) -> Config {
        let mut config = Config::new("smmu");
        config.coherent = bed.coherent();
        config.stage = if stage_2 { Stage::Two } else { Stage::One };
        config.granule = Some(granule);
        config.wait_limit_ns = 200_000_000;
        config
    }

    fn probe<B: Bed>(
        via: Arc<Via<B::Platform>>,
        registers: ViaRegisters<B::Registers>,
        config: Config,
    ) -> Result<Arc<Self::Driver<B>>, String> {
        Smmu::probe(via, registers, config).map_err(|error| format!("probe: {error:?}"))
    }

    fn teardown<B: Bed>(driver: &Self::Driver<B>) -> Result<(), SyncError> {
        driver.teardown()
    }

    fn names(_: Self::Setting, refusal: Refusal, _: bool) -> &'static [&'static str] {
        match refusal {
            Refusal::NotMapped | Refusal::TooHigh => &["TF"],
            Refusal::Forbidden => &["PF"],
            // A group that says fault; a stream that no group matches.
            Refusal::Blocked | Refusal::Unknown => &["ICF"],
        }
    }

    fn writes_alone<B: Bed>(_: &B, (stage_2, _): Self::Setting) -> bool {
        stage_2
    }

    fn records<B: Bed>(_: &B) -> usize {
        1
    }

    /// IDR2.UBS and IAS: what the bus does not carry the SMMU does not see.
    fn carries_no_more<B: Bed>(bed: &B, (stage_2, _): Self::Setting) -> Option<String> {
        let idr2 = bed.registers().read32(IDR2);
        let bits = |code: u32, five: u32| match code {
            0..=4 => [32, 36, 40, 42, 44][code as usize],
            5 => five,
            _ => 64,
        };
        let (upstream, intermediate) = (bits(idr2 >> 8 & 0xf, 49), bits(idr2 & 0xf, 48));
        (stage_2 && upstream <= intermediate)
            .then(|| format!("IDR2.UBS: the bus carries {upstream} bits, as many as a table has"))
    }

    fn nests_nothing<B: Bed>(bed: &B, _: Self::Setting) -> Option<String> {
        let idr0 = bed.registers().read32(IDR0);
        (idr0 >> 28 & 1 == 0).then(|| "IDR0.NTS is 0: no stage 1 followed by stage 2".into())
    }

    fn dialects(walks: &GuestTables) -> Vec<Dialect> {
        let Some(vmsa64) = walks.vmsa64 else { return Vec::new() };
        let dialect = |name, granule, levels, says| Dialect {
            name,
            granule,
            levels,
            // A table. A page: AttrIndx 0, AP for unprivileged too, inner shareable, AF, nG; read-only with AP[2].
            // Spec: Arm ARM DDI 0487, D8.3.1 "VMSAv8-64 descriptor formats", D8.4 "Memory access control", D8.5 "Memory region attributes".
            table: |gpa| gpa | 3,
            page: |gpa, writable| gpa | if writable { 0xf43 } else { 0xfc3 },
            says,
        };
        [
            dialect("4 KiB", SizeLg2::KIB_4, 4, |_, root| says(root, SizeLg2::KIB_4, 48)),
            dialect("16 KiB", SizeLg2::KIB_16, 3, |_, root| says(root, SizeLg2::KIB_16, 47)),
            dialect("64 KiB", SizeLg2::KIB_64, 2, |_, root| says(root, SizeLg2::KIB_64, 42)),
        ]
        .into_iter()
        .filter(|dialect| vmsa64.granules.contains(dialect.granule))
        .collect()
    }

    /// Whatever it is that stage 2 does not map.
    fn lying() -> &'static [&'static str] {
        &["TF"]
    }

    fn cases<B: Bed>() -> Vec<Case<B, Self>> {
        vec![
            Case::new("faults that come while one is kept are counted, and the next is kept again", multiple),
            Case::new("a stream that nobody added is told by its own name", stranger),
            Case::new("the words of a guest's bank and of its parent's are the book's", nested_words)
                .unless(|bench| Self::nests_nothing(&*bench.bed, bench.setting)),
        ]
    }
}

/// The whole of the lower half, with memory kind 0 as write-back.
fn says(root: Gpa, granule: SizeLg2, input_bits: u8) -> GuestTable {
    GuestTable::Vmsa64 { root, granule, input_bits, output_bits: 40, mair: 0xff }
}

fn multiple<B: Bed>(bench: &Bench<B, Smmuv2>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        for engine in 0..3 {
            rig.carry(write(AT).by(engine), page)?;
        }
        let records = rig.events();
        rig.tells(&records[..records.len().min(1)], &["TF"], write(AT).by(0))?;
        let lost = rig.driver.counts().of(Operation::LostFaults);
        ensure!(lost == 1 && records.len() == 1, "{lost} losses are counted, and {records:x?}");
        rig.faults(Refusal::NotMapped, write(AT).by(1), page)
    })
}

/// Spec: SMMUv2 D.c, 10.2.1 "SMMU_CBARn, Context Bank Attribute Registers", 10.2.2 "SMMU_CBA2Rn"; 16.5.39 "SMMU_CBn_TCR2", 16.5.40 "SMMU_CBn_TTBRm"; 9.6.1 "SMMU_IDR0-7", IDR1
/// for where they are.
fn nested_words<B: Bed>(bench: &Bench<B, Smmuv2>) -> Outcome {
    bench.with(|rig| {
        for dialect in Smmuv2::dialects(&rig.driver.guest_tables()) {
            let guest = Guest::new(rig, &dialect)?;
            let _nested = guest.nested()?;
            let registers = rig.bed.registers();
            let idr1 = registers.read32(0x24);
            let page = if idr1 >> 31 == 1 { 0x1_0000 } else { 0x1000 };
            let banks_at = page << (1 + (idr1 >> 28 & 7));
            let banks = (idr1 & 0xff) as usize;
            let cbar = |bank: usize| registers.read32(page + 4 * bank);
            let nested: Vec<usize> = (0..banks).filter(|&bank| cbar(bank) >> 16 & 3 == 3).collect();
            let [bank] = nested[..] else { return Err(format!("banks of TYPE 3: {nested:?}")) };
            let word = cbar(bank);
            let cbndx = word >> 8 & 0xff;
            let parent = cbndx as usize;
            // TYPE 0 with the same VMID, which no other bank has.
            let vmid = word & 0xff;
            ensure!(word == 0x0003_0000 | cbndx << 8 | vmid, "SMMU_CBAR{bank} is {word:#x}");
            ensure!(cbar(parent) == vmid, "SMMU_CBAR{bank} is {word:#x}, of the parent {:#x}", cbar(parent));
            for bank in [bank, parent] {
                ensure!(registers.read32(page + 0x800 + 4 * bank) == 1, "VA64 of bank {bank}");
            }
            let at = banks_at + page * bank;
            let ttbr = registers.read64(at + 0x20);
            ensure!(ttbr == (bank as u64) << 48 | guest.root, "TTBR0 is {ttbr:#x}");
            // PASize 40 bits, SEP as upstream; the guest's memory kinds.
            let (tcr2, mair) = (registers.read32(at + 0x10), registers.read32(at + 0x38));
            ensure!((tcr2, mair) == (0x0003_8002, 0xff), "TCR2 {tcr2:#x}, MAIR0 {mair:#x}");
            // T0SZ of TCR.
            let t0sz = registers.read32(at + 0x30) & 0x3f;
            let bits = u32::from(dialect.granule.get() + dialect.levels * (dialect.granule.get() - 3));
            ensure!(t0sz == 64 - bits, "T0SZ is {t0sz}");
        }
        Ok(())
    })
}

/// Spec: SMMUv2 D.c, 9.6.15 "SMMU_sGFSR", USF; with stream indexing, 2.3 "Stream mapping": an index that there is, and a group that was never given one.
fn stranger<B: Bed>(bench: &Bench<B, Smmuv2>) -> Outcome {
    bench.with_config(
        |_| {},
        |rig| {
            let page = rig.page()?;
            rig.faults_as(&["USF", "ICF"], write(page.get()), page)
        },
    )
}
