//! What a user wants to become of interrupts.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_spec::vfio::{IrqSet, IrqSetFlags};

use crate::Errno;
use crate::user::{Caller, EventFile, Fd, beyond};

/// What is to be done with interrupts of one kind.
pub struct IrqChange {
    /// Which kind.
    pub index: u32,
    /// The first.
    pub start: u32,
    /// How many; the data has as many entries. All of them exist.
    pub count: u32,
    /// What is to be done.
    pub action: IrqAction,
    /// With which.
    pub data: IrqData,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqAction {
    /// Keep them back.
    Mask,
    /// Let them through.
    Unmask,
    /// Raise them; with event files: signal those from now on.
    Trigger,
}

/// Which of the interrupts are meant, or where they go.
pub enum IrqData {
    /// All of them; none at all, with [`IrqAction::Trigger`] and a count of 0, takes the whole kind out of use.
    None,
    /// Those with true.
    Bool(Vec<bool>),
    /// All: each to its event file, or nowhere.
    Event(Vec<Option<Arc<dyn EventFile>>>),
}

impl IrqChange {
    /// Reads the data of a request whose fields are known to be in order. There are so many interrupts of this kind as `available`.
    pub(crate) fn read<P: Platform>(
        caller: &dyn Caller<P>,
        at: u64,
        set: &IrqSet,
        available: u32,
    ) -> Result<Self, Errno> {
        let &IrqSet { argsz, flags, index, start, count } = set;
        let end = start.checked_add(count).ok_or(Errno::Einval)?;
        if start >= available || end > available {
            return Err(Errno::Einval);
        }
        let entry_bytes = match flags & IrqSetFlags::DATA {
            IrqSetFlags::DATA_NONE => 0,
            IrqSetFlags::DATA_BOOL => 1,
            IrqSetFlags::DATA_EVENTFD => 4,
            _ => return Err(Errno::Einval),
        };
        let data_bytes = count as usize * entry_bytes;
        if (argsz as usize) - IrqSet::BYTES < data_bytes {
            return Err(Errno::Einval);
        }
        let mut bytes = alloc::vec![0; data_bytes];
        if data_bytes > 0 {
            caller.memory().copy_in(beyond(at, IrqSet::BYTES)?, &mut bytes)?;
        }
        let action = match flags & IrqSetFlags::ACTION {
            IrqSetFlags::ACTION_MASK => IrqAction::Mask,
            IrqSetFlags::ACTION_UNMASK => IrqAction::Unmask,
            IrqSetFlags::ACTION_TRIGGER => IrqAction::Trigger,
            _ => return Err(Errno::Enotty),
        };
        let data = match entry_bytes {
            0 => IrqData::None,
            1 => IrqData::Bool(bytes.iter().map(|&byte| byte != 0).collect()),
            _ => IrqData::Event(event_files(caller, &bytes)?),
        };
        Ok(Self { index, start, count, action, data })
    }
}

fn event_files<P: Platform>(
    caller: &dyn Caller<P>,
    bytes: &[u8],
) -> Result<Vec<Option<Arc<dyn EventFile>>>, Errno> {
    let fds = bytes.as_chunks::<4>().0.iter().map(|&fd| i32::from_ne_bytes(fd));
    fds.map(|fd| match fd {
        ..0 => Ok(None),
        _ => match caller.fd(fd) {
            None => Err(Errno::Ebadf),
            Some(Fd::Event(file)) => Ok(Some(file)),
            Some(Fd::Vfio(_) | Fd::Other) => Err(Errno::Einval),
        },
    })
    .collect()
}
