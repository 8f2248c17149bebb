//! Updates: registers whose writes take effect later, and say when.
//!
//! Spec: SMMUv3 H.a, 6.3.9.7 "Update procedure"; 6.3.14 "SMMU_GBPA", 6.3.16 "SMMU_IRQ_CTRL".

use crate::config::Config;

/// CR0.SMMUEN.
pub(crate) const SMMUEN: u32 = 1 << 0;
/// CR0.PRIQEN.
pub(crate) const PRIQEN: u32 = 1 << 1;
/// CR0.EVENTQEN.
pub(crate) const EVENTQEN: u32 = 1 << 2;
/// CR0.CMDQEN.
pub(crate) const CMDQEN: u32 = 1 << 3;
/// CR0.ATSCHK.
pub(crate) const ATSCHK: u32 = 1 << 4;
/// The fields of CR0 that exist without PRI, ATS and VMID wildcards.
const CR0_FIELDS: u32 = SMMUEN | EVENTQEN | CMDQEN;
/// IRQ_CTRL.GERROR_IRQEN.
pub(crate) const GERROR_IRQEN: u32 = 1 << 0;
/// IRQ_CTRL.PRIQ_IRQEN.
pub(crate) const PRIQ_IRQEN: u32 = 1 << 1;
/// IRQ_CTRL.EVENTQ_IRQEN.
pub(crate) const EVENTQ_IRQEN: u32 = 1 << 2;
/// The fields of IRQ_CTRL that exist without PRI.
const IRQ_FIELDS: u32 = GERROR_IRQEN | EVENTQ_IRQEN;
/// CR2.PTM.
pub(crate) const PTM: u32 = 1 << 2;
/// GBPA.Update.
pub(crate) const GBPA_UPDATE: u32 = 1 << 31;
/// GBPA.ABORT.
pub(crate) const GBPA_ABORT: u32 = 1 << 20;
/// The fields of GBPA.
pub(crate) const GBPA_FIELDS: u32 = 0x001f_3f1f;

/// The fields of CR0.
pub(crate) fn cr0_fields(config: &Config) -> u32 {
    let choose = |there, field| if there { field } else { 0 };
    CR0_FIELDS | choose(config.has_pri(), PRIQEN) | choose(config.ats, ATSCHK)
}

/// The fields of IRQ_CTRL.
pub(crate) fn irq_fields(config: &Config) -> u32 {
    if config.has_pri() { IRQ_FIELDS | PRIQ_IRQEN } else { IRQ_FIELDS }
}

/// A register of which the written value becomes the effective one some ticks later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    pub(crate) written: u32,
    pub(crate) effective: u32,
    ticks_left: u32,
}

impl Update {
    pub(crate) fn new(value: u32) -> Self {
        Self { written: value, effective: value, ticks_left: 0 }
    }

    /// Fields of which an Update is under way.
    pub(crate) fn in_progress(&self) -> u32 {
        self.written ^ self.effective
    }

    /// Takes a new value, that becomes effective after `ticks`.
    pub(crate) fn write(&mut self, value: u32, ticks: u32) {
        self.written = value;
        self.ticks_left = ticks;
    }

    /// Whether the written value is to become effective now; counts a tick if not.
    pub(crate) fn is_due(&mut self) -> bool {
        let waiting = self.in_progress() != 0;
        let due = waiting && self.ticks_left == 0;
        self.ticks_left = self.ticks_left.saturating_sub(u32::from(waiting));
        due
    }

    /// Whether a field is, and stays, 0: the condition of every guard.
    pub(crate) fn is_off(&self, fields: u32) -> bool {
        (self.written | self.effective) & fields == 0
    }

    pub(crate) fn is_on(&self, field: u32) -> bool {
        self.effective & field != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_takes_its_ticks_and_is_seen_meanwhile() {
        let mut cr0 = Update::new(0);
        assert!(!cr0.is_due(), "nothing to do");
        cr0.write(CMDQEN, 2);
        assert!(!cr0.is_on(CMDQEN) && !cr0.is_off(CMDQEN) && cr0.in_progress() == CMDQEN);
        assert_eq!([cr0.is_due(), cr0.is_due(), cr0.is_due()], [false, false, true]);
    }
}
