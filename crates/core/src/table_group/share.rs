//! Several groups, one set of tables: joining and leaving.
//!
//! The tables of those who are together are windows of each of them. Who joins gets every live window, or none.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_types::SizeLg2;

use super::{DmaTable, Kind, MAX_WINDOWS, TableGroup, WindowError, kind};
use crate::owner::Errno;

/// Why a group did not join. Then it has no window that it had not before, but for those that hardware would not let go ([`JoinError::Set`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// Its tables are not made on demand. EINVAL.
    NotOnDemand,
    /// A table has a page size that the group has not. EINVAL.
    PageSize(SizeLg2),
    /// A table has more levels than the group walks. EINVAL.
    Levels(u8),
    /// The group's windows lie elsewhere. EINVAL.
    Window(usize),
    /// The group has a window there. EBUSY.
    Occupied(usize),
    /// A window was not set.
    Set {
        /// Which.
        window: usize,
        /// Why. Its errno is this error's.
        error: WindowError,
        /// Windows that were set and that hardware did not confirm to have forgotten.
        left: Vec<usize>,
    },
}

impl JoinError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotOnDemand | Self::PageSize(_) | Self::Levels(_) | Self::Window(_) => Errno::Einval,
            Self::Occupied(_) => Errno::Ebusy,
            Self::Set { error, .. } => error.errno(),
        }
    }
}

/// Sets every table of `live` as a window of `group`, which is taken and has none.
///
/// # Errors
///
/// As [`JoinError`] says.
pub fn join(group: &dyn TableGroup, live: &[Arc<dyn DmaTable>]) -> Result<(), JoinError> {
    let Ok(Kind::OnDemand(_, ops)) = kind(group) else { return Err(JoinError::NotOnDemand) };
    live.iter().try_for_each(|table| fits(group, &**table))?;
    if let Some(window) = (0..MAX_WINDOWS).find(|&window| ops.window(window).is_some()) {
        return Err(JoinError::Occupied(window));
    }
    for (done, table) in live.iter().enumerate() {
        if let Err(error) = ops.set_window(table) {
            let undone = live[..done].iter().map(|table| table.spec().window);
            let left = undone.filter(|&window| ops.unset_window(window).is_err()).collect();
            return Err(JoinError::Set { window: table.spec().window, error, left });
        }
    }
    Ok(())
}

/// Whether a table can be a window of `group`.
fn fits(group: &dyn TableGroup, table: &dyn DmaTable) -> Result<(), JoinError> {
    let (info, spec) = (group.info(), table.spec());
    if !info.page_sizes.contains(spec.page) {
        return Err(JoinError::PageSize(spec.page));
    }
    if spec.levels > info.max_levels {
        return Err(JoinError::Levels(spec.levels));
    }
    if info.windows.get(spec.window).copied().flatten() != Some(table.range().first()) {
        return Err(JoinError::Window(spec.window));
    }
    Ok(())
}

/// Removes every window of `group`, and answers their tables, which stay windows of the others. Hardware has forgotten them for this group only.
///
/// # Errors
///
/// A window that hardware did not confirm, with the error. The windows before it are gone; those that stay can be tried again. Tables that were
/// removed are in `removed` either way.
pub fn leave(group: &dyn TableGroup, removed: &mut Vec<Arc<dyn DmaTable>>) -> Result<(), WindowError> {
    let Some(ops) = group.tables() else { return Ok(()) };
    for window in 0..MAX_WINDOWS {
        if ops.window(window).is_some() {
            removed.push(ops.unset_window(window)?);
        }
    }
    Ok(())
}
