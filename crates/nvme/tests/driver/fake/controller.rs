//! An NVMe controller that does as little as it can, and misbehaves on demand.
//!
//! It works when the CPU waits ([`Controller::step`]): first it fetches everything that was submitted, then it completes it, the
//! latest first. Every access to memory goes through the IOMMU's table of pages.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use portcullis_hal::Registers;
use portcullis_nvme::Interrupt;
use portcullis_types::Perms;

use super::iommu::Domain;
use super::{Machine, Op};

/// MQES 63, TO 1 (half a second), NVM command set, MPSMIN and MPSMAX 0.
const CAP: u64 = 0x0000_0020_0101_003f;
const VECTORS: usize = 4;
pub(crate) const BLOCK: usize = 512;
pub(crate) const BLOCKS: usize = 16 << 10;

/// How it misbehaves, or what it is like.
#[derive(Clone, Default)]
pub(crate) struct Quirks {
    pub(crate) cap: Option<u64>,
    pub(crate) mdts: u8,
    /// `CSTS.RDY` never comes.
    pub(crate) never_ready: bool,
    /// `CSTS.RDY` never goes.
    pub(crate) never_stops: bool,
    /// Turns of the clock that it takes to shut down.
    pub(crate) puts_away_in: u32,
    /// It fails for good instead of doing a command on queue 1.
    pub(crate) fails: bool,
    /// Every register reads as all ones once a command comes on queue 1.
    pub(crate) vanishes: bool,
    /// This vector's messages are lost.
    pub(crate) silent_vector: Option<u16>,
    /// Commands on queue 1 are fetched and never completed.
    pub(crate) drops_io: bool,
    /// It does one I/O command each time it works, and not all that there are.
    pub(crate) slow: bool,
    /// It works as soon as a doorbell rings, and not first when the CPU waits.
    pub(crate) eager: bool,
    /// It refuses this admin opcode.
    pub(crate) refuses_admin: Option<u8>,
    /// It refuses an I/O command that touches this block.
    pub(crate) refuses_block: Option<u64>,
    /// What it falsifies in completions on queue 1.
    pub(crate) mangle: Option<fn(&mut [u32; 4])>,
    /// What it falsifies in identify structures, by CNS.
    pub(crate) identity: Option<fn(u32, &mut [u8])>,
}

/// The controller.
pub(crate) struct Controller {
    machine: Arc<Machine>,
    domain: Arc<Domain>,
    wires: [Wire; VECTORS],
    state: Mutex<State>,
}

/// A vector's signal, as the platform's interrupt code keeps it.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<AtomicBool>);

impl Wire {
    pub(crate) fn raise(&self) {
        self.0.store(true, SeqCst);
    }
}

