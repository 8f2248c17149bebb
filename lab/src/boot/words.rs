//! Messages that are words of memory: for a machine whose interrupt controller nobody attends to.
//!
//! Each device has a page, which its domain alone maps for it, and in it a word for each event. A message writes the event's number there; whoever looks
//! takes it away. Two messages that come before anybody looked are one, as with every interrupt.
//!
//! Not here: which line is which (`irq`).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::hal::{Barriers, BlockLayout, DmaMemory, TableMemory};
use portcullis::types::Pa;

use crate::platform::LabPlatform;

const PAGE: BlockLayout = BlockLayout::naturally_aligned(12);
const EVENTS: u32 = 512;

/// The pages of a machine's devices.
#[derive(Debug)]
pub(super) struct MemoryWords {
    platform: Arc<LabPlatform>,
    pages: Mutex<BTreeMap<u32, Page>>,
    taken: AtomicU64,
}

#[derive(Debug)]
struct Page {
    at: Pa,
    /// By event: the interrupt's number, which is what the message writes.
    lines: BTreeMap<u32, u32>,
}

impl MemoryWords {
    pub(super) fn new(platform: Arc<LabPlatform>) -> Self {
        Self { platform, pages: Mutex::default(), taken: AtomicU64::new(0) }
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<u32, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many messages were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// `event` of a device means interrupt `number`: where the device is to write, and what.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub(super) fn map(&self, device: u32, event: u32, number: u32) -> Result<(Pa, u32), &'static str> {
        if event >= EVENTS {
            return Err("its page has no word for so many events");
        }
        let mut pages = self.pages();
        let page = match pages.get_mut(&device) {
            Some(page) => page,
            None => {
                let at = self.platform.alloc_buffer(PAGE).ok_or("there is no memory for its messages")?;
                pages.entry(device).or_insert(Page { at, lines: BTreeMap::new() })
            }
        };
        let word = word(page.at, event);
        self.platform.store(word, 0);
        self.platform.write_barrier();
        page.lines.insert(event, number);
        Ok((word, number))
    }

    pub(super) fn discard(&self, device: u32, event: u32) {
        if let Some(page) = self.pages().get_mut(&device) {
            page.lines.remove(&event);
        }
    }

    /// Takes a message that has come.
    pub(super) fn take_pending(&self) -> Option<u32> {
        let pages = self.pages();
        let mut lines = pages.values().flat_map(|page| page.lines.iter().map(|line| (page.at, line)));
        let arrived = lines.find(|(page, (event, number))| {
            let (at, number) = (word(*page, **event), u64::from(**number));
            self.platform.load(at) == number && self.platform.compare_exchange(at, number, 0).is_ok()
        });
        let (_, (_, &number)) = arrived?;
        // What the device wrote before its message is read after it.
        self.platform.read_barrier();
        self.taken.fetch_add(1, Relaxed);
        Some(number)
    }

    /// No device writes there any more: the pages go back.
    pub(super) fn shut_down(&self) {
        let pages = core::mem::take(&mut *self.pages());
        pages.into_values().for_each(|page| self.platform.free_buffer(page.at, PAGE));
    }
}

fn word(page: Pa, event: u32) -> Pa {
    Pa::new(page.get() + 8 * u64::from(event))
}
