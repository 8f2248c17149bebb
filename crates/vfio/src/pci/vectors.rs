//! Interrupts of a function: who is signalled, and where the function writes.
//!
//! MSI-X comes into use with the first request that gives event files, and goes out of use with the one that takes all away. Each vector is masked but
//! for those that have a file.
//!
//! What is done to some of the vectors is done to all that are meant or to none. A file that takes another's place is connected before anything else
//! is written, so what fails has lost nothing.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::dma::{MsiError, compose_msi};
use portcullis_hal::{Platform, Registers};
use portcullis_pci::{Message, MsixCapability, MsixTable};
use portcullis_types::trace::Value;

use super::{Doorbell, PciDevice, State};
use crate::Errno;
use crate::irqs::{IrqAction, IrqChange, IrqData};
use crate::user::EventFile;

/// The vectors that are in use.
#[derive(Default)]
pub(super) struct Vectors {
    /// Whether MSI-X is on.
    on: bool,
    used: BTreeMap<u16, Vector>,
}

#[derive(Clone)]
struct Vector {
    file: Arc<dyn EventFile>,
    message: Message,
}

/// Why a vector has not the file that it was to have.
struct Refused {
    errno: Errno,
    /// Whether what was connected before is so no more.
    replaced: bool,
}

/// The table of a function, by way of its registers.
type Table<'a> = MsixTable<Window<'a>>;

/// Registers that are borrowed.
struct Window<'a>(&'a dyn Registers);

impl Registers for Window<'_> {
    fn read32(&self, offset: usize) -> u32 {
        self.0.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.0.write64(offset, value);
    }
}

impl<P: Platform> PciDevice<P> {
    fn table(&self) -> Option<(MsixCapability, Table<'_>)> {
        let msix = self.msix?;
        let registers = self.parts.bars.get(usize::from(msix.bar()))?.as_deref()?;
        Some((msix, MsixTable::new(&msix, Window(registers))))
    }

    pub(super) fn change_vectors(&self, state: &mut State, change: IrqChange) -> Result<(), Errno> {
        let IrqChange { start, count, action, data, .. } = change;
        if action != IrqAction::Trigger {
            // Masking of single messages is not offered, as it is not by Linux.
            return Err(Errno::Enotty);
        }
        let start = u16::try_from(start).map_err(|_| Errno::Einval)?;
        match data {
            IrqData::Event(files) => self.connect_all(state, start, &files),
            IrqData::None if count == 0 && state.vectors.on => {
                self.disconnect_all(state);
                Ok(())
            }
            IrqData::None | IrqData::Bool(_) if !state.vectors.on => Err(Errno::Einval),
            IrqData::None => {
                let meant = alloc::vec![true; count as usize];
                state.vectors.signal(start, &meant);
                Ok(())
            }
            IrqData::Bool(meant) => {
                state.vectors.signal(start, &meant);
                Ok(())
            }
        }
    }

    /// Gives vectors from `start` on their files, or takes them.
    fn connect_all(
        &self,
        state: &mut State,
        start: u16,
        files: &[Option<Arc<dyn EventFile>>],
    ) -> Result<(), Errno> {
        let (msix, table) = self.table().ok_or(Errno::Einval)?;
        if state.lost {
            return Err(Errno::Eio);
        }
        let mut connected = Vec::with_capacity(files.len());
        for (vector, file) in (start..).zip(files) {
            let made = file.as_ref().map(|file| self.connect(vector, file)).transpose();
            match made {
                Ok(made) => connected.push((vector, made)),
                Err(refused) => {
                    // Those that were to lose theirs have it still.
                    let replaced = connected.iter().filter(|(_, made)| made.is_some());
                    replaced.for_each(|&(vector, _)| self.reconnect(state, &table, vector));
                    if refused.replaced {
                        self.reconnect(state, &table, vector);
                    }
                    return Err(refused.errno);
                }
            }
        }
        if !state.vectors.on {
            msix.enable_masked(&*self.parts.config);
            (0..msix.vectors()).for_each(|vector| mask(&table, vector));
            state.vectors.on = true;
        } else if !msix.is_on(&*self.parts.config) {
            // Its slot has been reset, of which nobody tells here: the function knows nothing any more.
            self.program_again(state);
        }
        for (vector, made) in connected {
            mask(&table, vector);
            match made {
                Some(new) => {
                    self.program(&table, vector, new.message);
                    state.vectors.used.insert(vector, new);
                }
                None if state.vectors.used.remove(&vector).is_some() => {
                    self.parts.interrupts.disconnect(&self.parts.device, vector);
                }
                None => {}
            }
        }
        msix.set_function_mask(&*self.parts.config, false);
        Ok(())
    }