impl Interrupt for Wire {
    fn take(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

#[derive(Default)]
struct Ring {
    base: u64,
    entries: u16,
    /// Submission: how far it has been fetched. Completion: where the next goes.
    place: u16,
    /// Submission: how far it is filled. Completion: how far it was read.
    limit: u16,
    /// Completion only.
    phase: bool,
    vector: u16,
}

struct Done {
    queue: u16,
    words: [u32; 4],
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) quirks: Quirks,
    registers: BTreeMap<usize, u32>,
    vanished: bool,
    submission: BTreeMap<u16, Ring>,
    completion: BTreeMap<u16, Ring>,
    done: Vec<Done>,
    pub(crate) disk: Vec<u8>,
    /// The I/O commands so far, as they lay in memory.
    pub(crate) commands: Vec<[u32; 16]>,
    pub(crate) most_in_flight: usize,
    /// Accesses that the IOMMU did not let through.
    pub(crate) faults: usize,
    pub(crate) shut_down: bool,
    /// Turns until it is shut down, and until it is ready.
    putting_away: Option<u32>,
    getting_ready: Option<u32>,
    /// It was disabled on its way up: nobody knows what that does.
    pub(crate) undefined: bool,
}

impl State {
    /// A moment has passed.
    fn tick(&mut self) {
        let is_over = |left: &mut Option<u32>| {
            let over = *left == Some(0);
            *left = left.and_then(|turns| turns.checked_sub(1));
            over
        };
        if is_over(&mut self.putting_away) {
            self.shut_down = true;
            self.registers.insert(0x1c, 0b1001);
        }
        if is_over(&mut self.getting_ready) {
            self.registers.insert(0x1c, 1);
        }
    }
}

impl Controller {
    pub(crate) fn new(machine: Arc<Machine>, domain: Arc<Domain>, quirks: Quirks) -> Self {
        let disk = (0..BLOCK * BLOCKS).map(|at| (at / 5 % 251) as u8).collect();
        let state = Mutex::new(State { quirks, disk, ..State::default() });
        Self { machine, domain, wires: Default::default(), state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn wire(&self, vector: u16) -> Wire {
        self.wires[usize::from(vector)].clone()
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.state().registers.get(&0x14).is_some_and(|cc| cc & 1 == 1)
    }

    /// As firmware may leave it: enabled and ready.
    pub(crate) fn leave_enabled(&self) {
        let mut state = self.state();
        state.registers.insert(0x14, 0x0046_0001);
        state.registers.insert(0x1c, 1);
    }

    /// As firmware may leave it: enabled, and ready so many turns later.
    pub(crate) fn leave_enabling(&self, turns: u32) {
        let mut state = self.state();
        state.registers.insert(0x14, 0x0046_0001);
        state.getting_ready = Some(turns);
    }

    /// Works.
    pub(crate) fn step(&self) {
        let mut state = self.state();
        state.tick();
        let queues: Vec<u16> = state.submission.keys().copied().collect();
        queues.into_iter().for_each(|queue| self.fetch(&mut state, queue));
        let in_flight = state.done.iter().filter(|done| done.queue != 0).count();
        state.most_in_flight = state.most_in_flight.max(in_flight);
        while let Some(done) = state.done.pop() {
            self.complete(&mut state, done);
        }
    }

    fn fetch(&self, state: &mut State, queue: u16) {
        while let Some(ring) = state.submission.get_mut(&queue).filter(|ring| ring.place != ring.limit) {
            let at = ring.base + 64 * u64::from(ring.place);
            ring.place = (ring.place + 1) % ring.entries;
            let mut bytes = [0; 64];
            if !self.copy(state, at, &mut bytes, None) {
                return;
            }
            let words =
                core::array::from_fn(|at| u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap()));
            self.execute(state, queue, &words);
            if state.quirks.slow && queue != 0 {
                return;
            }
        }
    }

    fn execute(&self, state: &mut State, queue: u16, words: &[u32; 16]) {
        let status = if queue == 0 { self.admin(state, words) } else { self.io(state, words) };
        let Some(status) = status else { return };
        // The head is filled in when the completion is posted.
        let third = u32::from(queue) << 16;
        state.done.push(Done { queue, words: [0, 0, third, status << 17 | words[0] >> 16] });
    }

    fn admin(&self, state: &mut State, words: &[u32; 16]) -> Option<u32> {
        let opcode = (words[0] & 0xff) as u8;
        if state.quirks.refuses_admin == Some(opcode) {
            return Some(0x02);
        }
        let base = u64::from(words[7]) << 32 | u64::from(words[6]);
        let (id, entries) = ((words[10] & 0xffff) as u16, (words[10] >> 16) as u16 + 1);
        match opcode {
            0x00 => {
                state.submission.remove(&id);
            }
            0x01 => {
                state.submission.insert(id, Ring { base, entries, ..Ring::default() });
            }
            0x04 => {
                state.completion.remove(&id);
            }
            0x05 => {
                let vector = (words[11] >> 16) as u16;
                state.completion.insert(id, Ring { base, entries, phase: true, vector, ..Ring::default() });
            }
            0x06 => {
                let mut page = identity(words[10], state.quirks.mdts);
                state.quirks.identity.inspect(|falsify| falsify(words[10], &mut page));
                self.copy(state, base, &mut page, Some(()));
            }
            0x09 => {}
            _ => return Some(0x01),
        }
        Some(0)
    }

    fn io(&self, state: &mut State, words: &[u32; 16]) -> Option<u32> {
        state.commands.push(*words);
        if state.quirks.vanishes {
            state.vanished = true;
            return None;
        }
        if state.quirks.fails {
            state.registers.insert(0x1c, 0b11);
            return None;
        }
        if state.quirks.drops_io {
            return None;
        }
        let opcode = words[0] & 0xff;
        if opcode == 0 {
            return Some(0);
        }
        let lba = u64::from(words[11]) << 32 | u64::from(words[10]);
        let count = u64::from(words[12] & 0xffff) + 1;
        if lba + count > BLOCKS as u64 {
            return Some(0x80);
        }
        if state.quirks.refuses_block.is_some_and(|block| (lba..lba + count).contains(&block)) {
            return Some(0x4281);
        }
        let (first, len_bytes) = (lba as usize * BLOCK, count as usize * BLOCK);
        let Some(pieces) = self.pieces(state, words, len_bytes) else { return Some(0x04) };
        let mut at = first;
        for (address, len_bytes) in pieces {
            let mut bytes = state.disk[at..at + len_bytes].to_vec();
            let reads_disk = opcode == 2;
            if !self.copy(state, address, &mut bytes, reads_disk.then_some(())) {
                return Some(0x04);
            }
            state.disk[at..at + len_bytes].copy_from_slice(&bytes);
            at += len_bytes;
        }
        Some(0)
    }

    /// Where the data is, from the PRPs.
    fn pieces(&self, state: &mut State, words: &[u32; 16], mut left: usize) -> Option<Vec<(u64, usize)>> {
        let prp = |at: usize| u64::from(words[at + 1]) << 32 | u64::from(words[at]);
        let mut pieces = Vec::new();
        let mut add = |address: u64, left: &mut usize| {
            let len_bytes = (*left).min(4096 - (address % 4096) as usize);
            *left -= len_bytes;
            pieces.push((address, len_bytes));
        };
        add(prp(6), &mut left);
        let mut at = prp(8);
        if left > 0 && left <= 4096 {
            add(at, &mut left);
        }
        while left > 0 {
            let mut entry = [0; 8];
            if !self.copy(state, at, &mut entry, None) {
                return None;
            }
            let entry = u64::from_le_bytes(entry);
            let last_in_page = at % 4096 == 4088;
            if last_in_page && left > 4096 {
                at = entry;
            } else {
                assert!(entry.is_multiple_of(4096), "a PRP list entry begins a page: {entry:#x}");
                add(entry, &mut left);
                at += 8;
            }
        }
        Some(pieces)
    }

    /// Reads memory into `bytes`, or writes it from them. Answers whether the IOMMU let all of it through.
    fn copy(&self, state: &mut State, iova: u64, bytes: &mut [u8], write: Option<()>) -> bool {
        let mut at = iova;
        for piece in bytes.chunks_mut(64) {
            let wanted = if write.is_some() { Perms::WRITE } else { Perms::READ };
            let Some(pa) = self.domain.translate(at, wanted) else {
                state.faults += 1;
                return false;
            };
            match write {
                Some(()) => self.machine.device_write(pa, piece),
                None => self.machine.device_read(pa, piece),
            }
            at += piece.len() as u64;
        }
        true
    }

    fn complete(&self, state: &mut State, done: Done) {
        let head = state.submission.get(&done.queue).map_or(0, |ring| ring.place);
        let mut words = done.words;
        words[2] |= u32::from(head);
        let Some(ring) = state.completion.get_mut(&done.queue) else { return };
        words[3] |= u32::from(ring.phase) << 16;
        let (at, vector) = (ring.base + 16 * u64::from(ring.place), ring.vector);
        ring.place = (ring.place + 1) % ring.entries;
        ring.phase ^= ring.place == 0;
        assert_ne!(ring.place, ring.limit, "the completion queue overflows");
        if done.queue != 0 {
            state.quirks.mangle.inspect(|mangle| mangle(&mut words));
        }
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.copy(state, at, &mut bytes, Some(()));
        if state.quirks.silent_vector != Some(vector) {
            self.wires[usize::from(vector)].raise();
        }
    }

    fn configure(&self, state: &mut State, value: u32) {
        let was = state.registers.insert(0x14, value).unwrap_or(0);
        let mut status = 0;
        match (was & 1, value & 1) {
            (0, 1) => {
                status = u32::from(!state.quirks.never_ready);
                let word = |state: &State, at| state.registers.get(&at).copied().unwrap_or(0);
                let base = |at| u64::from(word(state, at + 4)) << 32 | u64::from(word(state, at));
                let entries = |shift: u32| (word(state, 0x24) >> shift & 0xfff) as u16 + 1;
                let sq = Ring { base: base(0x28), entries: entries(0), ..Ring::default() };
                let cq = Ring { base: base(0x30), entries: entries(16), phase: true, ..Ring::default() };
                state.submission.insert(0, sq);
                state.completion.insert(0, cq);
            }
            (1, 1) if value >> 14 & 3 != 0 => {
                state.putting_away = Some(state.quirks.puts_away_in);
                status = 0b0101;
            }
            (1, 1) => return,
            _ => {
                state.submission.clear();
                state.completion.clear();
                state.done.clear();
                let on_its_way = state.registers.get(&0x1c).is_none_or(|csts| csts & 0b11 == 0);
                state.undefined |= was & 1 == 1 && on_its_way;
                (state.putting_away, state.getting_ready) = (None, None);
                status |= u32::from(state.quirks.never_stops && was & 1 == 1);
            }
        }
        state.registers.insert(0x1c, status);
        state.tick();
    }

    fn doorbell(&self, state: &mut State, offset: usize, value: u32) {
        let (queue, is_completion) = (((offset - 0x1000) / 8) as u16, offset % 8 == 4);
        let rings = if is_completion { &mut state.completion } else { &mut state.submission };
        let ring = rings.get_mut(&queue).expect("a doorbell of a queue that exists");
        assert!(value < u32::from(ring.entries), "a doorbell within the queue");
        ring.limit = value as u16;
    }
}

impl Registers for Controller {
    fn read32(&self, offset: usize) -> u32 {
        let state = self.state();
        if state.vanished {
            return u32::MAX;
        }
        state.registers.get(&offset).copied().unwrap_or(0)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.machine.log(Op::Register(offset));
        let mut state = self.state();
        match offset {
            _ if state.vanished => {}
            0x14 => self.configure(&mut state, value),
            0x1000.. => {
                self.doorbell(&mut state, offset, value);
                let eager = state.quirks.eager;
                drop(state);
                if eager {
                    self.step();
                }
            }
            _ => {
                state.registers.insert(offset, value);
            }
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        let state = self.state();
        if state.vanished {
            return u64::MAX;
        }
        assert_eq!(offset, 0, "only CAP is read so");
        state.quirks.cap.unwrap_or(CAP)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

fn identity(cns: u32, mdts: u8) -> Vec<u8> {
    let mut page = vec![0; 4096];
    match cns {
        1 => {
            page[4..72].fill(b' ');
            page[24..28].copy_from_slice(b"Fake");
            page[77] = mdts;
            (page[512], page[513], page[516]) = (0x66, 0x44, 1);
        }
        _ => {
            page[0..8].copy_from_slice(&(BLOCKS as u64).to_le_bytes());
            page[130] = 9;
        }
    }
    page
}
