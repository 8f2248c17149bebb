//! Windows of every page size and with every number of levels, one after the other: made, used, unmapped, removed.
//!
//! A page as large as the window's is mapped at both ends of each window. The process has no memory in pieces of 16 MiB: a map in windows of such pages is refused,
//! and the page is put into the table by the kernel's own means.

use portcullis::core::iommu::Gather;
use portcullis::core::table_group::{DmaTable, TableEntry, TableGroup};
use portcullis::hal::{BlockLayout, DmaMemory};
use portcullis::types::{Iova, IovaRange, Pa, Perms, SizeLg2};
use std::sync::Arc;

use super::program::{Program, WINDOW_BYTES};
use super::uapi::{Info, Shape};
use super::{Failed, Tries};
use crate::boot::System;
use crate::error::RunError;
use crate::platform::LabPlatform;
use crate::report::SpaprCounters;
use crate::workload::proof::Watch;

/// More levels than these no hardware has.
const TRIED_LEVELS: u32 = 7;

/// Whether there can be such a table: what a walk resolves has fewer than 55 bits, and there are 5 levels at most.
///
/// Observed: Linux 4.20, `pnv_pci_ioda2_table_alloc_pages`.
fn possible(shape: Shape, cpu_page_shift: u32) -> bool {
    let entries = shape.bytes.trailing_zeros() - shape.page_shift;
    let level = (entries.div_ceil(shape.levels) + 3).max(cpu_page_shift);
    shape.levels <= 5 && (level - 3) * shape.levels + shape.page_shift < 55
}

/// All of them.
pub(super) fn all(
    tries: &Tries<'_>,
    system: &System,
    program: &mut Program<'_>,
    watch: &mut Watch<'_>,
    info: Info,
) -> Result<SpaprCounters, RunError> {
    let mut counters = SpaprCounters::default();
    let cpu_page = u32::from(tries.run.job.spec.page.get());
    for page_shift in [12, 16, 24] {
        if info.page_sizes >> page_shift & 1 == 0 {
            return Err(tries.run.wrong(format!("no pages of 2^{page_shift} bytes in {info:?}")));
        }
        let mut was_possible = true;
        for levels in 1..=TRIED_LEVELS {
            let shape = Shape { page_shift, bytes: WINDOW_BYTES, levels };
            let made = program.create(shape).map_err(|failed| trouble(tries, shape, &failed))?;
            match (made, possible(shape, cpu_page)) {
                (Some(start), true) => {
                    one(tries, system, program, watch, shape, start, &mut counters)?;
                    counters.shapes += 1;
                }
                (None, false) => counters.levels_refused += u64::from(was_possible),
                (made, _) => {
                    return Err(tries.run.wrong(format!("a window of {shape:?} is answered {made:?}")));
                }
            }
            was_possible = possible(shape, cpu_page);
        }
    }
    Ok(counters)
}

fn trouble(tries: &Tries<'_>, shape: Shape, failed: &Failed) -> RunError {
    tries.run.wrong(format!("a window of {shape:?}: {failed}"))
}

