//! Who presents a PHB3's interrupts to the CPU: the model itself, or a chip's presentation controller (ICP, of XICS).
//!
//! A presentation controller shows one interrupt at a time. Taking it raises the CPU's priority to the interrupt's; ending it gives the old one back, and what came meanwhile
//! is shown.
//!
//! Observed: Linux 6.x, arch/powerpc/sysdev/xics/icp-native.c, `icp_native_get_irq`, `icp_native_eoi`.
//! Not here: what the bridge is told of an interrupt that is ended (`messages`).

use std::sync::Arc;

use model_ioda2 as model;
use portcullis::hal::Registers;

use crate::machine::qemu::Icp;
use crate::platform::LabPlatform;

/// Priority of the CPU above, number of an interrupt below.
const XIRR: usize = 4;
const NUMBER: u32 = 0xff_ffff;
/// Every interrupt may come.
const OPEN: u32 = 0xff << 24;

/// Who presents.
#[derive(Clone, Debug)]
pub(super) enum Presenter {
    /// The model, to the lab, which is CPU 0.
    Model(Arc<model::Phb3>),
    /// The controller of a CPU.
    Icp(Icp),
}

/// An interrupt that is presented: its source at the bridge, and what its controller wants to hear when it is ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presented {
    pub(super) source: u16,
    xirr: u32,
}

impl Presenter {
    /// The CPU's number.
    pub(super) fn server(&self) -> u16 {
        match self {
            Self::Model(_) => 0,
            Self::Icp(icp) => icp.server,
        }
    }

    /// Interrupts may come.
    pub(super) fn open(&self, platform: &Arc<LabPlatform>) {
        if let Self::Icp(icp) = self {
            platform.registers(icp.registers).write32(XIRR, OPEN);
        }
    }

    /// What has come.
    pub(super) fn take(&self, platform: &Arc<LabPlatform>) -> Vec<Presented> {
        match self {
            Self::Model(model) => {
                let presented = |one: model::Interrupt| Presented { source: one.source, xirr: 0 };
                model.take_interrupts().into_iter().map(presented).collect()
            }
            Self::Icp(icp) => {
                let xirr = platform.registers(icp.registers).read32(XIRR);
                let source = (xirr & NUMBER).checked_sub(icp.first).and_then(|one| u16::try_from(one).ok());
                source.map(|source| Presented { source, xirr }).into_iter().collect()
            }
        }
    }

    /// One has been ended at the bridge.
    pub(super) fn end(&self, platform: &Arc<LabPlatform>, presented: Presented) {
        if let Self::Icp(icp) = self {
            platform.registers(icp.registers).write32(XIRR, presented.xirr);
        }
    }
}
