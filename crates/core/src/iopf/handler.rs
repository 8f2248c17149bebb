//! Who brings pages in.

use alloc::sync::Arc;

use portcullis_types::Pasid;

use crate::id_map::{IdMap, InsertIdError};
use crate::iopf::PageRequest;
use crate::mm::{MmFault, MmFaultError, ProcessMemory};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// The page is there as wanted.
    Resolved,
    /// It is not there, and never will be as wanted.
    Invalid,
    /// Something is badly wrong: the device should ask for no more pages.
    Failure,
    /// The request is to be handled again, after others had their turn.
    Retry,
}

/// Somebody who brings pages in, for one address space of one device.
pub trait PageRequestHandler: Send + Sync {
    /// Handles one request. Called by workers, several at once for different groups; may sleep. After an answer other than
    /// [`Handled::Resolved`] the rest of the group is not handled.
    fn handle(&self, request: &PageRequest) -> Handled;
}

impl<F: Fn(&PageRequest) -> Handled + Send + Sync> PageRequestHandler for F {
    fn handle(&self, request: &PageRequest) -> Handled {
        self(request)
    }
}

/// Handles requests as faults of a process.
#[derive(Clone, Debug)]
pub struct MmHandler(Arc<dyn ProcessMemory>);

impl MmHandler {
    /// A handler that has `mm` handle the faults.
    pub fn new(mm: Arc<dyn ProcessMemory>) -> Self {
        Self(mm)
    }
}

impl PageRequestHandler for MmHandler {
    /// Needs a PASID. Whatever the process answers but success and retry is [`Handled::Invalid`]: the device's access was wrong, or came
    /// too late, but the device may go on.
    fn handle(&self, request: &PageRequest) -> Handled {
        if request.pasid.is_none() {
            return Handled::Invalid;
        }
        match self.0.handle_fault(&MmFault { address: request.address, wanted: request.wanted }) {
            Ok(()) => Handled::Resolved,
            Err(MmFaultError::Retry) => Handled::Retry,
            Err(
                MmFaultError::NoArea
                | MmFaultError::Permission
                | MmFaultError::Exited
                | MmFaultError::NoMemory
                | MmFaultError::Io,
            ) => Handled::Invalid,
        }
    }
}

/// Why a handler was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetHandlerError {
    /// There is one for this PASID already. EBUSY.
    Taken,
    /// No memory. ENOMEM.
    NoMemory,
}

/// The handlers of one device.
pub(super) struct Handlers {
    by_pasid: IdMap<Arc<dyn PageRequestHandler>>,
    without_pasid: Option<Arc<dyn PageRequestHandler>>,
}

impl Handlers {
    pub(super) fn new() -> Self {
        Self { by_pasid: IdMap::new(20), without_pasid: None }
    }

    pub(super) fn get(&self, pasid: Option<Pasid>) -> Option<&Arc<dyn PageRequestHandler>> {
        match pasid {
            Some(pasid) => self.by_pasid.get(pasid.get()),
            None => self.without_pasid.as_ref(),
        }
    }

    pub(super) fn set(
        &mut self,
        pasid: Option<Pasid>,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<(), SetHandlerError> {
        match pasid {
            Some(pasid) => self.by_pasid.insert(pasid.get(), handler).map_err(|error| match error {
                InsertIdError::NoMemory => SetHandlerError::NoMemory,
                InsertIdError::Taken | InsertIdError::Beyond => SetHandlerError::Taken,
            }),
            None if self.without_pasid.is_some() => Err(SetHandlerError::Taken),
            None => {
                self.without_pasid = Some(handler);
                Ok(())
            }
        }
    }

    pub(super) fn clear(&mut self, pasid: Option<Pasid>) -> Option<Arc<dyn PageRequestHandler>> {
        match pasid {
            Some(pasid) => self.by_pasid.remove(pasid.get()),
            None => self.without_pasid.take(),
        }
    }
}
