//! What may be mapped. Version 1: anything, once the whole window of 32 bits is paid for. Version 2: what is registered.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_spec::vfio::RegisterMemory;
use portcullis_types::mutant;
use portcullis_types::trace::Value;

use super::area::{self, Area};
use super::{Areas, Spapr, Version};
use crate::Errno;
use crate::trace::say;
use crate::turns::Turns;
use crate::user::{UserMemory, read, room};

/// What may be mapped.
#[derive(Default)]
pub(super) enum Allowance {
    /// Nothing: nobody has asked.
    #[default]
    None,
    /// Anything of this memory, for which so many pages are charged; none while disabled.
    Paid { memory: Arc<dyn UserMemory>, pages: Option<u64> },
    /// What is registered.
    Registered(Registrations),
}

/// Registered memory, and how many entries of this container's windows map it, those included that hardware has not confirmed to have forgotten.
pub(super) struct Registration {
    pub(super) area: Arc<Area>,
    pub(super) mapped: u64,
}

/// Registered memory of one container, by the process's address. No two pieces overlap.
#[derive(Default)]
pub(super) struct Registrations(Vec<Registration>);

impl Registrations {
    fn place(&self, vaddr: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&vaddr, |held| held.area.vaddr)
    }

    /// What begins there.
    fn get(&self, vaddr: u64) -> Option<&Registration> {
        self.place(vaddr).ok().map(|at| &self.0[at])
    }

    /// The same, to be counted.
    pub(super) fn get_mut(&mut self, vaddr: u64) -> Option<&mut Registration> {
        self.place(vaddr).ok().map(|at| &mut self.0[at])
    }

    /// What begins there, or last before.
    pub(super) fn at_or_before(&self, vaddr: u64) -> Option<&Registration> {
        let behind = self.0.partition_point(|held| held.area.vaddr <= vaddr);
        self.0.get(behind.checked_sub(1)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Registration> {
        self.0.iter()
    }

    /// Adds what is not there. There is room.
    fn insert(&mut self, registration: Registration) {
        if let Err(at) = self.place(registration.area.vaddr) {
            self.0.insert(at, registration);
        }
    }

    fn remove(&mut self, vaddr: u64) -> Option<Registration> {
        self.place(vaddr).ok().map(|at| self.0.remove(at))
    }
}

impl Allowance {
    /// That there may be maps and unmaps.
    pub(super) fn allows(&self) -> Result<(), Errno> {
        match self {
            Self::None | Self::Paid { pages: None, .. } => Err(Errno::Eperm),
            Self::Paid { pages: Some(_), .. } | Self::Registered(_) => Ok(()),
        }
    }

    /// Lets everything go: no entry maps any of it.
    pub(super) fn let_go<P: Platform>(&mut self, areas: &Turns<P, Areas>) {
        match core::mem::replace(self, Self::None) {
            Self::None => {}
            Self::Paid { memory, pages } => memory.uncharge(pages.unwrap_or(0)),
            Self::Registered(held) => {
                let mut areas = areas.take();
                held.iter().for_each(|registration| areas.unregister(&registration.area));
            }
        }
    }
}

impl<P: Platform> Spapr<P> {
    pub(super) fn enable(&mut self, memory: &Arc<dyn UserMemory>) -> Result<u64, Errno> {
        if self.allowance.allows().is_ok() {
            return Err(Errno::Ebusy);
        }
        let window = self.limits().ok_or(Errno::Enxio)?.window32;
        let pages = window.len_bytes().unwrap_or(u64::MAX) >> memory.page_size().get();
        memory.charge(pages)?;
        self.own(memory);
        self.allowance = Allowance::Paid { memory: memory.clone(), pages: Some(pages) };
        Ok(0)
    }

    /// Choice: what is mapped is unmapped. Linux leaves it mapped, and its pages pinned though nobody pays for them any more.
    pub(super) fn disable(&mut self) -> Result<u64, Errno> {
        if self.allowance.allows().is_err() {
            return Ok(0);
        }
        for window in 0..self.windows.len() {
            self.empty(window)?;
        }
        if let Allowance::Paid { memory, pages } = &mut self.allowance {
            memory.uncharge(pages.take().unwrap_or(0));
        }
        Ok(0)
    }

    pub(super) fn register(&mut self, memory: &Arc<dyn UserMemory>, arg: u64) -> Result<u64, Errno> {
        let RegisterMemory { vaddr, size, .. } = asked(&**memory, arg)?;
        // Choice: nothing is nothing to register. Linux says ENOMEM.
        if size == 0 {
            return Err(Errno::Einval);
        }
        vaddr.checked_add(size - 1).ok_or(Errno::Einval)?;
        let held = match &self.allowance {
            Allowance::Registered(held) => held.get(vaddr),
            Allowance::None | Allowance::Paid { .. } => None,
        };
        if held.is_some_and(|held| held.area.size == size) {
            return Err(Errno::Ebusy);
        }
        let mut first = Registrations::default();
        let held = match &mut self.allowance {
            Allowance::Registered(held) => held,
            Allowance::None | Allowance::Paid { .. } => &mut first,
        };
        room(&**memory, &mut held.0, 1)?;
        let area = area::register(&self.shared.areas, memory, vaddr, size)?;
        held.insert(Registration { area, mapped: 0 });
        if !first.0.is_empty() {
            self.allowance = Allowance::Registered(first);
        }
        self.own(memory);
        self.say_memory("vfio_register", vaddr, size);
        Ok(0)
    }

    pub(super) fn unregister(&mut self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        debug_assert!(self.version == Version::V2, "version 1 has no such call");
        if self.owner.is_none() {
            return Err(Errno::Eperm);
        }
        let RegisterMemory { vaddr, size, .. } = asked(memory, arg)?;
        let Allowance::Registered(held) = &self.allowance else { return Err(Errno::Enoent) };
        held.get(vaddr).filter(|held| held.area.size == size).ok_or(Errno::Enoent)?;
        // What hardware had not confirmed may be all that still has it.
        self.settle_all();
        let Allowance::Registered(held) = &mut self.allowance else { return Err(Errno::Enoent) };
        // Choice: as was meant. Linux answers success, and the memory stays pinned for ever.
        if held.get(vaddr).is_some_and(|held| held.mapped > 0 && !mutant!("unregistered-while-mapped")) {
            return Err(Errno::Ebusy);
        }
        if let Some(registration) = held.remove(vaddr) {
            self.shared.areas.take().unregister(&registration.area);
        }
        self.say_memory("vfio_unregister", vaddr, size);
        Ok(0)
    }

    fn say_memory(&self, name: &'static str, vaddr: u64, size: u64) {
        let fields = [("vaddr", Value::Addr(vaddr)), ("len", Value::Dec(size))];
        say(&*self.shared.platform, name, &fields);
    }
}

fn asked(memory: &dyn UserMemory, arg: u64) -> Result<RegisterMemory, Errno> {
    let asked = RegisterMemory::from_bytes(&read(memory, arg)?);
    let RegisterMemory { argsz, flags, vaddr, size } = asked;
    let whole = (vaddr | size).is_multiple_of(memory.page_size().bytes());
    if (argsz as usize) < RegisterMemory::BYTES || flags != 0 || !whole {
        return Err(Errno::Einval);
    }
    Ok(asked)
}
