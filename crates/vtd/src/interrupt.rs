//! Interrupt remapping: devices write to an address that names an entry of a table, and the entry says which interrupt that is, and who may send it.
//!
//! Whoever owns a device's interrupts allocates a block of entries ([`InterruptRemapping::allocate`]), says what each is ([`InterruptRemapping::set`]), and gives the device the
//! [`InterruptMessage`] of each. Requests of the compatibility format, which name no entry, are blocked.
//!
//! # Order
//!
//! The word with the requester is written before the one with the present bit. An entry that is present changes by one store where only vector, destination
//! and mode change; if the requester changes it is not present in between. After every change of a present entry the interrupt entry cache forgets it, which
//! also waits for interrupts that are under way. If hardware does not confirm that, it may go by what the entry was: the next change is made when it does confirm. Entries that were given
//! back without its word are nobody's until it is asked again: when errors are handled, and when no others are left.
//!
//! Spec: VT-d 5.10, 5.1 "Interrupt Remapping", 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts", 6.7 "Set Interrupt Remapping Table Pointer
//! Operation".
//! Not here: posted interrupts; turning remapping on (`reset`).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{BlockLayout, Lock, Platform, Registers};
use portcullis_spec::vtd::interrupt::*;
use portcullis_types::{Pa, SourceId, mutant};

use crate::config::InterruptConfig;
use crate::descriptor::Descriptor;
use crate::hardware::Hardware;

/// The table, and who has which entries.
pub struct InterruptRemapping<P: Platform, R> {
    hardware: Arc<Hardware<P, R>>,
    config: InterruptConfig,
    table: Pa,
    /// Empty once the table is not there any more.
    entries: Lock<P, Vec<Use>>,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Nobody has it.
    Free,
    /// Somebody does.
    Taken,
    /// Somebody does, and hardware may go by what it was before.
    Doubted,
    /// Nobody has it any more, and hardware may go by what it was.
    Left,
}

impl<P: Platform, R> fmt::Debug for InterruptRemapping<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptRemapping").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Entries that belong together: the interrupts of one MSI capability, or one entry.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "entries that are dropped are lost: free them"]
pub struct InterruptBlock {
    first: u16,
    count_lg2: u8,
}

impl InterruptBlock {
    /// The index of the first entry: the handle.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// How many entries.
    pub fn count(&self) -> u16 {
        1 << self.count_lg2
    }
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The vector.
    pub vector: u8,
    /// To whom.
    pub destination: Destination,
    /// Whether it is level-triggered.
    pub level: bool,
    /// Who may send it.
    pub requester: Requester,
}

/// To whom an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the CPU with this APIC-ID.
    Physical(u32),
    /// To one of the CPUs that a logical destination names.
    Logical(u32),
}

/// Who may use an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// This source alone.
    Source(SourceId),
    /// This source, and those that differ from it in so many bits of the function, counted from the highest (1 to 3): phantom functions.
    Functions(SourceId, u8),
    /// Whoever is on these buses: what is behind a bridge that puts its own name on requests.
    Buses {
        /// The first bus.
        first: u8,
        /// The last.
        last: u8,
    },
}

/// What a device writes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// Why an entry is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterruptError {
    /// Not a power of two, or more than the table has. EINVAL.
    BadCount(u16),
    /// No entries in a row are free. ENOSPC.
    NoEntries,
    /// The block has no such entry. EINVAL.
    BadIndex(u16),
    /// No entry can say this destination. EINVAL.
    BadDestination(u32),
    /// No entry can say this requester. EINVAL.
    BadRequester(Requester),
    /// The hardware did not confirm: the entry may be used as it was. EIO.
    Sync(SyncError),
}

/// The unit was turned off.
const OFF: InterruptError =
    InterruptError::Sync(SyncError::Timeout { waiting_for: "a unit that is on", last: 0 });

impl<P: Platform, R: Registers> InterruptRemapping<P, R> {
    /// An empty table, not yet told to the hardware. None if there is no memory.
    pub(crate) fn new(hardware: Arc<Hardware<P, R>>, config: InterruptConfig) -> Option<Self> {
        let table = hardware.platform.alloc(layout(config))?;
        if !hardware.features.coherent {
            hardware.platform.clean_table(table, layout(config).size_bytes());
        }
        hardware.platform.write_barrier();
        let entries = Lock::<P, _>::new(vec![Use::Free; 1 << config.entries_lg2]);
        Some(Self { hardware, config, table, entries })
    }

