//! The register programming that both machines get, by hand and raw.
//!
//! Spec: SMMUv3 H.a, 6.2 "Register overview", 6.3, 4.3 "Configuration structure invalidation", 4.4 "TLB invalidation", 4.7.3 "CMD_SYNC".

use crate::case::Setup;
use crate::layout::{COMMAND_LG2, COMMANDS, EVENT_LG2, EVENTS};

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Of 32 bits.
    Write32(u64, u32),
    /// Of 64 bits.
    Write64(u64, u64),
}

/// CR0.
pub const CR0: u64 = 0x20;
/// CMDQ_PROD.
pub const CMDQ_PROD: u64 = 0x98;
/// CMDQ_CONS.
pub const CMDQ_CONS: u64 = 0x9c;
/// EVENTQ_PROD.
pub const EVENTQ_PROD: u64 = 0x1_00a8;
/// EVENTQ_CONS.
pub const EVENTQ_CONS: u64 = 0x1_00ac;
/// SMMUEN, EVENTQEN, CMDQEN.
const ENABLE: u32 = 0b1101;

/// The commands with which the queue is filled once and for all, again and again: CFGI_ALL, TLBI_NSNH_ALL, CMD_SYNC, CMD_SYNC.
pub const FLUSH: [[u64; 2]; 4] = [[0x04, 31], [0x30, 0], [0x46, 0], [0x46, 0]];

/// From any state to a machine that translates as the case says, with nothing cached. `prod` is where the command queue is.
pub fn enable(setup: &Setup, prod: &mut u32) -> Vec<Step> {
    let mut steps = vec![
        Step::Write32(CR0, 0),
        Step::Write64(0x80, setup.table_base),
        Step::Write32(0x88, setup.table_config),
        Step::Write32(0x2c, setup.cr2),
        Step::Write64(0xa0, EVENTS | u64::from(EVENT_LG2)),
        Step::Write32(EVENTQ_PROD, 0),
        Step::Write32(EVENTQ_CONS, 0),
        Step::Write64(0x90, COMMANDS | u64::from(COMMAND_LG2)),
        Step::Write32(CMDQ_CONS, 0),
        Step::Write32(CMDQ_PROD, 0),
        Step::Write32(CR0, ENABLE & !1),
    ];
    *prod = 0;
    steps.push(flush(prod));
    steps.push(Step::Write32(CR0, ENABLE));
    steps
}

/// Invalidates all that is cached.
pub fn flush(prod: &mut u32) -> Step {
    *prod = (*prod + 4) & ((2 << COMMAND_LG2) - 1);
    Step::Write32(CMDQ_PROD, *prod)
}
