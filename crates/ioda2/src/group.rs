//! A PE as a [`TableGroup`]: the user makes its tables and windows, or takes over the platform's one.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use portcullis_core::iommu::SyncError;
use portcullis_core::table_group::{
    DmaTable, Eeh, Ownership, OwnershipError, TableError, TableGroup, TableGroupInfo, TableOps, TableSpec,
    WholeTable, WindowError,
};
use portcullis_hal::{Platform, Registers};
use portcullis_pgtable::tce::MAX_LEVELS;
use portcullis_spec::ioda2::tables::WINDOW_BIT;
use portcullis_types::{Iova, IovaRange, mutant};

use crate::domain::NoMemory;
use crate::pe::{Pe, Place};
use crate::phb3::Phb3;
use crate::setup::{Failing, Refused, Setup};
use crate::table::{self, Table};
use crate::tve;

/// A PE, for its user.
pub(crate) struct Group<P: Platform, R: Registers + 'static> {
    pub(crate) phb: Arc<Phb3<P, R>>,
    pub(crate) pe: u8,
}

impl<P: Platform, R: Registers> Group<P, R> {
    pub(crate) fn new(phb: Arc<Phb3<P, R>>, pe: u8) -> Self {
        Self { phb, pe }
    }
}

impl<P: Platform, R: Registers> fmt::Debug for Group<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("phb", &self.phb).field("pe", &self.pe).finish()
    }
}

/// Of a PE that is no more.
pub(crate) const GONE: SyncError = SyncError::Failed { code: 0 };

impl<P: Platform, R: Registers> TableGroup for Group<P, R> {
    fn name(&self) -> String {
        format!("{} PE {}", self.phb.bridge.config.name, self.pe)
    }

    fn info(&self) -> TableGroupInfo {
        let config = &self.phb.bridge.config;
        TableGroupInfo {
            window32: IovaRange::new(Iova::new(0), config.window32_bytes).expect("checked at probe"),
            windows: [Some(Iova::new(0)), Some(Iova::new(1 << WINDOW_BIT))],
            page_sizes: config.page_sizes,
            max_levels: MAX_LEVELS,
        }
    }

    fn ownership(&self) -> Option<&dyn Ownership> {
        self.phb.bridge.config.tables_on_demand.then_some(self)
    }

    fn tables(&self) -> Option<&dyn TableOps> {
        self.phb.bridge.config.tables_on_demand.then_some(self)
    }

    fn whole(&self) -> Option<&dyn WholeTable> {
        (!self.phb.bridge.config.tables_on_demand).then_some(self)
    }

    fn eeh(&self) -> Option<&dyn Eeh> {
        Some(self)
    }
}

impl From<Refused> for OwnershipError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoMemory => Self::NoMemory,
            Refused::Sync(error) | Refused::Closed(error) => Self::Sync(error),
        }
    }
}

impl<P: Platform, R: Registers> Pe<P, R> {
    /// Blocks it, and remembers where it was.
    fn take(&mut self, phb: &Phb3<P, R>) -> Result<(), OwnershipError> {
        if self.held.is_none() {
            let before = self.place.clone();
            self.enter(&phb.bridge, Place::Blocked)?;
            self.held = Some(before);
        }
        Ok(())
    }

    /// Takes it back to where it was.
    fn release(&mut self, phb: &Phb3<P, R>) -> Result<(), OwnershipError> {
        let Some(before) = self.held.clone() else { return Ok(()) };
        // All its devices may have left meanwhile: nobody is to be taken back then.
        let before = if self.members.is_empty() { Place::Blocked } else { before };
        self.enter(&phb.bridge, before)?;
        self.held = None;
        Ok(())
    }
}

impl<P: Platform, R: Registers> Ownership for Group<P, R> {
    fn take_ownership(&self) -> Result<(), OwnershipError> {
        let taken = self.phb.with_pe(self.pe, |pe, _| pe.take(&self.phb));
        taken.unwrap_or(Err(OwnershipError::Sync(GONE)))
    }

    fn release_ownership(&self) -> Result<(), OwnershipError> {
        let released = self.phb.with_pe_given_back(self.pe, |pe, _| match pe.users_window() {
            Some(window) if !mutant!("released-with-a-users-window") => {
                Err(OwnershipError::WindowSet(window))
            }
            _ => pe.release(&self.phb),
        });
        // One that is gone has nothing to give back: its bridge was shut down, or it was given back and its devices left.
        released.unwrap_or(Ok(()))
    }
}

impl<P: Platform, R: Registers> TableOps for Group<P, R> {
    fn table_bytes(&self, spec: TableSpec) -> Result<u64, TableError> {
        Ok(table::shape(&self.phb.bridge, spec)?.accounted_bytes())
    }

