//! Commands: errors, and a queue that wraps.
//!
//! Spec: SMMUv3 H.a, 7.1 "Command queue errors".

use std::sync::Arc;

use portcullis::core::iommu::{GlobalError, Iommu};
use portcullis::types::Perms;

use super::{AT, NOWHERE};
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Outcome, write};
use crate::conformance::hands::{OnRegister, illegal_once};
use crate::conformance::records::number;
use crate::conformance::sight::offset;
use crate::conformance::suite::Case;
use crate::ensure;

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    vec![
        Case::new("an illegal command is told, its sync proves nothing, and the queue goes on", illegal)
            .rude(),
        Case::new("a command queue that cannot be fetched is told", unreadable),
        Case::new("a short command queue wraps again and again", wraps),
        Case::new("without errors there are none to tell", no_errors),
    ]
}

/// CERROR_ILL is 1.
fn illegal<B: Bed>(bench: &Bench<B>) -> Outcome {
    // Whichever command makes hardware forget a whole domain: CMD_TLBI_NH_ASID, or CMD_TLBI_S12_VMALL where stage 2 translates.
    let stage_1 = bench.ids.idr0 >> 1 & 1 == 1;
    let command = if stage_1 { 0x11 } else { 0x28 };
    bench.with_hand(
        Some(illegal_once(command)),
        |_| {},
        |rig| {
            let (domain, page) = (rig.led()?, rig.page()?);
            rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
            rig.passes(write(AT), page)?;
            let failed = rig.flush(&domain);
            ensure!(
                failed.as_ref().is_err_and(|said| said.contains("Failed { code: 1 }")),
                "a flush whose command was refused: {failed:?}"
            );
            let errors = rig.driver.handle_errors();
            let told = errors.iter().any(
                |error| matches!(error, GlobalError::Command { code: 1, words } if words[0] & 0xff == 0xff),
            );
            ensure!(told, "errors: {errors:x?}");
            rig.flush(&domain)?;
            rig.unmap(&domain, AT, rig.granule.bytes())?;
            rig.faults_with(number::F_TRANSLATION, write(AT), page)?;
            let errors = rig.driver.handle_errors();
            ensure!(errors.is_empty(), "told twice: {errors:x?}");
            Ok(())
        },
    )
}

/// CERROR_ABT is 2. A driver that is without a queue gives up, in finite time; the next one finds everything in order.
fn unreadable<B: Bed>(bench: &Bench<B>) -> Outcome {
    let change = |value: u64| value & !0x00ff_ffff_ffff_ffe0 | NOWHERE;
    let nowhere = Arc::new(OnRegister { offset: offset::CMDQ_BASE, change });
    match bench.rig(Some(nowhere), |_| {}) {
        Ok(_) => return Err("a driver was brought up without a command queue".into()),
        Err(said) => {
            ensure!(said.contains("a command queue that works") && said.contains("last: 2"), "said: {said}");
        }
    }
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(AT), page)
    })
}

fn wraps<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(
        |config| config.command_queue_lg2 = 3,
        |rig| {
            let (domain, page) = (rig.led()?, rig.page()?);
            for _ in 0..20 {
                rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
                rig.passes(write(AT), page)?;
                rig.unmap(&domain, AT, rig.granule.bytes())?;
                rig.faults_with(number::F_TRANSLATION, write(AT), page)?;
            }
            Ok(())
        },
    )
}

fn no_errors<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.unmap(&domain, AT, rig.granule.bytes())?;
        rig.refuses(write(AT), page)?;
        let errors = rig.driver.handle_errors();
        ensure!(errors.is_empty(), "errors: {errors:x?}");
        Ok(())
    })
}
