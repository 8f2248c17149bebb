//! An NVMe driver for user space: admin queues, one pair of I/O queues, reads.
//!
//! Whether a command is done it learns from its interrupt alone: nothing is looked at in a completion queue before its event file was signalled.
//!
//! Spec: NVMe Base 2.0, 3.1.3 "Controller Properties", 3.3.3 "Queue entries", 5 "Admin Command Set"; NVM Command Set 1.0, 3.2.4 "Read command".

use super::sys::{Failed, Sys};

/// The smallest page that a controller knows, which is what queues and lists are cut into here.
pub(in crate::workload) const PAGE: u64 = 4096;

const CAP: u64 = 0x00;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

const ENTRIES: u16 = 16;
const COMMAND_LIMIT_NS: u64 = 2_000_000_000;
const LOOK_AGAIN_NS: u64 = 10_000;

/// Memory that the device reaches: where the program has it, and where the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workload) struct Shared {
    pub(in crate::workload) va: u64,
    pub(in crate::workload) iova: u64,
}

impl Shared {
    pub(in crate::workload) const fn page(self, number: u64) -> Self {
        Self { va: self.va + number * PAGE, iova: self.iova + number * PAGE }
    }
}

/// Pages of the memory for queues and lists.
mod page {
    pub(super) const ADMIN_SUBMISSION: u64 = 0;
    pub(super) const ADMIN_COMPLETION: u64 = 1;
    pub(super) const IO_SUBMISSION: u64 = 2;
    pub(super) const IO_COMPLETION: u64 = 3;
    pub(super) const IDENTIFY: u64 = 4;
    /// One for each command in flight.
    pub(super) const LISTS: u64 = 8;
}

/// How much memory queues and lists take: a multiple of every page size of a kernel.
pub(in crate::workload) const CONTROL_BYTES: u64 = 0x1_0000;
/// How many commands may be in flight.
pub(in crate::workload) const IN_FLIGHT: usize = 8;

/// How registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workload) enum Registers {
    /// They are mapped here.
    Mapped(u64),
    /// Through the device's file, from this offset on.
    File { fd: u64, offset: u64 },
}

impl Registers {
    fn read32(self, sys: &Sys<'_>, at: u64) -> Result<u32, Failed> {
        match self {
            Self::Mapped(va) => sys.load32(va + at),
            Self::File { fd, offset } => {
                let mut bytes = [0; 4];
                sys.read_file(fd, offset + at, &mut bytes)?;
                Ok(u32::from_le_bytes(bytes))
            }
        }
    }

    fn write32(self, sys: &Sys<'_>, at: u64, value: u32) -> Result<(), Failed> {
        // What was stored before is there before the device is told.
        sys.barrier();
        match self {
            Self::Mapped(va) => sys.store32(va + at, value),
            Self::File { fd, offset } => sys.write_file(fd, offset + at, &value.to_le_bytes()),
        }
    }

    fn write64(self, sys: &Sys<'_>, at: u64, value: u64) -> Result<(), Failed> {
        self.write32(sys, at, low(value))?;
        self.write32(sys, at + 4, low(value >> 32))
    }
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0)
}

/// A pair of queues.
#[derive(Debug)]
struct Queue {
    id: u16,
    submission: Shared,
    completion: Shared,
    event: u64,
    tail: u16,
    head: u16,
    phase: bool,
    next_id: u16,
    /// An interrupt has come, and not all that it may have told of has been looked at.
    told: bool,
}

/// A controller that is at work.
#[derive(Debug)]
pub(in crate::workload) struct Controller {
    registers: Registers,
    stride: u64,
    limit_ns: u64,
    control: Shared,
    coherent: bool,
    admin: Queue,
    io: Queue,
    /// A block in bytes.
    pub(in crate::workload) block_bytes: u64,
    /// How many reads were submitted.
    pub(in crate::workload) commands: u64,
    /// How often its event files were signalled.
    pub(in crate::workload) signals: u64,
}

/// A command, without its id: opcode, namespace, two addresses, dwords 10 to 12.
struct Command(u8, u32, [u64; 2], [u32; 3]);

