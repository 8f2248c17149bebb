//! PEs that freeze: what a user can do with those of his container. Each call is for all of them, in the order in which they joined.

use portcullis_core::table_group::{Eeh, EehError, ErrorInjection, Freeze, PeState, Reset, TableGroup};
use portcullis_hal::Platform;
use portcullis_spec::vfio::{EehPeOp, eeh_op};

use super::Spapr;
use crate::Errno;
use crate::user::{UserMemory, read, read_head};

impl<P: Platform> Spapr<P> {
    pub(super) fn eeh(&mut self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let mut asked = EehPeOp::from_bytes(&read_head(memory, arg, EehPeOp::MIN_BYTES)?);
        let room = asked.argsz as usize;
        if room < EehPeOp::MIN_BYTES || asked.flags != 0 {
            return Err(Errno::Einval);
        }
        if asked.op == eeh_op::INJECT_ERR {
            if room < EehPeOp::BYTES {
                return Err(Errno::Einval);
            }
            asked = EehPeOp { op: asked.op, ..EehPeOp::from_bytes(&read(memory, arg)?) };
        }
        let operation = Operation::of(&asked)?;
        // Also one that fails may be there by half.
        self.injected |= matches!(operation, Operation::Inject(_));
        let pes = self.members.iter().map(|held| held.tables.eeh().ok_or(Errno::Enodev));
        let mut answer = 0;
        for pe in pes {
            let state = operation.run(pe?).map_err(|error| error.errno())?;
            // The first that is not as it should be.
            answer = if answer == 0 { state } else { answer };
        }
        Ok(answer)
    }
}

/// A group goes back to the platform, whose drivers must find its devices alive: a reset that its user has not ended is ended, what is stopped goes on, and an error
/// that he has made (`injected`), which may still be to come, is forgotten: it would hit them, or others.
///
/// Observed: Linux 6.x, `eeh_dev_release`, `eeh_pe_change_owner`.
pub(super) fn hand_back(group: &dyn TableGroup, injected: bool) {
    let Some(pe) = group.eeh() else { return };
    // What hardware refuses stays as it is: stopped.
    if pe.reset(Reset::Deactivate).is_ok() && (injected || pe.state() != PeState::Normal) {
        let _ = pe.unfreeze(Freeze::Io).and_then(|()| pe.unfreeze(Freeze::Dma));
    }
}

/// What is asked for.
enum Operation {
    /// Error handling stays as it is: there is nothing to switch off.
    Disable,
    Enable,
    Unfreeze(Freeze),
    State,
    Reset(Reset),
    Configure,
    Inject(ErrorInjection),
}

impl Operation {
    fn of(asked: &EehPeOp) -> Result<Self, Errno> {
        Ok(match asked.op {
            eeh_op::DISABLE => Self::Disable,
            eeh_op::ENABLE => Self::Enable,
            eeh_op::UNFREEZE_IO => Self::Unfreeze(Freeze::Io),
            eeh_op::UNFREEZE_DMA => Self::Unfreeze(Freeze::Dma),
            eeh_op::GET_STATE => Self::State,
            eeh_op::RESET_DEACTIVATE => Self::Reset(Reset::Deactivate),
            eeh_op::RESET_HOT => Self::Reset(Reset::Hot),
            eeh_op::RESET_FUNDAMENTAL => Self::Reset(Reset::Fundamental),
            eeh_op::CONFIGURE => Self::Configure,
            eeh_op::INJECT_ERR => Self::Inject(injection(asked)?),
            _ => return Err(Errno::Einval),
        })
    }

    /// Does it with one PE. Answers its state if that was asked for.
    fn run(&self, pe: &dyn Eeh) -> Result<u64, EehError> {
        match *self {
            Self::Disable => {}
            Self::Enable if pe.state() == PeState::Normal => {}
            Self::Enable => {
                pe.unfreeze(Freeze::Io)?;
                pe.unfreeze(Freeze::Dma)?;
            }
            Self::Unfreeze(what) => pe.unfreeze(what)?,
            Self::State => return Ok(pe.state() as u64),
            Self::Reset(reset) => pe.reset(reset)?,
            Self::Configure => pe.configure()?,
            Self::Inject(error) => pe.inject(error)?,
        }
        Ok(0)
    }
}

fn injection(asked: &EehPeOp) -> Result<ErrorInjection, Errno> {
    let wide = match asked.err_type {
        0 => false,
        1 => true,
        _ => return Err(Errno::Einval),
    };
    if asked.err_func > EehPeOp::LAST_FUNC {
        return Err(Errno::Einval);
    }
    Ok(ErrorInjection { wide, function: asked.err_func, address: asked.err_addr, mask: asked.err_mask })
}
