//! Function level reset, and the way in and out of a user's hands.
//!
//! A reset takes away what enumeration and this driver have written: base address registers, command, device control, MSI-X, access control; and turns
//! address services off. All of it is written again. What nobody else knows is noted when a reset begins, and kept until one has succeeded.
//!
//! Its registers answer nobody meanwhile, so that nobody may have them mapped ([`Mappings`](super::Mappings)).
//!
//! What the function had asked of memory before is waited for: an answer that comes later could be taken for one to the next user, who would read in it what is not his.
//!
//! Spec: PCIe 6.0, 6.6.2 "Function Level Reset (FLR)": 100 ms, after which the function answers, if only that it is not ready yet; its implementation note on stale
//! completions.

use portcullis_hal::{Platform, pause, wait_for};
use portcullis_pci::{
    Bar, MsiCapability, SavedServices, is_there, set_bus_master, set_interrupt_disable, set_memory_space,
};
use portcullis_spec::pcie::Space;
use portcullis_spec::pcie::express::{DEVICE_CONTROL, DEVICE_STATUS, DeviceControl, DeviceStatus};
use portcullis_spec::pcie::header::COMMAND;
use portcullis_types::mutant;

use super::config::bar_offset;
use super::{PciDevice, State};
use crate::Errno;

const RESET_NS: u64 = 100_000_000;
/// How long a function may take beyond that until it is ready. Choice: as long as after a reset of its link; the book says nothing. Observed: Linux 6.x, `pcie_flr`: a minute.
const READY_NS: u64 = 1_000_000_000;
/// How long what it asked for before may be under way. Observed: Linux 6.x, `pci_wait_for_pending`: 700 ms, and then it is reset all the same.
const PENDING_NS: u64 = 700_000_000;

/// What a reset takes away and only the function knows.
#[derive(Clone, Copy)]
pub(super) struct Saved {
    control: DeviceControl,
    /// What its second register is that firmware has set: time limits, tags.
    control_2: u16,
    services: SavedServices,
}

impl<P: Platform> PciDevice<P> {
    /// Whether the function is there.
    pub(super) fn answers(&self) -> bool {
        is_there(&*self.parts.config, self.parts.function.at)
    }

    /// No requests from now on, and no interrupts, of whatever kind a driver before may have used.
    pub(super) fn quiesce(&self) {
        let (config, at) = (&*self.parts.config, self.parts.function.at);
        set_bus_master(config, at, mutant!("closed-function-sends-on"));
        set_interrupt_disable(config, at, true);
        if let Some(msix) = self.msix {
            msix.disable(config);
        }
        MsiCapability::turn_off(config, &self.parts.function);
    }

    /// Registers answer, if there are any: where enumeration could make nothing of them, nobody knows where they would.
    pub(super) fn make_ready(&self) {
        let any = self.parts.function.bars.iter().any(|bar| bar.space != Space::Io);
        set_memory_space(&*self.parts.config, self.parts.function.at, any);
    }

    /// As it was before it was a user's, but for bus mastering, which is for the next driver to turn on.
    pub(super) fn put_back(&self, state: &State) {
        let (config, at) = (&*self.parts.config, self.parts.function.at);
        let before = state.config.before.command.with_bus_master(false);
        config.write32(at, COMMAND, u16::from(before).into());
    }

    /// Resets the function while a user has it: he finds it as he had set it up, but for what the reset is for. If it does not come back, nothing of it but
    /// configuration space is touched until another reset succeeds.
    pub(super) fn reset_for_user(&self, state: &mut State) -> Result<(), Errno> {
        if !self.can_reset {
            return Err(Errno::Einval);
        }
        self.mappings.iter().for_each(|mappings| mappings.revoke());
        self.quiesce();
        self.reset_function(state)?;
        self.make_ready();
        self.program_again(state);
        let on = state.config.command.bus_master();
        set_bus_master(&*self.parts.config, self.parts.function.at, on);
        self.mappings.iter().for_each(|mappings| mappings.restore());
        Ok(())
    }

    /// Resets the function, which sends nothing. Afterwards it is placed as before, and neither sends nor answers anything. If that fails, it is lost until another reset succeeds.
    pub(super) fn reset_function(&self, state: &mut State) -> Result<(), Errno> {
        let (config, at) = (&*self.parts.config, self.parts.function.at);
        let Some(express) = self.express else { return Err(Errno::Einval) };
        state.lost = true;
        if !self.answers() {
            return Err(Errno::Eio);
        }
        let offset = express + DEVICE_CONTROL;
        // After one that did not succeed, the function knows nothing of it any more.
        let saved = *state.saved.get_or_insert_with(|| self.save(offset));
        let clock = &**self.parts.device.platform();
        let status = || DeviceStatus::from(config.read16(at, express + DEVICE_STATUS));
        let _ = wait_for(clock, PENDING_NS, || (!status().transactions_pending()).then_some(()));
        // The status beside it is written as zeroes, which clears nothing.
        config.write32(at, offset, u16::from(saved.control.with_initiate_reset(true)).into());
        pause(clock, RESET_NS);
        wait_for(clock, READY_NS, || self.answers().then_some(())).map_err(|_| Errno::Eio)?;
        config.write32(at, offset, u16::from(saved.control).into());
        // The other half is reserved, and a reset leaves zeroes.
        if let Some(control_2) = self.control_2.filter(|_| saved.control_2 != 0) {
            config.write32(at, control_2, saved.control_2.into());
        }
        self.parts.function.bars.iter().for_each(|bar| self.place(bar));
        set_interrupt_disable(config, at, true);
        if !self.parts.function.restore_isolation(config) {
            return Err(Errno::Eio);
        }
        let restored = self.services.map_or(Ok(()), |services| services.restore(config, &saved.services));
        restored.map_err(|_| Errno::Eio)?;
        (state.lost, state.saved) = (false, None);
        Ok(())
    }

    fn save(&self, control: u16) -> Saved {
        let control = DeviceControl::from(self.parts.config.read16(self.parts.function.at, control));
        let control_2 =
            self.control_2.map_or(0, |offset| self.parts.config.read16(self.parts.function.at, offset));
        Saved { control: control.with_initiate_reset(false), control_2, services: self.services_now() }
    }

    fn services_now(&self) -> SavedServices {
        self.services.map(|services| services.save(&*self.parts.config)).unwrap_or_default()
    }

    /// For a new user of a function that is lost: what of its services is on is as others have it, who may have changed it since.
    pub(super) fn look_at_services(&self, state: &mut State) {
        if let Some(saved) = &mut state.saved {
            saved.services = self.services_now();
        }
    }

    /// Writes the address of a base address register again.
    fn place(&self, bar: &Bar) {
        let Some(placed) = bar.placed else { return };
        let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("cut to 32 bits");
        let (config, at) = (&*self.parts.config, self.parts.function.at);
        config.write32(at, bar_offset(bar.index.into()), half(placed.bus_address));
        if bar.space == Space::Memory64 {
            config.write32(at, bar_offset(usize::from(bar.index) + 1), half(placed.bus_address >> 32));
        }
    }
}
