//! Interrupts as messages: MSI and MSI-X.
//!
//! A [`Messages`] sends the message of a vector, or keeps it pending while the vector is masked. The device that owns it calls
//! [`Messages::flush`] in its step, so that a message unmasked by a register write is never sent from inside that write.
//!
//! Spec: PCIe 6.0, 6.1.4 "Message Signaled Interrupt (MSI/MSI-X) Support"; 7.7.1 "MSI Capability Structures"; 7.7.2
//! "MSI-X Capability and Table Structure".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Unpredictable, Width};
use portcullis_types::Iova;
use portcullis_types::trace::Sink;

use super::config::{ConfigBuilder, ConfigSpace};
use super::requester::{RequestError, Requester};
use super::strict::{Strict, clause};

const ENTRY_BYTES: u64 = 16;
const ENTRY_MASKED: u32 = 1;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
const MSI_ENABLE: u16 = 1;
const MSI_64_BIT: u16 = 1 << 7;
const MSI_MASKABLE: u16 = 1 << 8;

/// How many vectors a function has, and where the MSI-X table and pending bits lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLayout {
    /// MSI-X vectors, 1 to 2048.
    pub vectors: u16,
    /// The BAR that holds table and pending bits.
    pub bar: u8,
    /// Where the table begins in the BAR, a multiple of 8.
    pub table: u32,
    /// Where the pending bits begin, a multiple of 8.
    pub pending: u32,
    /// MSI vectors as a power of two, 0 to 5; none for a function without MSI.
    pub msi_vectors_lg2: Option<u8>,
}

/// A function's interrupts.
#[derive(Debug)]
pub struct Messages {
    config: Arc<ConfigSpace>,
    places: Places,
    state: Mutex<State>,
    strict: Strict,
}

/// Where the capabilities lie.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    msix: usize,
    msi: Option<usize>,
}

#[derive(Debug)]
struct State {
    /// Address, upper address, data and control of each vector, as in the table.
    table: Vec<[u32; 4]>,
    pending: Vec<bool>,
    lost: u64,
    /// MSI and MSI-X were both enabled when last looked at.
    both: bool,
}

/// What became of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// The message is on its way.
    Sent,
    /// The vector is masked: the message waits.
    Pending,
    /// Neither MSI nor MSI-X is enabled. Interrupt pins are not modelled.
    Disabled,
    /// The message did not arrive.
    Lost(RequestError),
}

impl MessageLayout {
    /// Lays the capabilities out.
    ///
    /// # Panics
    ///
    /// If a number is beyond what its field can hold.
    pub fn lay_out(self, config: &mut ConfigBuilder) -> Places {
        assert!((1..=2048).contains(&self.vectors) && (self.table | self.pending) & 7 == 0 && self.bar < 6);
        let msi = self.msi_vectors_lg2.map(|lg2| {
            assert!(lg2 <= 5);
            let at = config.capability(0x05, 24);
            config.set16(at + 2, MSI_64_BIT | MSI_MASKABLE | u16::from(lg2) << 1).allow16(at + 2, 0x0071);
            config.allow32(at + 4, !3).allow32(at + 8, u32::MAX).allow16(at + 12, 0xffff);
            let vectors = u32::MAX >> (32 - (1 << lg2));
            config.allow32(at + 16, vectors);
            at
        });
        let msix = config.capability(0x11, 12);
        config.set16(msix + 2, self.vectors - 1).allow16(msix + 2, MSIX_ENABLE | MSIX_FUNCTION_MASK);
        config.set32(msix + 4, self.table | u32::from(self.bar));
        config.set32(msix + 8, self.pending | u32::from(self.bar));
        Places { msix, msi }
    }

    /// How many bytes the table takes.
    pub fn table_bytes(self) -> u64 {
        ENTRY_BYTES * u64::from(self.vectors)
    }

    /// How many bytes the pending bits take.
    pub fn pending_bytes(self) -> u64 {
        8 * u64::from(self.vectors).div_ceil(64)
    }
}

impl Messages {
    /// The interrupts of the function with this configuration space.
    pub fn new(config: Arc<ConfigSpace>, layout: MessageLayout, places: Places, sink: Arc<dyn Sink>) -> Self {
        let messages = Self {
            config,
            places,
            state: Mutex::new(State {
                table: vec![[0; 4]; usize::from(layout.vectors)],
                pending: vec![false; usize::from(layout.vectors)],
                lost: 0,
                both: false,
            }),
            strict: Strict::new(sink),
        };
        messages.reset();
        messages
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every vector masked, nothing pending.
    pub fn reset(&self) {
        let mut state = self.state();
        state.table.fill([0, 0, 0, ENTRY_MASKED]);
        state.pending.fill(false);
        state.both = false;
    }

    /// Looks at what software has just written.
    pub fn config_written(&self) {
        let both = self.msix_enabled() && self.places.msi.is_some_and(|at| self.msi_enabled(at));
        let before = core::mem::replace(&mut self.state().both, both);
        if both && !before {
            self.strict.record(clause::BOTH_MESSAGES, format!("MSI-X control {:#x}", self.control()));
        }
    }

    /// Everything software did against the book since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.strict.take()
    }

    /// How many vectors there are.
    pub fn vector_count(&self) -> usize {
        self.state().table.len()
    }

    /// How many messages did not arrive.
    pub fn lost(&self) -> u64 {
        self.state().lost
    }

    /// Message Control of MSI-X.
    fn control(&self) -> u16 {
        self.config.read16(self.places.msix + 2)
    }