fn one(
    tries: &Tries<'_>,
    system: &System,
    program: &Program<'_>,
    watch: &mut Watch<'_>,
    shape: Shape,
    start: u64,
    counters: &mut SpaprCounters,
) -> Result<(), RunError> {
    let failed = |failed: Failed| trouble(tries, shape, &failed);
    let page = 1 << shape.page_shift;
    let ends = [start, start + shape.bytes - page];
    let inside = [start, start + shape.bytes - page, start + shape.bytes - 1];
    watch.probe_addresses(system, "an address of an empty window", inside.into_iter());
    if page > 1 << tries.run.job.spec.page.get() {
        let answer = program.map_marked(start, page, 0).map_err(failed)?;
        if !matches!(answer, Err(errno) if [1, 22].contains(&errno.0)) {
            return Err(tries
                .run
                .wrong(format!("mapping small pages as a large one is answered {answer:?}")));
        }
        by_hand(tries, system, shape, &ends)?;
        counters.reached += 2;
    } else {
        for (mark, at) in (1..).zip(ends) {
            let mapped = program.map_marked(at, page, mark).map_err(failed)?;
            mapped.map_err(|errno| failed(errno.on("mapping")))?;
            let to = tries.reaches(tries.source, "a mapped page", at)?;
            let mut found = [0];
            DmaMemory::read(&*system.platform, Pa::new(to), &mut found);
            if found != [mark] {
                return Err(tries
                    .run
                    .wrong(format!("{at:#x} of {shape:?} leads to {to:#x}, which is not the user's")));
            }
            tries.reaches(tries.source, "the last byte of a page", at + page - 1)?;
            counters.reached += 1;
        }
        // Out of the window, with pages mapped: the endpoint freezes, as its user can see and undo.
        let (outside, _) = tries.access(tries.source, start + shape.bytes, portcullis::types::Access::WRITE);
        let state = program.state().map_err(failed)?;
        if outside == model_bus::Outcome::Done || state == 0 {
            return Err(tries
                .run
                .wrong(format!("an access outside of {shape:?}: {outside:?}, state {state}")));
        }
        let (frozen, _) = tries.access(tries.source, start, portcullis::types::Access::READ);
        if frozen == model_bus::Outcome::Done {
            return Err(tries.run.wrong("a frozen endpoint reaches memory".into()));
        }
        watch.note_refused(system, 1, 1);
        program.thaw().map_err(failed)?;
        if program.state().map_err(failed)? != 0 {
            return Err(tries.run.wrong("an endpoint stays frozen".into()));
        }
        tries.reaches(tries.source, "a mapped page, unfrozen", start)?;
        ends.into_iter().try_for_each(|at| program.unmap(at, page)).map_err(failed)?;
    }
    watch.probe_unmapped(system);
    watch.probe_addresses(system, "an address that was unmapped", inside.into_iter());
    program.remove(start).map_err(failed)?;
    watch.probe_addresses(system, "an address of a window that is gone", inside.into_iter());
    Ok(())
}

/// The table of a window that starts at 0.
fn table(tries: &Tries<'_>, system: &System) -> Option<(Arc<dyn TableGroup>, Arc<dyn DmaTable>)> {
    let group = system.units.iter().find_map(|unit| unit.unit.iommu().table_group(tries.source))?;
    let table = group.tables()?.window(0)?;
    Some((group, table))
}

/// Memory of a page's size is put into the table at both ends, reached, and taken out.
fn by_hand(tries: &Tries<'_>, system: &System, shape: Shape, ends: &[u64]) -> Result<(), RunError> {
    let wrong = |what: &str| tries.run.wrong(format!("a window of {shape:?}: {what}"));
    let lg2 = u8::try_from(shape.page_shift).map_err(|_| wrong("no such page"))?;
    let page = SizeLg2::new(lg2).ok_or_else(|| wrong("no such page"))?;
    let layout = BlockLayout::naturally_aligned(lg2);
    let (_, table) = table(tries, system).ok_or_else(|| wrong("there is no table"))?;
    let platform: &LabPlatform = &system.platform;
    let memory = platform.alloc_buffer(layout).ok_or_else(|| wrong("no memory for a page"))?;
    let tried = reach_by_hand(tries, &*table, page, memory, ends);
    platform.free_buffer(memory, layout);
    tried.map_err(|what| wrong(&what))
}

fn reach_by_hand(
    tries: &Tries<'_>,
    table: &dyn DmaTable,
    page: SizeLg2,
    memory: Pa,
    ends: &[u64],
) -> Result<(), String> {
    let set = |new: Option<TableEntry>| {
        let mut gather = Gather::new();
        for &at in ends {
            table.exchange(Iova::new(at), new).map_err(|error| format!("exchanging: {error:?}"))?;
            let range = IovaRange::new(Iova::new(at), page.bytes()).ok_or("no range")?;
            gather.add(range, page, false);
        }
        table.flush(&mut gather).map(drop).map_err(|error| format!("flushing: {error:?}"))
    };
    set(Some(TableEntry { pa: memory, perms: Perms::READ_WRITE, user: 0 }))?;
    let reached = ends.iter().try_for_each(|at| {
        let last = page.bytes() - 1;
        let to = tries.reaches(tries.source, "the last byte of a page", at + last);
        let to = to.map_err(|error| error.to_string())?;
        if to == memory.get() + last { Ok(()) } else { Err(format!("{at:#x} leads to {to:#x}")) }
    });
    set(None).and(reached)
}
