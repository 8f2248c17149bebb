//! The address map: who answers at which physical addresses that are not RAM.

use core::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use portcullis_types::{Pa, PaRange, SourceId};

use crate::{BusError, Mmio, Width};

/// Takes messages: writes by devices that mean an interrupt. Offsets are from the region's base.
pub trait Doorbell: Send + Sync {
    /// Takes a message of `source`, whom the bus vouches for. None if the writer is no device that has a name here.
    ///
    /// # Errors
    ///
    /// The doorbell refuses: the writer sees an error on the bus.
    fn ring(&self, offset: u64, bytes: &[u8], source: Option<SourceId>) -> Result<(), BusError>;
}

/// Who answers in a region.
#[derive(Clone)]
pub(crate) enum Responder {
    Registers(Arc<dyn Mmio>),
    Doorbell(Arc<dyn Doorbell>),
}

/// A region could not be added: something is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// What was to be added.
    pub wanted: PaRange,
    /// Who is there.
    pub by: String,
    /// Where.
    pub at: PaRange,
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not free: {} answers at {}", self.wanted, self.by, self.at)
    }
}

impl core::error::Error for Occupied {}

struct Place {
    range: PaRange,
    name: String,
    responder: Responder,
}

/// The map. Regions never overlap.
#[derive(Default)]
pub(crate) struct AddressSpace(RwLock<Vec<Place>>);

impl AddressSpace {
    pub(crate) fn add(&self, name: &str, range: PaRange, responder: Responder) -> Result<(), Occupied> {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.iter().find(|place| place.range.overlaps(range)) {
            return Err(Occupied { wanted: range, by: place.name.clone(), at: place.range });
        }
        let at = places.partition_point(|place| place.range < range);
        places.insert(at, Place { range, name: name.into(), responder });
        Ok(())
    }

    pub(crate) fn remove(&self, first: Pa) -> bool {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = places.len();
        places.retain(|place| place.range.first() != first);
        places.len() < before
    }

    pub(crate) fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn regions(&self) -> Vec<(PaRange, String)> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        places.iter().map(|place| (place.range, place.name.clone())).collect()
    }

    /// Who answers for all of `len` bytes at `at`, and the offset in the region. The map is not locked while they answer.
    pub(crate) fn find(&self, at: Pa, len: usize) -> Result<(Responder, u64), BusError> {
        let run = PaRange::new(at, len as u64).ok_or(BusError { at })?;
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let after = places.partition_point(|place| place.range.first() <= at);
        let place = after.checked_sub(1).map(|index| &places[index]);
        let place = place.filter(|place| place.range.covers(run)).ok_or(BusError { at })?;
        Ok((place.responder.clone(), at.get() - place.range.first().get()))
    }
}

/// The width of a register access of `len` bytes at `at`; none if no register access is like that.
pub(crate) fn width_of(at: Pa, len: usize) -> Option<Width> {
    let width = match len {
        1 => Width::Bits8,
        2 => Width::Bits16,
        4 => Width::Bits32,
        8 => Width::Bits64,
        _ => return None,
    };
    at.is_aligned(width.bytes()).then_some(width)
}
