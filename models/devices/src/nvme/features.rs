//! Features: settings that software reads and changes.
//!
//! Spec: NVMe 1.4, 5.13 "Get Features command"; 5.21 "Set Features command".

use super::command::Command;
use super::state::{Limits, State};
use super::status::Status;

const ARBITRATION: u8 = 0x01;
const POWER_MANAGEMENT: u8 = 0x02;
const TEMPERATURE_THRESHOLD: u8 = 0x04;
const ERROR_RECOVERY: u8 = 0x05;
const NUMBER_OF_QUEUES: u8 = 0x07;
const INTERRUPT_COALESCING: u8 = 0x08;
const INTERRUPT_VECTOR: u8 = 0x09;
const WRITE_ATOMICITY: u8 = 0x0a;
const EVENT_CONFIGURATION: u8 = 0x0b;

/// Capabilities of a feature that can be changed (bit 2) and neither saved nor set by namespace.
const CHANGEABLE: u32 = 1 << 2;
const SAVE: u32 = 1 << 31;

/// The current values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// By feature id.
    values: [u32; 12],
    /// Bit 16 of Interrupt Vector Configuration, by vector: coalescing off.
    coalescing_off: Vec<bool>,
    pub(crate) submission_queues: u16,
    pub(crate) completion_queues: u16,
}

impl Features {
    pub(crate) fn new(limits: Limits) -> Self {
        let mut values = [0; 12];
        // No limit on the arbitration burst; 343 K.
        values[usize::from(ARBITRATION)] = 7;
        values[usize::from(TEMPERATURE_THRESHOLD)] = 343;
        Self {
            values,
            coalescing_off: vec![false; usize::from(limits.vectors)],
            submission_queues: limits.io_queues,
            completion_queues: limits.io_queues,
        }
    }

    fn number_of_queues(&self) -> u32 {
        u32::from(self.submission_queues - 1) | u32::from(self.completion_queues - 1) << 16
    }

    fn get(&self, feature: u8, cdw11: u32) -> Result<u32, Status> {
        match feature {
            ARBITRATION
            | POWER_MANAGEMENT
            | TEMPERATURE_THRESHOLD
            | ERROR_RECOVERY
            | INTERRUPT_COALESCING
            | WRITE_ATOMICITY
            | EVENT_CONFIGURATION => Ok(self.values[usize::from(feature)]),
            NUMBER_OF_QUEUES => Ok(self.number_of_queues()),
            INTERRUPT_VECTOR => {
                let vector = cdw11 & 0xffff;
                let off = *self.coalescing_off.get(vector as usize).ok_or(Status::INVALID_FIELD)?;
                Ok(vector | u32::from(off) << 16)
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn set(&mut self, feature: u8, cdw11: u32, limits: Limits) -> Result<u32, Status> {
        match feature {
            POWER_MANAGEMENT if cdw11 & 0x1f != 0 => return Err(Status::INVALID_FIELD),
            ARBITRATION
            | POWER_MANAGEMENT
            | TEMPERATURE_THRESHOLD
            | ERROR_RECOVERY
            | INTERRUPT_COALESCING
            | WRITE_ATOMICITY
            | EVENT_CONFIGURATION => self.values[usize::from(feature)] = cdw11,
            NUMBER_OF_QUEUES => return self.set_number_of_queues(cdw11, limits),
            INTERRUPT_VECTOR => {
                let place = self.coalescing_off.get_mut((cdw11 & 0xffff) as usize);
                *place.ok_or(Status::INVALID_FIELD)? = cdw11 & 1 << 16 != 0;
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }

    /// Spec: NVMe 1.4, 5.21.1.7 "Number of Queues": numbers are 0's based, and 65,535 is none.
    fn set_number_of_queues(&mut self, cdw11: u32, limits: Limits) -> Result<u32, Status> {
        let (submission, completion) = (cdw11 & 0xffff, cdw11 >> 16);
        if submission == 0xffff || completion == 0xffff {
            return Err(Status::INVALID_FIELD);
        }
        let granted = |wanted: u32| (wanted as u16 + 1).min(limits.io_queues);
        self.submission_queues = granted(submission);
        self.completion_queues = granted(completion);
        Ok(self.number_of_queues())
    }
}

impl State {
    pub(crate) fn get_features(&self, command: &Command) -> Result<u32, Status> {
        let (feature, cdw11) = (command.cdw(10) as u8, command.cdw(11));
        let current = self.features.get(feature, cdw11)?;
        match command.cdw(10) >> 8 & 7 {
            0 => Ok(current),
            // What is saved is the default where nothing can be saved.
            1 | 2 => Features::new(self.limits).get(feature, cdw11),
            3 => Ok(CHANGEABLE),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    pub(crate) fn set_features(&mut self, command: &Command) -> Result<u32, Status> {
        let (feature, cdw11) = (command.cdw(10) as u8, command.cdw(11));
        self.features.get(feature, cdw11)?;
        if command.cdw(10) & SAVE != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        let io_queues = self.sqs.iter().skip(1).flatten().count() + self.cqs.iter().skip(1).flatten().count();
        if feature == NUMBER_OF_QUEUES && io_queues > 0 {
            return Err(Status::SEQUENCE_ERROR);
        }
        let limits = self.limits;
        self.features.set(feature, cdw11, limits)
    }
}