    /// What IRTA_REG is told.
    pub(crate) fn address_register(&self) -> u64 {
        let register = InterruptTableAddress::new().with_s(self.config.entries_lg2 - 1);
        register.with_eime(self.config.x2apic).with_irta_address(self.table.get()).into_bits()
    }

    /// Gives the table back. The hardware has been turned off: interrupts are no longer remapped, and what is said of them afterwards touches nothing.
    pub(crate) fn free(&self) {
        let entries = core::mem::take(&mut *self.entries.lock());
        if !entries.is_empty() {
            self.hardware.platform.free(self.table, layout(self.config));
        }
    }

    /// Whether destinations have 32 bits.
    pub fn x2apic(&self) -> bool {
        self.config.x2apic
    }

    /// Takes `count` entries in a row, a power of two, on a multiple of it; none of them is present. Waits for hardware only where there are none but those that it had not confirmed to have
    /// forgotten when they were given back.
    ///
    /// # Errors
    ///
    /// As [`InterruptError`] says.
    pub fn allocate(&self, count: u16) -> Result<InterruptBlock, InterruptError> {
        let mut entries = self.entries.lock();
        if entries.is_empty() {
            return Err(OFF);
        }
        if !count.is_power_of_two() || usize::from(count) > entries.len() {
            return Err(InterruptError::BadCount(count));
        }
        let free = |entries: &[Use]| {
            entries.chunks(count.into()).position(|run| run.iter().all(|entry| *entry == Use::Free))
        };
        let run = free(&entries).or_else(|| {
            self.forget_left(&mut entries);
            free(&entries)
        });
        let first = run.ok_or(InterruptError::NoEntries)? * usize::from(count);
        entries[first..first + usize::from(count)].fill(Use::Taken);
        #[expect(clippy::cast_possible_truncation, reason = "tables have at most 65536 entries")]
        let (first, count_lg2) = (first as u16, count.ilog2() as u8);
        Ok(InterruptBlock { first, count_lg2 })
    }

    /// Says what entry `index` of a block is. On return hardware does it, and no longer what it was before.
    ///
    /// # Errors
    ///
    /// As [`InterruptError`] says.
    pub fn set(
        &self,
        block: &InterruptBlock,
        index: u16,
        interrupt: &Interrupt,
    ) -> Result<(), InterruptError> {
        let words = self.words(interrupt)?;
        let (entry, at) = self.entry(block, index)?;
        let mut entries = self.entries.lock();
        let use_of = entries.get_mut(usize::from(entry)).ok_or(OFF)?;
        let platform = &self.hardware.platform;
        let before = [platform.load(at), platform.load(Pa::new(at.get() + 8))];
        let present = IrteWord0::from_bits(before[0]).p();
        let doubted = core::mem::replace(use_of, Use::Doubted) == Use::Doubted;
        let apart = doubted || present && before[1] != words[1];
        if apart && !mutant!("vtd-interrupt-changes-hands-while-present") {
            self.hardware.store_word(at, 0);
            self.forget(entry, 0)?;
        }
        self.hardware.store_entry(at, &words);
        if present && !apart {
            self.forget(entry, 0)?;
        } else {
            self.hardware.show(&[Descriptor::interrupts(entry, 0)]).map_err(InterruptError::Sync)?;
        }
        *use_of = Use::Taken;
        Ok(())
    }

    /// Makes entry `index` of a block mean nothing: whoever uses it is blocked.
    ///
    /// # Errors
    ///
    /// As [`InterruptError`] says.
    pub fn clear(&self, block: &InterruptBlock, index: u16) -> Result<(), InterruptError> {
        let (entry, at) = self.entry(block, index)?;
        let mut entries = self.entries.lock();
        let Some(use_of) = entries.get_mut(usize::from(entry)) else { return Ok(()) };
        *use_of = Use::Doubted;
        self.hardware.store_word(at, 0);
        self.forget(entry, 0)?;
        *use_of = Use::Taken;
        Ok(())
    }

    /// Gives entries back. On return none of their interrupts comes any more.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm; the entries are not given out again before it has.
    pub fn free_block(&self, block: InterruptBlock) -> Result<(), InterruptError> {
        let mut entries = self.entries.lock();
        if entries.is_empty() {
            return Ok(());
        }
        for index in 0..block.count() {
            self.hardware.store_word(self.at(block.first + index), 0);
        }
        let count_lg2 = if mutant!("vtd-interrupts-of-a-block-remembered") { 0 } else { block.count_lg2 };
        let forgotten = match self.forget(block.first, count_lg2) {
            Err(_) if mutant!("vtd-interrupts-free-though-not-forgotten") => Ok(()),
            forgotten => forgotten,
        };
        let use_of = if forgotten.is_ok() { Use::Free } else { Use::Left };
        entries[usize::from(block.first)..][..usize::from(block.count())].fill(use_of);
        forgotten
    }