    /// A vector with its file, and the message that the function has to write for it.
    fn connect(&self, vector: u16, file: &Arc<dyn EventFile>) -> Result<Vector, Refused> {
        let as_before = |errno| Refused { errno, replaced: false };
        let device = &self.parts.device;
        let domain = device.domain().ok_or(as_before(Errno::Einval))?;
        let connected = self.parts.interrupts.connect(device, vector, file.clone());
        let Doorbell { address, data } = connected.map_err(as_before)?;
        let replaced = |errno| Refused { errno, replaced: true };
        let message = compose_msi(device, &domain, address, data).map_err(|error| replaced(errno(&error)))?;
        let message = Message { address: message.address.get(), data: message.data };
        if message.address.is_multiple_of(4) {
            Ok(Vector { file: file.clone(), message })
        } else {
            Err(replaced(Errno::Einval))
        }
    }

    /// Connects a vector to the file that it had before, or to none. A connection may have a message of its own, which the function is told; one that is not to be had
    /// again leaves the vector out of use.
    fn reconnect(&self, state: &mut State, table: &Table<'_>, vector: u16) {
        let before = state.vectors.used.remove(&vector);
        let Some(before) = before else {
            self.parts.interrupts.disconnect(&self.parts.device, vector);
            return;
        };
        match self.connect(vector, &before.file) {
            Ok(back) => {
                if back.message != before.message {
                    mask(table, vector);
                    self.program(table, vector, back.message);
                }
                state.vectors.used.insert(vector, back);
            }
            Err(_) => {
                mask(table, vector);
                self.parts.interrupts.disconnect(&self.parts.device, vector);
            }
        }
    }

    fn program(&self, table: &Table<'_>, vector: u16, message: Message) {
        let done = table.set(vector, message).and_then(|()| table.set_masked(vector, false));
        debug_assert!(done.is_ok(), "the vector is there, and the message has been looked at");
        let fields = [
            ("dev", Value::Str(self.parts.device.name())),
            ("vector", Value::Dec(vector.into())),
            ("address", Value::Addr(message.address)),
            ("data", Value::Hex(message.data.into())),
        ];
        crate::trace::say(&**self.parts.device.platform(), "vfio_msix", &fields);
    }

    /// Nobody is signalled any more, and no message is sent.
    pub(super) fn disconnect_all(&self, state: &mut State) {
        if let Some(msix) = self.msix {
            msix.disable(&*self.parts.config);
        }
        state.vectors.on = false;
        for (vector, _) in core::mem::take(&mut state.vectors.used) {
            self.parts.interrupts.disconnect(&self.parts.device, vector);
        }
    }

    /// After a reset: the function is told again what it had been told.
    pub(super) fn program_again(&self, state: &State) {
        let Some((msix, table)) = self.table().filter(|_| state.vectors.on) else { return };
        msix.enable_masked(&*self.parts.config);
        (0..msix.vectors()).for_each(|vector| mask(&table, vector));
        state.vectors.used.iter().for_each(|(&vector, held)| self.program(&table, vector, held.message));
        msix.set_function_mask(&*self.parts.config, false);
    }
}

impl Vectors {
    fn signal(&self, start: u16, meant: &[bool]) {
        let meant = (start..).zip(meant).filter(|(_, meant)| **meant);
        meant.filter_map(|(vector, _)| self.used.get(&vector)).for_each(|held| held.file.signal());
    }
}

fn mask(table: &Table<'_>, vector: u16) {
    let done = table.set_masked(vector, true);
    debug_assert!(done.is_ok(), "the vector is there");
}

/// Changes who is told of something that is no interrupt.
pub(super) fn change_notice(notice: &mut Option<Arc<dyn EventFile>>, change: IrqChange) -> Result<(), Errno> {
    if change.action != IrqAction::Trigger {
        return Err(Errno::Enotty);
    }
    match change.data {
        IrqData::None if change.count == 0 => *notice = None,
        IrqData::None => notice.iter().for_each(|file| file.signal()),
        IrqData::Bool(meant) if meant == [true] => notice.iter().for_each(|file| file.signal()),
        IrqData::Bool(_) => {}
        IrqData::Event(files) => match <[_; 1]>::try_from(files) {
            Ok([file]) => *notice = file,
            Err(_) => return Err(Errno::Einval),
        },
    }
    Ok(())
}

fn errno(error: &MsiError) -> Errno {
    match error {
        MsiError::NoIova { .. } => Errno::Enospc,
        MsiError::Map(error) => error.errno(),
        _ => Errno::Einval,
    }
}