    fn create_table(&self, spec: TableSpec) -> Result<Arc<dyn DmaTable>, TableError> {
        Ok(Table::new(self.phb.bridge.clone(), spec, true)?)
    }

    fn set_window(&self, table: &Arc<dyn DmaTable>) -> Result<(), WindowError> {
        let own = table.as_any().downcast_ref::<Table<P, R>>().and_then(Table::shared);
        let own = own.filter(|own| own.belongs_to(&self.phb.bridge)).ok_or(WindowError::Foreign)?;
        let window = own.spec().window;
        let set = self.phb.with_pe(self.pe, |pe, _| {
            if !pe.is_taken() {
                return Err(WindowError::NotTaken);
            }
            if pe.windows.setup().tables[window].is_some() {
                return Err(WindowError::Set(window));
            }
            let mut next = pe.windows.known();
            next.tables[window] = Some(own);
            pe.windows.switch(&self.phb.bridge, next, Failing::Undo).map_err(window_error)
        });
        set.unwrap_or(Err(WindowError::Sync(GONE)))
    }

    fn unset_window(&self, window: usize) -> Result<Arc<dyn DmaTable>, WindowError> {
        let unset = self.phb.with_pe(self.pe, |pe, _| {
            if !pe.is_taken() {
                return Err(WindowError::NotTaken);
            }
            let table = pe.windows.setup().tables.get(window).cloned().flatten();
            let table = table.ok_or(WindowError::NotSet(window))?;
            let mut next = pe.windows.known();
            next.tables[window] = None;
            pe.windows.switch(&self.phb.bridge, next, Failing::Keep).map_err(window_error)?;
            Ok(table as Arc<dyn DmaTable>)
        });
        unset.unwrap_or(Err(WindowError::Sync(GONE)))
    }

    fn window(&self, window: usize) -> Option<Arc<dyn DmaTable>> {
        self.phb.with_pe(self.pe, |pe, _| {
            pe.users_window()?;
            Some(pe.windows.setup().tables.get(window)?.clone()? as Arc<dyn DmaTable>)
        })?
    }
}

fn window_error(refused: Refused) -> WindowError {
    match refused {
        Refused::NoMemory => WindowError::NoMemory,
        Refused::Sync(error) | Refused::Closed(error) => WindowError::Sync(error),
    }
}

impl<P: Platform, R: Registers> WholeTable for Group<P, R> {
    fn take_table(&self) -> Result<Arc<dyn DmaTable>, OwnershipError> {
        let taken = self.phb.with_pe(self.pe, |pe, _| {
            if pe.whole.is_some() {
                return Err(OwnershipError::Taken);
            }
            let domain = pe.last.clone().ok_or(OwnershipError::Incomplete)?;
            // Looked at before anything changes; the kernel can map nothing more from here on.
            let table = match domain.take() {
                Ok(Ok(table)) => table,
                Ok(Err(live)) => return Err(OwnershipError::Live(live)),
                Err(NoMemory) => return Err(OwnershipError::NoMemory),
            };
            let taken = pe.take_whole(&self.phb, &table);
            taken.inspect_err(|_| {
                if !mutant!("failed-take-keeps-the-table") {
                    domain.give_back()
                }
            })?;
            pe.whole = Some(domain);
            Ok(table as Arc<dyn DmaTable>)
        });
        taken.unwrap_or(Err(OwnershipError::Sync(GONE)))
    }

    fn give_back_table(&self) -> Result<(), OwnershipError> {
        let given = self.phb.with_pe_given_back(self.pe, |pe, _| {
            // After a try that was refused on its way back, there is only that to do.
            let Some(domain) = pe.whole.clone() else { return pe.release(&self.phb) };
            let table = pe.windows.setup().tables[0].clone();
            if let Some((live, _)) = table.and_then(|table| table.next(Iova::new(0))) {
                return Err(OwnershipError::Live(live));
            }
            pe.windows.switch(&self.phb.bridge, Setup::CLOSED, Failing::Keep)?;
            domain.give_back();
            pe.whole = None;
            pe.release(&self.phb)
        });
        given.unwrap_or(Ok(()))
    }
}

impl<P: Platform, R: Registers> Pe<P, R> {
    /// Leaves it nothing but `table`.
    fn take_whole(&mut self, phb: &Phb3<P, R>, table: &Arc<Table<P, R>>) -> Result<(), OwnershipError> {
        self.take(phb)?;
        let tables = [Some(table.clone()), None];
        let setup = Setup { tables, untranslated: [tve::DISABLED; 2] };
        if let Err(refused) = self.windows.switch(&phb.bridge, setup, Failing::Undo) {
            // It stays blocked if this fails too, and is the platform's to open: nobody gives back what was not taken.
            let _ = self.release(phb);
            self.held = None;
            return Err(refused.into());
        }
        Ok(())
    }
}
