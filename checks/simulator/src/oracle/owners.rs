//! Who has which group, as the operations' own results say, and whether those results fit together.

use super::wrong::Wrong;
use crate::promise::Promise;

/// A user, by number, from 1.
pub(crate) type Who = usize;

/// Who has a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Drivers that use the DMA API, by device.
    pub(crate) kernel: Vec<usize>,
    pub(crate) owner: Option<Who>,
    pub(crate) whole: bool,
    /// Claims of devices.
    pub(crate) claims: Vec<usize>,
}

impl Ledger {
    /// How often it is held.
    pub(crate) fn count(&self) -> usize {
        self.kernel.len() + usize::from(self.whole) + self.claims.len()
    }

    fn both(&self) -> Result<(), Wrong> {
        match self.owner {
            Some(owner) if !self.kernel.is_empty() => Err(Wrong::new(
                Promise::OneOwner,
                format!("the kernel's drivers ({:?}) and user {owner} have the group at once", self.kernel),
            )),
            _ => Ok(()),
        }
    }

    /// A driver of a device was given the DMA API.
    pub(crate) fn used(&mut self, device: usize) -> Result<(), Wrong> {
        self.kernel.push(device);
        self.both()
    }

    /// It has given it back.
    pub(crate) fn unused(&mut self, device: usize) -> Result<(), Wrong> {
        match self.kernel.iter().position(|&held| held == device) {
            Some(place) => {
                self.kernel.swap_remove(place);
                Ok(())
            }
            None => {
                Err(Wrong::new(Promise::OneOwner, format!("device {device} gave back what it did not have")))
            }
        }
    }

    /// A user was given the group, for a device or (none) as a whole.
    pub(crate) fn claimed(&mut self, device: Option<usize>, who: Who) -> Result<(), Wrong> {
        if self.owner.is_some_and(|owner| owner != who) {
            let what = format!("user {who} was given what user {:?} has", self.owner);
            return Err(Wrong::new(Promise::OneOwner, what));
        }
        if device.is_none() && self.count() > 0 {
            let what = format!("user {who} was given the whole of a group that is held: {self:?}");
            return Err(Wrong::new(Promise::OneOwner, what));
        }
        self.owner = Some(who);
        match device {
            Some(device) => self.claims.push(device),
            None => self.whole = true,
        }
        self.both()
    }

    /// A user has given it back. Answers whether nobody holds it any more.
    pub(crate) fn released(&mut self, device: Option<usize>, who: Who) -> Result<bool, Wrong> {
        let place = device.map(|device| self.claims.iter().position(|&held| held == device));
        let had = self.owner == Some(who)
            && match place {
                Some(place) => place.is_some(),
                None => self.whole,
            };
        if !had {
            let what = format!("user {who} gave back what he did not have: {self:?}");
            return Err(Wrong::new(Promise::OneOwner, what));
        }
        match place.flatten() {
            Some(place) => drop(self.claims.swap_remove(place)),
            None => self.whole = false,
        }
        let free = !self.whole && self.claims.is_empty();
        if free {
            self.owner = None;
        }
        Ok(free)
    }
}