impl Controller {
    /// Resets the controller and brings it up with its queues in `control`; `events` are signalled by vectors 0 and 1.
    pub(in crate::workload) fn start(
        sys: &Sys<'_>,
        registers: Registers,
        control: Shared,
        coherent: bool,
        events: [u64; 2],
    ) -> Result<Self, Failed> {
        let cap = u64::from(registers.read32(sys, CAP)?) | u64::from(registers.read32(sys, CAP + 4)?) << 32;
        if cap == u64::MAX || cap >> 48 & 0xf != 0 || cap >> 37 & 1 == 0 {
            return Err(Failed(format!("the controller cannot be driven: CAP is {cap:#x}")));
        }
        let queue = |id, submission, completion, event| Queue {
            id,
            submission: control.page(submission),
            completion: control.page(completion),
            event,
            tail: 0,
            head: 0,
            phase: true,
            next_id: 0,
            told: false,
        };
        let mut controller = Self {
            registers,
            stride: 4 << (cap >> 32 & 0xf),
            limit_ns: (cap >> 24 & 0xff).max(1) * 500_000_000,
            control,
            coherent,
            admin: queue(0, page::ADMIN_SUBMISSION, page::ADMIN_COMPLETION, events[0]),
            io: queue(1, page::IO_SUBMISSION, page::IO_COMPLETION, events[1]),
            block_bytes: 0,
            commands: 0,
            signals: 0,
        };
        controller.enable(sys)?;
        controller.identify(sys)?;
        controller.create_queues(sys)?;
        Ok(controller)
    }

    fn enable(&self, sys: &Sys<'_>) -> Result<(), Failed> {
        self.registers.write32(sys, CC, 0)?;
        self.wait_ready(sys, false)?;
        self.give(sys, self.control.va, CONTROL_BYTES)?;
        let last = u32::from(ENTRIES - 1);
        self.registers.write32(sys, AQA, last << 16 | last)?;
        self.registers.write64(sys, ASQ, self.admin.submission.iova)?;
        self.registers.write64(sys, ACQ, self.admin.completion.iova)?;
        // Entries of 64 and 16 bytes, pages of 4 KiB.
        self.registers.write32(sys, CC, 4 << 20 | 6 << 16 | 1)?;
        self.wait_ready(sys, true)
    }

    /// There is no interrupt for this.
    fn wait_ready(&self, sys: &Sys<'_>, ready: bool) -> Result<(), Failed> {
        let start_ns = sys.now_ns()?;
        loop {
            let status = self.registers.read32(sys, CSTS)?;
            if (status & 1 != 0) == ready {
                return Ok(());
            }
            if status & 2 != 0 || sys.now_ns()? - start_ns > self.limit_ns {
                return Err(Failed(format!("the controller does not become ready: CSTS is {status:#x}")));
            }
            sys.sleep_ns(LOOK_AGAIN_NS)?;
        }
    }

    fn identify(&mut self, sys: &Sys<'_>) -> Result<(), Failed> {
        let page = self.control.page(page::IDENTIFY);
        let identify = |namespace, what| Command(0x06, namespace, [page.iova, 0], [what, 0, 0]);
        self.do_admin(sys, identify(0, 1))?;
        self.take(sys, page.va, PAGE)?;
        let namespaces = sys.load32(page.va + 516)?;
        self.do_admin(sys, identify(1, 0))?;
        self.take(sys, page.va, PAGE)?;
        let mut format = [0];
        sys.load(page.va + 26, &mut format)?;
        let format = sys.load32(page.va + 128 + 4 * u64::from(format[0] & 0xf))?;
        let block_lg2 = format >> 16 & 0xff;
        if namespaces == 0 || !(9..=12).contains(&block_lg2) || format & 0xffff != 0 {
            return Err(Failed(format!("{namespaces} namespaces, blocks of 2^{block_lg2} bytes")));
        }
        self.block_bytes = 1 << block_lg2;
        Ok(())
    }

    fn create_queues(&mut self, sys: &Sys<'_>) -> Result<(), Failed> {
        let size = u32::from(ENTRIES - 1) << 16 | 1;
        let (completion, submission) = (self.io.completion.iova, self.io.submission.iova);
        self.do_admin(sys, Command(0x09, 0, [0, 0], [0x07, 0, 0]))?;
        // Vector 1, interrupts on, contiguous.
        self.do_admin(sys, Command(0x05, 0, [completion, 0], [size, 1 << 16 | 0b11, 0]))?;
        self.do_admin(sys, Command(0x01, 0, [submission, 0], [size, 1 << 16 | 1, 0]))
    }

    /// Reads `bytes`, whole blocks, from the block at byte `from` on, into `data`. `slot` is its own while it is in flight.
    pub(in crate::workload) fn submit_read(
        &mut self,
        sys: &Sys<'_>,
        slot: usize,
        from: u64,
        bytes: u64,
        data: Shared,
    ) -> Result<(), Failed> {
        self.give(sys, data.va, bytes)?;
        let addresses = self.pages(sys, slot, bytes, data)?;
        let lba = from / self.block_bytes;
        let blocks = low(bytes / self.block_bytes - 1);
        self.commands += 1;
        self.submit(sys, true, Command(0x02, 1, addresses, [low(lba), low(lba >> 32), blocks]))
    }

