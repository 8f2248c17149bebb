//! The bus: memory, registers and doorbells at their addresses, and the time that passes.
//!
//! CPUs come in through [`Bus::cpu`] for memory and [`Bus::read_register`] and [`Bus::write_register`] for registers. Hardware comes
//! in through [`Fabric`], which the bus implements for who snoops the CPUs' caches; [`Bus::non_snooping`] is the view of
//! who does not.
//!
//! Nothing happens by itself: [`Bus::step`] lets each [`Clocked`] model do some work, in an order that the seed chooses,
//! lets some of the CPUs' stores drain, and moves time on. The polling loop of a driver calls it.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use portcullis_types::{Pa, PaRange};

use crate::cache::Coherent;
use crate::map::{AddressSpace, Responder, width_of};
use crate::{
    BusError, Caches, Chance, Clocked, CpuMemory, Doorbell, Fabric, Heap, Mmio, Occupied, Ram, Stores, User,
    Width, Write,
};

/// How long a step lasts in which some model had work.
const BUSY_STEP_NS: u64 = 100;
/// How long a step lasts at most when nothing has happened for a while.
const IDLE_STEP_NS: u64 = 100_000;

/// What a bus is made of.
#[derive(Clone, Debug)]
pub struct BusOptions {
    /// Where there is RAM. Each begins and ends on a multiple of 64 KiB.
    pub ram: Vec<PaRange>,
    /// Which of it [`CpuMemory::alloc`] gives out.
    pub heap: Vec<PaRange>,
    /// What decides where hardware may do either of two things.
    pub seed: u64,
    /// When hardware sees the CPUs' stores.
    pub stores: Stores,
    /// Whether there is a cache that some hardware does not snoop.
    pub caches: Caches,
}

impl BusOptions {
    /// All of `ram` to be given out, stores buffered, everything snooped.
    pub fn new(ram: PaRange, seed: u64) -> Self {
        Self { ram: vec![ram], heap: vec![ram], seed, stores: Stores::default(), caches: Caches::default() }
    }
}

/// The bus of one machine.
///
/// Devices hold the bus and the bus holds devices: [`Bus::dismantle`] lets go of them when the machine is not needed any more.
pub struct Bus {
    cpu: CpuMemory,
    space: AddressSpace,
    models: RwLock<Arc<[Arc<dyn Clocked>]>>,
    turn: Mutex<Turn>,
    now_ns: AtomicU64,
}

/// What only the one who makes time pass touches.
struct Turn {
    chance: Chance,
    step_ns: u64,
    /// In which order the models have their turns in this step; kept so that a step allocates nothing.
    order: Vec<usize>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("ram", self.cpu.ram())
            .field("regions", &self.space.regions())
            .field("now_ns", &self.now_ns)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus with RAM and nothing else, at time 0.
    ///
    /// # Panics
    ///
    /// As [`Ram::new`] and [`Heap::new`] do.
    pub fn new(options: &BusOptions) -> Arc<Self> {
        Self::over(options, Arc::new(Ram::new(&options.ram)))
    }

    /// A bus over RAM that is there already; `options.ram` does not matter.
    ///
    /// # Panics
    ///
    /// As [`Heap::new`] does.
    pub fn over(options: &BusOptions, ram: Arc<Ram>) -> Arc<Self> {
        let heap = Heap::new(ram.clone(), &options.heap);
        Arc::new(Self {
            cpu: CpuMemory::new(ram, heap, options.stores, options.caches, options.seed),
            space: AddressSpace::default(),
            models: RwLock::new(Arc::default()),
            turn: Mutex::new(Turn {
                chance: Chance::new(options.seed ^ 0xb05),
                step_ns: BUSY_STEP_NS,
                order: Vec::new(),
            }),
            now_ns: AtomicU64::new(0),
        })
    }

    /// Memory, as CPUs use it.
    pub fn cpu(&self) -> &CpuMemory {
        &self.cpu
    }

    /// Lets `registers` answer at `range`.
    ///
    /// # Errors
    ///
    /// RAM or something else answers there already.
    pub fn add_registers(
        &self,
        name: &str,
        range: PaRange,
        registers: Arc<dyn Mmio>,
    ) -> Result<(), Occupied> {
        self.add(name, range, Responder::Registers(registers))
    }

