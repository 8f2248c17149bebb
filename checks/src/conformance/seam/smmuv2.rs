//! SMMUv2: what its book calls refusals, and what it promises besides.
//!
//! Spec: SMMUv2 D.c, 3.7 "Context faults", 3.8 "Global faults", 9.6.1 "SMMU_IDR0-7, Identification registers".

use std::sync::Arc;

use portcullis::core::iommu::SyncError;
use portcullis::hal::Registers;
use portcullis::smmuv2::{Config, Operation, Smmu, Stage};
use portcullis::types::SizeLg2;

use super::cases::AT;
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

    fn cases<B: Bed>() -> Vec<Case<B, Self>> {
        vec![
            Case::new("faults that come while one is kept are counted, and the next is kept again", multiple),
            Case::new("a stream that nobody added is told by its own name", stranger),
        ]
    }
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