    /// Asks again of entries that were given back without the hardware's word.
    pub(crate) fn settle(&self) {
        self.forget_left(&mut self.entries.lock());
    }

    /// Which are free once hardware has forgotten them.
    fn forget_left(&self, entries: &mut [Use]) {
        if entries.contains(&Use::Left) && self.hardware.run(&[Descriptor::interrupts_all()]).is_ok() {
            entries.iter_mut().filter(|entry| **entry == Use::Left).for_each(|entry| *entry = Use::Free);
        }
    }

    /// What a device is to write for entry `index` of a block.
    ///
    /// A device with one address and several data words adds the index to the data (MSI): all messages of a block of several have one address.
    ///
    /// Spec: VT-d 5.10, 5.1.2.2 "Interrupt Requests in Remappable Format", SHV.
    pub fn message(&self, block: &InterruptBlock, index: u16) -> InterruptMessage {
        let several = block.count_lg2 > 0;
        let address = RemappableAddress::new().with_handle(block.first).with_shv(several);
        InterruptMessage { address: address.into_bits().into(), data: if several { index.into() } else { 0 } }
    }

    fn at(&self, entry: u16) -> Pa {
        Pa::new(self.table.get() + IRTE_BYTES * u64::from(entry))
    }

    fn entry(&self, block: &InterruptBlock, index: u16) -> Result<(u16, Pa), InterruptError> {
        if index >= block.count() {
            return Err(InterruptError::BadIndex(index));
        }
        let entry = block.first + index;
        Ok((entry, self.at(entry)))
    }

    fn forget(&self, first: u16, count_lg2: u8) -> Result<(), InterruptError> {
        if mutant!("vtd-interrupt-changed-and-not-forgotten") {
            return Ok(());
        }
        // Spec: VT-d 5.10, 11.4.3 "Extended Capability Register", MHMV: the largest mask.
        let sayable = count_lg2 <= self.hardware.features.extended.mhmv();
        let descriptor =
            if sayable { Descriptor::interrupts(first, count_lg2) } else { Descriptor::interrupts_all() };
        self.hardware.run(&[descriptor]).map_err(InterruptError::Sync)
    }

    fn words(&self, interrupt: &Interrupt) -> Result<[u64; 2], InterruptError> {
        let (id, logical) = match interrupt.destination {
            Destination::Physical(id) => (id, false),
            Destination::Logical(id) => (id, true),
        };
        let destination = match (self.config.x2apic, id) {
            (true, id) => id,
            (false, 0..=0xff) => id << 8,
            (false, id) => return Err(InterruptError::BadDestination(id)),
        };
        let word0 = IrteWord0::new()
            .with_p(true)
            .with_dm(logical)
            .with_rh(logical)
            .with_tm(interrupt.level)
            .with_dlm(DELIVERY_FIXED)
            .with_vector(interrupt.vector)
            .with_destination(destination);
        let bad = InterruptError::BadRequester(interrupt.requester);
        let sid = |source: SourceId| u16::try_from(source.0).map_err(|_| bad);
        let word1 = match interrupt.requester {
            Requester::Source(source) => requester(sid(source)?, SQ_ALL),
            Requester::Functions(source, bits @ 1..=3) => requester(sid(source)?, bits),
            Requester::Buses { first, last } if first <= last => {
                IrteWord1::new().with_svt(SVT_BUSES).with_sid(u16::from(first) << 8 | u16::from(last))
            }
            Requester::Functions(..) | Requester::Buses { .. } => return Err(bad),
        };
        Ok([word0.into_bits(), word1.into_bits()])
    }
}

/// SQ is how many bits of the function do not count, from bit 2 down.
fn requester(sid: u16, sq: u8) -> IrteWord1 {
    let svt = if mutant!("vtd-interrupts-from-anybody") { SVT_NONE } else { SVT_REQUESTER };
    IrteWord1::new().with_svt(svt).with_sid(sid).with_sq(sq)
}

fn layout(config: InterruptConfig) -> BlockLayout {
    BlockLayout::naturally_aligned(config.entries_lg2 + 4)
}