    /// Lets `doorbell` answer writes at `range`. CPUs reach it too, as nobody in particular.
    ///
    /// # Errors
    ///
    /// RAM or something else answers there already.
    pub fn add_doorbell(
        &self,
        name: &str,
        range: PaRange,
        doorbell: Arc<dyn Doorbell>,
    ) -> Result<(), Occupied> {
        self.add(name, range, Responder::Doorbell(doorbell))
    }

    fn add(&self, name: &str, range: PaRange, responder: Responder) -> Result<(), Occupied> {
        match self.cpu.ram().regions().find(|region| region.overlaps(range)) {
            Some(at) => Err(Occupied { wanted: range, by: "RAM".into(), at }),
            None => self.space.add(name, range, responder),
        }
    }

    /// Lets nobody answer any more in the region that begins at `first`. Answers whether somebody did.
    pub fn remove(&self, first: Pa) -> bool {
        self.space.remove(first)
    }

    /// What answers where besides RAM, by address, with the names given when it was added.
    pub fn regions(&self) -> Vec<(PaRange, String)> {
        self.space.regions()
    }

    /// Gives `model` its turn in every step from now on.
    pub fn add_clocked(&self, model: Arc<dyn Clocked>) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        *models = models.iter().cloned().chain([model]).collect();
    }

    /// Lets go of every model.
    pub fn dismantle(&self) {
        self.space.clear();
        *self.models.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// A CPU reads a register.
    ///
    /// # Errors
    ///
    /// Nothing answers there, or `at` is not aligned to `width`.
    pub fn read_register(&self, at: Pa, width: Width) -> Result<u64, BusError> {
        if !at.is_aligned(width.bytes()) {
            return Err(BusError { at });
        }
        match self.space.find(at, width.bytes() as usize)? {
            (Responder::Registers(registers), offset) => Ok(registers.read(offset, width)),
            (Responder::Doorbell(_), _) => Ok(0),
        }
    }

    /// A CPU writes a register. Stores before it may still be pending: that is what barriers are for.
    ///
    /// # Errors
    ///
    /// Nothing answers there, or `at` is not aligned to `width`.
    pub fn write_register(&self, at: Pa, width: Width, value: u64) -> Result<(), BusError> {
        if !at.is_aligned(width.bytes()) {
            return Err(BusError { at });
        }
        let len = width.bytes() as usize;
        match self.space.find(at, len)? {
            (Responder::Registers(registers), offset) => registers.write(offset, width, value),
            (Responder::Doorbell(doorbell), offset) => {
                doorbell.ring(offset, &value.to_le_bytes()[..len], None)?;
            }
        }
        Ok(())
    }

    /// Lets every model do some work, and time pass. Answers whether any had work. If another thread is at it, does nothing.
    pub fn step(&self) -> bool {
        let Ok(mut turn) = self.turn.try_lock() else { return false };
        let Turn { chance, order, .. } = &mut *turn;
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner).clone();
        order.clear();
        order.extend(0..models.len());
        chance.shuffle(order);
        self.cpu.pass_time();
        let now_ns = self.now_ns();
        let mut worked = false;
        for &index in &*order {
            worked |= models[index].step(now_ns);
        }
        turn.step_ns = if worked { BUSY_STEP_NS } else { (2 * turn.step_ns).min(IDLE_STEP_NS) };
        self.now_ns.fetch_add(turn.step_ns, Ordering::Relaxed);
        worked
    }

    /// The same as [`step`](Self::step) again and again while time is not past `until_ns`, at most `limit` times, and as one where nobody has anything to do. Answers
    /// how many steps that were; none if somebody may have work now, or another thread is at it.
    pub fn step_idly(&self, limit: u64, until_ns: u64) -> u64 {
        let Ok(mut turn) = self.turn.try_lock() else { return 0 };
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner).clone();
        if self.cpu.pending_words() != 0 || !models.iter().all(|model| model.is_idle()) {
            return 0;
        }
        let before_ns = self.now_ns();
        let (mut now_ns, mut steps) = (before_ns, 0);
        while steps < limit && now_ns <= until_ns {
            turn.step_ns = (2 * turn.step_ns).min(IDLE_STEP_NS);
            now_ns += turn.step_ns;
            steps += 1;
        }
        // Whose turn would have come first is drawn in every step.
        turn.chance.skip(steps * (models.len() as u64).saturating_sub(1));
        self.now_ns.fetch_add(now_ns - before_ns, Ordering::Relaxed);
        steps
    }

    /// Steps until nobody has had work for a few steps in a row, at most `limit` steps. Answers whether it became quiet.
    pub fn settle(&self, limit: usize) -> bool {
        const QUIET_STEPS: usize = 3;
        let mut quiet = 0;
        for _ in 0..limit {
            quiet = if self.step() { 0 } else { quiet + 1 };
            if quiet == QUIET_STEPS {
                return true;
            }
        }
        false
    }

    /// Nanoseconds since the machine was switched on.
    pub fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    /// Moves time on without letting anybody work.
    pub fn advance_ns(&self, by_ns: u64) {
        self.now_ns.fetch_add(by_ns, Ordering::Relaxed);
    }

    /// The bus as hardware sees it that does not snoop the CPUs' caches.
    pub fn non_snooping(self: &Arc<Self>) -> Arc<dyn Fabric> {
        Arc::new(NonSnooping(self.clone()))
    }

    fn hardware_read(&self, path: Path<'_>, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        if into.is_empty() {
            return Ok(());
        }
        if self.cpu.ram().holds(at, into.len() as u64) {
            self.cpu.ram().note_use(at, into.len(), User::Hardware, false);
            return path.read(at, into);
        }
        let width = width_of(at, into.len()).ok_or(BusError { at })?;
        let (Responder::Registers(registers), offset) = self.space.find(at, into.len())? else {
            return Err(BusError { at });
        };
        into.copy_from_slice(&registers.read(offset, width).to_le_bytes()[..into.len()]);
        Ok(())
    }

    fn hardware_write(&self, path: Path<'_>, write: Write<'_>) -> Result<(), BusError> {
        let Write { at, bytes, source } = write;
        if bytes.is_empty() {
            return Ok(());
        }
        if self.cpu.ram().holds(at, bytes.len() as u64) {
            self.cpu.ram().note_use(at, bytes.len(), User::Hardware, true);
            return path.write(at, bytes);
        }
        match self.space.find(at, bytes.len())? {
            (Responder::Doorbell(doorbell), offset) => doorbell.ring(offset, bytes, source),
            (Responder::Registers(registers), offset) => {
                let width = width_of(at, bytes.len()).ok_or(BusError { at })?;
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                registers.write(offset, width, u64::from_le_bytes(value));
                Ok(())
            }
        }
    }
}

