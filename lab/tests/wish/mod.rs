//! A process and an accelerator that are to share memory, on some machine: the `sva` workload with one thing or another.

use std::sync::Arc;

use portcullis_lab::RunError;
use portcullis_lab::input::Opened;
use portcullis_lab::machine::{MachineSpec, builtin};
use portcullis_lab::trace::Memory;
use portcullis_lab::workload::sva::{DeviceKind, Job, Outcome, run};

/// Nothing, around a page, and more than the queue of page requests holds.
pub(crate) const SIZES: [usize; 7] = [0, 1, 4095, 4096, 4097, 70_000, 300 << 10];

pub(crate) struct Wish {
    pub(crate) spec: MachineSpec,
    pub(crate) device: DeviceKind,
    pub(crate) bytes: usize,
    pub(crate) seed: u64,
    pub(crate) kill: bool,
}

impl Wish {
    pub(crate) fn new(machine: &str, device: DeviceKind, bytes: usize) -> Self {
        Self { spec: builtin::find(machine).unwrap(), device, bytes, seed: 1, kill: false }
    }

    /// What came of it, and what was said. A process that lives gets its input back.
    pub(crate) fn go(&self) -> Result<(Outcome, Vec<String>), RunError> {
        let sink = Arc::new(Memory::default());
        let input = Opened::beginning_of_sample(self.bytes);
        let outcome = run(&Job {
            spec: self.spec.clone(),
            device_tree: None,
            input: &input,
            seed: self.seed,
            device: self.device,
            kill: self.kill,
            sink: sink.clone(),
            tamper: None,
            progress: None,
        })?;
        if !self.kill {
            assert_eq!(outcome.digest.as_ref(), Some(&input.measure().digest));
        }
        Ok((outcome, sink.lines()))
    }

    pub(crate) fn name(&self) -> String {
        format!("{}, {}, {} bytes, seed {}", self.spec.name, self.device.name(), self.bytes, self.seed)
    }

    pub(crate) fn must(&self) -> (Outcome, Vec<String>) {
        self.go().unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }
}