    /// The two addresses of a command; with more than two pages, the second is that of a list.
    fn pages(&self, sys: &Sys<'_>, slot: usize, bytes: u64, data: Shared) -> Result<[u64; 2], Failed> {
        let count = bytes.div_ceil(PAGE);
        if count <= 2 {
            return Ok([data.iova, if count == 2 { data.iova + PAGE } else { 0 }]);
        }
        let list = self.control.page(page::LISTS + slot as u64);
        let words: Vec<u8> = (1..count).flat_map(|page| (data.iova + page * PAGE).to_le_bytes()).collect();
        sys.store(list.va, &words)?;
        self.give(sys, list.va, words.len() as u64)?;
        Ok([data.iova, list.iova])
    }

    /// Waits for as many reads as that.
    pub(in crate::workload) fn wait_reads(&mut self, sys: &Sys<'_>, count: usize) -> Result<(), Failed> {
        (0..count).try_for_each(|_| self.wait_one(sys, true))
    }

    fn do_admin(&mut self, sys: &Sys<'_>, command: Command) -> Result<(), Failed> {
        self.submit(sys, false, command)?;
        self.wait_one(sys, false)
    }

    fn submit(&mut self, sys: &Sys<'_>, io: bool, command: Command) -> Result<(), Failed> {
        let coherent = self.coherent;
        let queue = if io { &mut self.io } else { &mut self.admin };
        let Command(opcode, namespace, addresses, arguments) = command;
        let mut entry = [0; 64];
        let mut put = |dword: usize, value: u32| {
            entry[4 * dword..4 * dword + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(0, u32::from(queue.next_id) << 16 | u32::from(opcode));
        put(1, namespace);
        let [first, second] = addresses;
        for (dword, value) in (6..).zip([first, first >> 32, second, second >> 32]) {
            put(dword, low(value));
        }
        (10..).zip(arguments).for_each(|(dword, value)| put(dword, value));
        let at = queue.submission.va + 64 * u64::from(queue.tail);
        sys.store(at, &entry)?;
        if !coherent {
            sys.flush(at, 64)?;
        }
        queue.next_id = queue.next_id.wrapping_add(1);
        queue.tail = (queue.tail + 1) % ENTRIES;
        let (id, tail) = (queue.id, queue.tail);
        self.registers.write32(sys, DOORBELLS + 2 * u64::from(id) * self.stride, tail.into())
    }

    /// Waits for one completion of a queue: for its interrupt, unless an earlier interrupt told of several.
    fn wait_one(&mut self, sys: &Sys<'_>, io: bool) -> Result<(), Failed> {
        loop {
            if let Some(status) = self.next_completion(sys, io)? {
                return match status {
                    0 => Ok(()),
                    status => Err(Failed(format!("a command failed: status {status:#x}"))),
                };
            }
            let (event, id) = if io { (self.io.event, 1) } else { (self.admin.event, 0) };
            let signals = sys.wait(event, COMMAND_LIMIT_NS)?;
            if signals == 0 {
                let limit_s = COMMAND_LIMIT_NS / 1_000_000_000;
                return Err(Failed(format!(
                    "no interrupt of queue {id} for {limit_s} s, and a command is in flight: hanging up"
                )));
            }
            self.signals += signals;
            if io { self.io.told = true } else { self.admin.told = true }
        }
    }

    /// The status of the next completion, if an interrupt has told of some and there is one left.
    fn next_completion(&mut self, sys: &Sys<'_>, io: bool) -> Result<Option<u32>, Failed> {
        let (coherent, registers, stride) = (self.coherent, self.registers, self.stride);
        let queue = if io { &mut self.io } else { &mut self.admin };
        if !queue.told {
            return Ok(None);
        }
        let at = queue.completion.va + 16 * u64::from(queue.head);
        if !coherent {
            sys.flush(at, 16)?;
        }
        let last = sys.load32(at + 12)?;
        if (last >> 16 & 1 == 1) != queue.phase {
            queue.told = false;
            return Ok(None);
        }
        queue.head = (queue.head + 1) % ENTRIES;
        queue.phase ^= queue.head == 0;
        let (id, head) = (queue.id, queue.head);
        registers.write32(sys, DOORBELLS + (2 * u64::from(id) + 1) * stride, head.into())?;
        Ok(Some(last >> 17))
    }

    /// Stops the controller in good order.
    pub(in crate::workload) fn stop(&mut self, sys: &Sys<'_>) -> Result<(), Failed> {
        self.do_admin(sys, Command(0x00, 0, [0, 0], [1, 0, 0]))?;
        self.do_admin(sys, Command(0x04, 0, [0, 0], [1, 0, 0]))?;
        self.registers.write32(sys, CC, 0)?;
        self.wait_ready(sys, false)
    }

    /// Before the device reads or writes memory.
    fn give(&self, sys: &Sys<'_>, va: u64, len: u64) -> Result<(), Failed> {
        if self.coherent { Ok(()) } else { sys.flush(va, len) }
    }

    /// Before the program reads what the device has written.
    pub(in crate::workload) fn take(&self, sys: &Sys<'_>, va: u64, len: u64) -> Result<(), Failed> {
        self.give(sys, va, len)
    }
}