/// Which way hardware takes to memory.
#[derive(Clone, Copy)]
enum Path<'a> {
    Snooping(&'a Coherent),
    Straight(&'a Ram),
}

impl Path<'_> {
    fn read(self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        match self {
            Self::Snooping(memory) => memory.snoop_read(at, into),
            Self::Straight(ram) => ram.read(at, into),
        }
    }

    fn write(self, at: Pa, from: &[u8]) -> Result<(), BusError> {
        match self {
            Self::Snooping(memory) => memory.snoop_write(at, from),
            Self::Straight(ram) => ram.write(at, from),
        }
    }
}

impl Fabric for Bus {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.hardware_read(Path::Snooping(self.cpu.coherent()), at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.hardware_write(Path::Snooping(self.cpu.coherent()), write)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.cpu.ram().note_use(at, 8, User::Hardware, true);
        self.cpu.coherent().snoop_compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        Bus::now_ns(self)
    }
}

struct NonSnooping(Arc<Bus>);

impl Fabric for NonSnooping {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.0.hardware_read(Path::Straight(self.0.cpu.ram()), at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.0.hardware_write(Path::Straight(self.0.cpu.ram()), write)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.0.cpu.ram().note_use(at, 8, User::Hardware, true);
        self.0.cpu.ram().compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }
}
