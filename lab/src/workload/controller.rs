//! An NVMe controller's own registers: it is switched on with a pair of queues, and off. That is what the polled drivers here have in common, whatever their memory is.
//!
//! Spec: NVMe Base 2.0, 3.1.3 "Controller Properties"; 5.15 "Get Features command"; 5.27 "Set Features command".
//! Not here: the commands (`prober`, `sva::whole`); the driver in user space, whose registers are not the kernel's (`vfio::program`).

use portcullis::hal::{Registers, wait_for};

use crate::platform::{LabPlatform, RegisterWindow};

/// A limit for one command, and for the controller's own changes of state.
pub(super) const LIMIT_NS: u64 = 5_000_000_000;

const CC: usize = 0x14;
pub(super) const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
/// The doorbell of the submission queue 0; all others follow.
pub(super) const DOORBELLS: usize = 0x1000;
/// CC.EN, entries of 64 and 16 bytes.
const CC_ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
const CSTS_RDY: u32 = 1;
const CSTS_CFS: u32 = 2;
/// Entries of both queues.
pub(super) const ENTRIES: u32 = 16;

/// Two commands whose data are 8 bytes that nobody else needs: the disk reads them, and writes them.
pub(super) const SET_FEATURES: u8 = 0x09;
pub(super) const GET_FEATURES: u8 = 0x0a;
pub(super) const TIMESTAMP: u32 = 0x0e;

/// Switches it off.
///
/// # Errors
///
/// Here and below: what it does not do.
pub(super) fn disable(platform: &LabPlatform, registers: &RegisterWindow) -> Result<(), String> {
    registers.write32(CC, 0);
    let ready = wait_for(platform, LIMIT_NS, || (registers.read32(CSTS) & CSTS_RDY == 0).then_some(()));
    ready.map_err(|_| "the disk does not stop".to_owned())
}

/// Switches it on, with its first two queues at these addresses.
pub(super) fn enable(
    platform: &LabPlatform,
    registers: &RegisterWindow,
    submission: u64,
    completion: u64,
) -> Result<(), String> {
    registers.write32(AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
    registers.write64(ASQ, submission);
    registers.write64(ACQ, completion);
    registers.write32(CC, CC_ENABLED);
    let ready = wait_for(platform, LIMIT_NS, || (registers.read32(CSTS) & CSTS_RDY != 0).then_some(()));
    ready.map_err(|_| "the disk does not start".to_owned())
}

/// Whether it says that it can do nothing more.
pub(super) fn has_failed(registers: &RegisterWindow) -> bool {
    registers.read32(CSTS) & CSTS_CFS != 0
}
