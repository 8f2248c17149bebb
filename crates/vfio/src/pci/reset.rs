//! Function level reset, and the way in and out of a user's hands.
//!
//! A reset takes away what enumeration and this driver have written: base address registers, command, device control, MSI-X; and turns
//! address services off. All of it is written again.
//!
//! Spec: PCIe 6.0, 6.6.2 "Function Level Reset (FLR)": 100 ms, after which the function answers.

use portcullis_hal::{Platform, pause};
use portcullis_pci::{Bar, set_bus_master, set_interrupt_disable, set_memory_space};
use portcullis_spec::pcie::express::{DEVICE_CONTROL, DeviceControl};
use portcullis_spec::pcie::header::{COMMAND, VENDOR_ID};
use portcullis_spec::pcie::{ABSENT, Space};
use portcullis_types::mutant;

use super::config::bar_offset;
use super::{PciDevice, State};
use crate::Errno;

const RESET_NS: u64 = 100_000_000;

impl<P: Platform> PciDevice<P> {
    /// Whether the function is there.
    pub(super) fn answers(&self) -> bool {
        self.parts.config.read32(self.parts.function.at, VENDOR_ID) != ABSENT
    }

    /// No requests from now on, and no interrupts.
    pub(super) fn quiesce(&self) {
        let (config, at) = (&*self.parts.config, self.parts.function.at);
        set_bus_master(config, at, mutant!("closed-function-sends-on"));
        set_interrupt_disable(config, at, true);
        if let Some(msix) = self.msix {
            msix.disable(config);
        }
    }

    /// Registers answer.
    pub(super) fn make_ready(&self) {
        set_memory_space(&*self.parts.config, self.parts.function.at, true);
    }

    /// As it was before it was a user's, but for bus mastering, which is for the next driver to turn on.
    pub(super) fn put_back(&self, state: &State) {
        let (config, at) = (&*self.parts.config, self.parts.function.at);
        let before = state.config.before.with_bus_master(false);
        config.write32(at, COMMAND, u16::from(before).into());
    }

    /// Resets the function while a user has it: he finds it as he had set it up, but for what the reset is for. If it does not come back, nothing of it but
    /// configuration space is touched until another reset succeeds.
    pub(super) fn reset_for_user(&self, state: &mut State) -> Result<(), Errno> {
        if !self.can_reset {
            return Err(Errno::Einval);
        }
        self.quiesce();
        state.lost = true;
        self.reset_function()?;
        self.make_ready();
        state.lost = false;
        self.program_again(state);
        let on = state.config.command.bus_master();
        set_bus_master(&*self.parts.config, self.parts.function.at, on);
        Ok(())
    }

    /// Resets the function. Afterwards it is placed as before, and neither sends nor answers anything.
    pub(super) fn reset_function(&self) -> Result<(), Errno> {
        let (config, at) = (&*self.parts.config, self.parts.function.at);
        let Some(express) = self.express else { return Err(Errno::Einval) };
        let services = self.services.map(|services| (services, services.save(config)));
        let offset = express + DEVICE_CONTROL;
        let control = DeviceControl::from(config.read16(at, offset));
        // The status beside it is written as zeroes, which clears nothing.
        config.write32(at, offset, u16::from(control.with_initiate_reset(true)).into());
        let clock = &**self.parts.device.platform();
        pause(clock, RESET_NS);
        if !self.answers() {
            return Err(Errno::Eio);
        }
        config.write32(at, offset, u16::from(control.with_initiate_reset(false)).into());
        self.parts.function.bars.iter().for_each(|bar| self.place(bar));
        set_interrupt_disable(config, at, true);
        let restored = services.map_or(Ok(()), |(services, saved)| services.restore(config, &saved));
        restored.map_err(|_| Errno::Eio)
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
