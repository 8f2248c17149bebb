//! What mapping costs: instructions for a page of 4 KiB that is given to the disk and taken back, strictly.
//!
//! QEMU counts when it is told to (`-icount shift=0`): an instruction is a nanosecond of virtual time. A loop of known length says whether it does, and with it
//! what a tick of the clock is worth; where it does not, only time is said.

use portcullis_core::dma::{Direction, DmaHandle};

use super::Buffer;
use crate::cpu;
use crate::disk::Slot;
use crate::error::{Wrong, doing, ensure};
use crate::mmu::PAGE;
use crate::platform::Metal;
use crate::timer;
use crate::uart::println;

const ROUNDS: u64 = 10_000;
const KNOWN: u64 = 10_000_000;

pub(super) fn run(slot: &Slot<'_>) -> Result<(), Wrong> {
    let place = slot.place();
    let dma = place.group.dma(&place.device).ok_or_else(|| Wrong("the disk is not in its group".into()))?;
    let per_thousand = instructions_per_thousand_ticks();
    let page = Buffer::new(PAGE)?;
    // With a neighbour in the last level's table the tables stay: what a busy device has.
    let beside = Buffer::new(PAGE)?;
    let neighbour =
        dma.map_single(beside.first(), PAGE, Direction::FromDevice).map_err(doing("mapping a page"))?;
    let ticks = ticks(slot, &dma, &page)?;
    dma.unmap_single(neighbour).map_err(doing("unmapping a page"))?;
    match per_thousand {
        Some(per_thousand) => println!(
            "figures: map + unmap of 4 KiB, strict: {} instructions, 2 commands",
            ticks * per_thousand / 1000 / ROUNDS
        ),
        None => println!(
            "figures: map + unmap of 4 KiB, strict: {} ns, 2 commands (instructions are not counted)",
            ticks * 1_000_000_000 / timer::frequency_hz() / ROUNDS
        ),
    }
    Ok(())
}

/// How long so many pages take.
fn ticks(slot: &Slot<'_>, dma: &DmaHandle<Metal>, page: &Buffer) -> Result<u64, Wrong> {
    let counts = || slot.system.smmus.iter().map(|smmu| smmu.driver.counts().all_commands()).sum::<u64>();
    map_and_unmap(dma, page, 100)?;
    let (commands, start) = (counts(), timer::ticks());
    map_and_unmap(dma, page, ROUNDS)?;
    let (ticks, commands) = (timer::ticks() - start, counts() - commands);
    ensure!(commands == 2 * ROUNDS, "{commands} commands for {ROUNDS} pages");
    Ok(ticks)
}

fn map_and_unmap(dma: &DmaHandle<Metal>, page: &Buffer, rounds: u64) -> Result<(), Wrong> {
    for _ in 0..rounds {
        let mapping =
            dma.map_single(page.first(), PAGE, Direction::FromDevice).map_err(doing("mapping a page"))?;
        dma.unmap_single(mapping).map_err(doing("unmapping a page"))?;
    }
    Ok(())
}

/// How many instructions a thousand ticks of the clock are, if time is made of instructions: then a loop twice as long takes twice as long, to the tick.
fn instructions_per_thousand_ticks() -> Option<u64> {
    let ticks = |instructions| {
        let start = timer::ticks();
        cpu::count_down(instructions / 2);
        timer::ticks() - start
    };
    // The instructions of an interrupt are not in the loop.
    let mask = cpu::mask_interrupts();
    let (once, twice) = (ticks(KNOWN), ticks(2 * KNOWN));
    cpu::restore_interrupts(mask);
    // Reading the clock, and what of a tick is lost.
    (once.abs_diff(twice - once) <= 8).then(|| KNOWN * 1000 / (twice - once).max(1))
}
