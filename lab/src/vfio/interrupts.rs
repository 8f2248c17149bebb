//! From an interrupt to an event file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::core::device::Device;
use portcullis::firmware::MsiTarget;
use portcullis::vfio::pci::{Doorbell, Interrupts};
use portcullis::vfio::{Errno, EventFile};

use crate::boot::{self, Line, System};
use crate::platform::LabPlatform;

/// Interrupts of functions that users have: each is connected to an event file, or to none.
#[derive(Debug)]
pub struct UserInterrupts {
    interrupts: Arc<boot::Interrupts>,
    /// Where each function's messages go, by its name.
    targets: BTreeMap<String, MsiTarget>,
    lines: Mutex<BTreeMap<(String, u16), Line>>,
}

impl UserInterrupts {
    /// Nothing is connected.
    pub fn new(system: &System) -> Arc<Self> {
        let target = |(_, endpoint): (_, &boot::Endpoint)| Some((endpoint.name.clone(), endpoint.msi?));
        let targets = system.endpoints().filter_map(target).collect();
        Arc::new(Self { interrupts: system.interrupts.clone(), targets, lines: Mutex::default() })
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.lines().len()
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<(String, u16), Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupts<LabPlatform> for UserInterrupts {
    fn connect(
        &self,
        device: &Device<LabPlatform>,
        vector: u16,
        to: Arc<dyn EventFile>,
    ) -> Result<Doorbell, Errno> {
        let target = *self.targets.get(device.name()).ok_or(Errno::Einval)?;
        let line = self.interrupts.line(device.name(), target, vector.into()).map_err(|_| Errno::Enospc)?;
        line.on_signal(move || to.signal());
        let doorbell = Doorbell { address: line.doorbell, data: line.data };
        let before = self.lines().insert((device.name().into(), vector), line);
        if let Some(before) = before {
            before.no_handler();
        }
        Ok(doorbell)
    }

    fn disconnect(&self, device: &Device<LabPlatform>, vector: u16) {
        let line = self.lines().remove(&(device.name().into(), vector));
        let Some(line) = line else { return };
        line.no_handler();
        if let Some(&target) = self.targets.get(device.name()) {
            self.interrupts.forget(target, vector.into());
        }
    }
}
