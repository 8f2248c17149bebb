//! Errors made on purpose: which access is hit, as the bridge's registers for it have it.
//!
//! | error | matched by | stays within the PE by |
//! |---|---|---|
//! | DMA | the DMA address | nothing: another PE's access of that address is hit as well |
//! | load, store | the CPU's address | the mask, which always covers the number of a segment of M32 that is the PE's |
//! | configuration | bus, device, function, register | the mask, which always covers the first three |
//!
//! An address that is not the PE's is replaced by its first segment or function, as skiboot does, but for DMA.
//!
//! Observed: skiboot hw/phb3.c, `phb3_err_inject` and what it calls; `phb3_papr_errinjct_reset`: the registers do not clear themselves.
//! Choice: M64 is not used here, so that no PE has addresses there: refused, as skiboot does. Of a PE with several segments skiboot's mask may cover one
//! beside them, which is somebody else's: here it is one segment.

use portcullis_core::table_group::{EehError, ErrorInjection};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::ioda2::registers::{
    ERR_INJ_ADDR, ERR_INJ_CONFIG, ERR_INJ_CTL, ERR_INJ_FUNCTION_BITS, ERR_INJ_FUNCTION_SHIFT,
    ERR_INJ_INBOUND, ERR_INJ_MASK, ERR_INJ_MMIO_BITS, ERR_INJ_OUTBOUND, ERR_INJ_READ, ERR_INJ_WRITE,
};
use portcullis_spec::ioda2::tables::{PE_COUNT, WINDOW_BIT};

use crate::bridge::Bridge;
use crate::config::M32;
use crate::pe::Pe;

/// What is hit. Observed: Linux 7.3, include/uapi/asm/eeh.h, `EEH_ERR_FUNC_…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Dma,
    Memory,
    Config,
}

/// A function's number: what it hits, and whether that is a write. None for I/O space, which the bridge does not have.
fn access(function: u32) -> Option<(What, bool)> {
    Some(match function {
        0 | 1 => (What::Memory, false),
        4 | 5 => (What::Config, false),
        6 | 7 => (What::Memory, true),
        10 | 11 => (What::Config, true),
        12..=15 => (What::Dma, false),
        16..=19 => (What::Dma, true),
        _ => return None,
    })
}

/// Makes an error for a PE. It is cleared by [`clear`].
pub(crate) fn inject<P: Platform, R: Registers>(
    bridge: &Bridge<P, R>,
    pe: &Pe<P, R>,
    error: ErrorInjection,
) -> Result<(), EehError> {
    let (what, write) = access(error.function).ok_or(EehError::Unsupported)?;
    let (control, address, mask) = match what {
        What::Dma => {
            dma(error)?;
            (ERR_INJ_INBOUND, error.address, error.mask)
        }
        What::Memory => {
            let m32 = bridge.config.m32.filter(|_| !error.wide).ok_or(EehError::Unsupported)?;
            let (address, mask) = memory(m32, &pe.segments, error).ok_or(EehError::Unsupported)?;
            (ERR_INJ_OUTBOUND, address, mask)
        }
        What::Config => {
            let (address, mask) = config(pe, error).ok_or(EehError::Unsupported)?;
            (ERR_INJ_CONFIG, address, mask)
        }
    };
    let _one_at_a_time = bridge.injection.lock();
    zero(bridge);
    bridge.registers.write64(ERR_INJ_ADDR, address);
    bridge.registers.write64(ERR_INJ_MASK, mask);
    bridge.registers.write64(ERR_INJ_CTL, control | if write { ERR_INJ_WRITE } else { ERR_INJ_READ });
    bridge.confirm().map_err(EehError::Sync)
}

/// No error is made any more, whosever it was.
pub(crate) fn clear<P: Platform, R: Registers>(bridge: &Bridge<P, R>) {
    let _one_at_a_time = bridge.injection.lock();
    zero(bridge);
}

fn zero<P: Platform, R: Registers>(bridge: &Bridge<P, R>) {
    [ERR_INJ_CTL, ERR_INJ_ADDR, ERR_INJ_MASK]
        .iter()
        .for_each(|&register| bridge.registers.write64(register, 0));
}

fn dma(error: ErrorInjection) -> Result<(), EehError> {
    let window = error.address >> WINDOW_BIT;
    if window > 1 || (window == 1) != error.wide {
        return Err(EehError::BadAddress(error.address));
    }
    Ok(())
}

/// None if no segment is the PE's.
fn memory(m32: M32, segments: &[u8], error: ErrorInjection) -> Option<(u64, u64)> {
    let segment_bytes = m32.bytes / u64::from(PE_COUNT);
    let first = segments.iter().min()?;
    let segment = error.address.checked_sub(m32.cpu_first.get()).map(|offset| offset / segment_bytes);
    let is_own = |segment: &u64| u8::try_from(*segment).is_ok_and(|segment| segments.contains(&segment));
    let of_segment = ERR_INJ_MMIO_BITS & !(segment_bytes - 1);
    let (address, mask) = match segment.filter(is_own) {
        Some(_) => (error.address, error.mask & ERR_INJ_MMIO_BITS | of_segment),
        None => (m32.cpu_first.get() + u64::from(*first) * segment_bytes, of_segment),
    };
    Some((address & ERR_INJ_MMIO_BITS, mask))
}

/// None if no request id is the PE's.
fn config<P: Platform, R: Registers>(pe: &Pe<P, R>, error: ErrorInjection) -> Option<(u64, u64)> {
    let place = |rid: u16| u64::from(rid) << ERR_INJ_FUNCTION_SHIFT;
    let first = pe.members.first()?.rid;
    let asked = error.address & ERR_INJ_FUNCTION_BITS;
    let is_own = pe.members.iter().any(|member| place(member.rid) == asked);
    Some(if is_own {
        (error.address, error.mask | ERR_INJ_FUNCTION_BITS)
    } else {
        (place(first), ERR_INJ_FUNCTION_BITS)
    })
}
