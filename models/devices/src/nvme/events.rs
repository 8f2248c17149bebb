//! Asynchronous events: commands held until there is something to say.
//!
//! Spec: NVMe 1.4, 5.2 "Asynchronous Event Request command".

use std::collections::VecDeque;

/// Error status: write to an invalid doorbell register.
pub(crate) const INVALID_DOORBELL_WRITE: u8 = 0x00;
/// Error status: invalid doorbell write value.
pub(crate) const INVALID_DOORBELL_VALUE: u8 = 0x01;
/// The log page that tells more about errors.
const ERROR_LOG: u32 = 0x01;
/// How many requests may be held: one more than Identify's AERL.
pub(crate) const HELD_MAX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The ids of the commands that wait.
    held: VecDeque<u16>,
    queued: Option<u32>,
    /// An error was reported, and its log page not read since.
    masked: bool,
}

impl Events {
    /// Holds a request; false if there are too many.
    pub(crate) fn hold(&mut self, command: u16) -> bool {
        let room = self.held.len() < HELD_MAX;
        if room {
            self.held.push_back(command);
        }
        room
    }

    pub(crate) fn is_held(&self, command: u16) -> bool {
        self.held.contains(&command)
    }

    /// Stops holding a request: it was aborted.
    pub(crate) fn drop_held(&mut self, command: u16) -> bool {
        let before = self.held.len();
        self.held.retain(|&held| held != command);
        self.held.len() < before
    }

    /// An error: type 0 in bits 2:0, what it is in 15:8, the log page in 23:16. One is enough until it has been heard.
    pub(crate) fn report_error(&mut self, info: u8) {
        if !self.masked && self.queued.is_none() {
            self.queued = Some(u32::from(info) << 8 | ERROR_LOG << 16);
        }
    }

    #[cfg(test)]
    pub(crate) fn queued(&self) -> Option<u32> {
        self.queued
    }

    /// An event and the request that it completes, if there are both.
    pub(crate) fn take(&mut self) -> Option<(u16, u32)> {
        let event = self.queued?;
        let command = self.held.pop_front()?;
        self.queued = None;
        self.masked = true;
        Some((command, event))
    }

    /// The error log was read.
    pub(crate) fn unmask(&mut self) {
        self.masked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_needs_a_request_and_is_told_once_until_its_log_is_read() {
        let mut events = Events::default();
        events.report_error(INVALID_DOORBELL_VALUE);
        assert_eq!(events.take(), None);
        assert!(events.hold(9) && events.hold(10));
        assert_eq!(events.take(), Some((9, 0x0001_0100)));
        events.report_error(INVALID_DOORBELL_WRITE);
        assert_eq!(events.take(), None);
        events.unmask();
        events.report_error(INVALID_DOORBELL_WRITE);
        assert_eq!(events.take(), Some((10, 0x0001_0000)));
    }

    #[test]
    fn four_requests_are_held_and_no_fifth() {
        let mut events = Events::default();
        assert_eq!([1, 2, 3, 4, 5].map(|id| events.hold(id)), [true, true, true, true, false]);
        assert!(events.drop_held(2) && !events.is_held(2) && events.hold(5));
    }
}