    /// Whether software has chosen MSI-X.
    pub fn msix_enabled(&self) -> bool {
        self.control() & MSIX_ENABLE != 0
    }

    /// Whether software has chosen MSI, whose capability lies at `at`.
    fn msi_enabled(&self, at: usize) -> bool {
        self.config.read16(at + 2) & MSI_ENABLE != 0
    }

    /// Interrupts, by `vector`. A vector that there is not is the first one.
    pub fn raise(&self, vector: u16, requester: &Requester) -> Raised {
        if self.msix_enabled() {
            return self.raise_msix(usize::from(vector), requester);
        }
        match self.places.msi {
            Some(at) if self.msi_enabled(at) => self.raise_msi(at, vector, requester),
            _ => Raised::Disabled,
        }
    }

    /// Sends what is pending and not masked any more. Answers whether there was anything.
    pub fn flush(&self, requester: &Requester) -> bool {
        let waiting: Vec<usize> = {
            let state = self.state();
            (0..state.pending.len()).filter(|&vector| state.pending[vector]).collect()
        };
        let mut sent = false;
        for vector in waiting {
            sent |= matches!(self.raise(vector as u16, requester), Raised::Sent | Raised::Lost(_));
        }
        sent
    }

    fn raise_msix(&self, vector: usize, requester: &Requester) -> Raised {
        let function_masked = self.control() & MSIX_FUNCTION_MASK != 0;
        let mut state = self.state();
        let vector = if vector < state.table.len() { vector } else { 0 };
        let [low, high, data, control] = state.table[vector];
        let masked = function_masked || control & ENTRY_MASKED != 0;
        state.pending[vector] = masked;
        drop(state);
        if masked {
            return Raised::Pending;
        }
        self.send(requester, u64::from(low & !3) | u64::from(high) << 32, data)
    }

    fn raise_msi(&self, at: usize, vector: u16, requester: &Requester) -> Raised {
        let control = self.config.read16(at + 2);
        // What is enabled beyond what there is, is not there. 6 and 7 are reserved.
        let enabled_lg2 = (control >> 4 & 7).min(control >> 1 & 7);
        let vector = if u32::from(vector) < 1 << enabled_lg2 { vector } else { 0 };
        let masked = self.config.read32(at + 16) & 1 << vector != 0;
        let bit = 1u16 << (vector % 16);
        let pending = at + 20 + 2 * usize::from(vector / 16);
        self.config.update16(pending, |bits| if masked { bits | bit } else { bits & !bit });
        let mut state = self.state();
        if let Some(place) = state.pending.get_mut(usize::from(vector)) {
            *place = masked;
        }
        drop(state);
        if masked {
            return Raised::Pending;
        }
        let address = u64::from(self.config.read32(at + 4)) | u64::from(self.config.read32(at + 8)) << 32;
        let low = (1u16 << enabled_lg2) - 1;
        let data = self.config.read16(at + 12) & !low | vector;
        self.send(requester, address, u32::from(data))
    }

    fn send(&self, requester: &Requester, address: u64, data: u32) -> Raised {
        match requester.message(Iova::new(address), data) {
            Ok(()) => Raised::Sent,
            Err(error) => {
                self.state().lost += 1;
                Raised::Lost(error)
            }
        }
    }

    /// Software reads the table, `offset` bytes into it.
    pub fn read_table(&self, offset: u64, width: Width) -> u64 {
        let state = self.state();
        let dword = |at: u64| {
            let entry = state.table.get((at / ENTRY_BYTES) as usize);
            entry.map_or(0, |entry| u64::from(entry[(at % ENTRY_BYTES / 4) as usize]))
        };
        match width {
            Width::Bits64 => dword(offset) | dword(offset + 4) << 32,
            Width::Bits32 => dword(offset),
            Width::Bits16 | Width::Bits8 => {
                self.in_parts("read", offset);
                0
            }
        }
    }

    fn in_parts(&self, what: &str, offset: u64) {
        self.strict.record(clause::VECTOR_IN_PARTS, format!("{what} at {offset:#x} in the table"));
    }

    /// Software writes the table, `offset` bytes into it. Only accesses of 32 and 64 bits are defined; others do nothing.
    pub fn write_table(&self, offset: u64, width: Width, value: u64) {
        let open = self.control() & (MSIX_ENABLE | MSIX_FUNCTION_MASK) == MSIX_ENABLE;
        let mut state = self.state();
        let mut store = |at: u64, value: u32| {
            if let Some(entry) = state.table.get_mut((at / ENTRY_BYTES) as usize) {
                let field = (at % ENTRY_BYTES / 4) as usize;
                if open && field != 3 && entry[3] & ENTRY_MASKED == 0 && entry[field] != value {
                    self.strict.record(clause::LIVE_VECTOR, format!("{at:#x} in the table = {value:#x}"));
                }
                entry[field] = if field == 3 { value & ENTRY_MASKED } else { value };
            }
        };
        match width {
            Width::Bits64 => {
                store(offset, value as u32);
                store(offset + 4, (value >> 32) as u32);
            }
            Width::Bits32 => store(offset, value as u32),
            Width::Bits16 | Width::Bits8 => self.in_parts("write", offset),
        }
    }

    /// Software reads the pending bits, `offset` bytes into them. They cannot be written.
    pub fn read_pending(&self, offset: u64, width: Width) -> u64 {
        let state = self.state();
        let first = 8 * offset as usize;
        let bits = (0..8 * width.bytes() as usize)
            .filter(|bit| state.pending.get(first + bit).is_some_and(|&pending| pending));
        bits.fold(0, |word, bit| word | 1 << bit)
    }
}
