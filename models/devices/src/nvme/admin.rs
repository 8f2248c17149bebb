//! The admin command set.
//!
//! Spec: NVMe 1.4, 5 "Admin Command Set".

use super::Nvme;
use super::command::Command;
use super::identify::{self, NSID};
use super::state::State;
use super::status::Status;

pub(super) const DELETE_SQ: u8 = 0x00;
pub(super) const CREATE_SQ: u8 = 0x01;
pub(super) const GET_LOG_PAGE: u8 = 0x02;
pub(super) const DELETE_CQ: u8 = 0x04;
pub(super) const CREATE_CQ: u8 = 0x05;
pub(super) const IDENTIFY: u8 = 0x06;
pub(super) const ABORT: u8 = 0x08;
pub(super) const SET_FEATURES: u8 = 0x09;
pub(super) const GET_FEATURES: u8 = 0x0a;
pub(super) const EVENT_REQUEST: u8 = 0x0c;

/// What to do when a command has been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Complete it, with this result.
    Done(u32),
    /// Keep it: it completes when an event comes.
    Held,
}

impl Nvme {
    /// Carries out a command of the admin queue.
    pub(super) fn admin_command(&self, command: &Command) -> Result<Reply, Status> {
        if command.fuse() != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let changed = |change: fn(&mut State, &Command) -> Result<(), Status>| {
            change(&mut self.state(), command).map(|()| Reply::Done(0))
        };
        match command.opcode() {
            DELETE_SQ => self.delete_sq(command).map(|()| Reply::Done(0)),
            CREATE_SQ => changed(State::create_sq),
            GET_LOG_PAGE => self.get_log_page(command),
            DELETE_CQ => changed(State::delete_cq),
            CREATE_CQ => changed(State::create_cq),
            IDENTIFY => self.identify(command),
            ABORT => Ok(self.abort(command)),
            SET_FEATURES => self.state().set_features(command).map(Reply::Done),
            GET_FEATURES => self.state().get_features(command).map(Reply::Done),
            EVENT_REQUEST if self.state().events.hold(command.id()) => Ok(Reply::Held),
            EVENT_REQUEST => Err(Status::EVENT_LIMIT),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// CNS, in bits 7:0 of CDW10, says what is to be identified.
    fn identify(&self, command: &Command) -> Result<Reply, Status> {
        let nsid = command.nsid();
        let data = match command.cdw(10) as u8 {
            // A namespace that exists is active, and there is only one.
            0x00 if nsid == NSID => identify::namespace(self.disk.facts()),
            0x01 => identify::controller(&self.options),
            0x02 if nsid < 0xffff_fffe => identify::active_list(nsid),
            0x03 if nsid == NSID => identify::descriptors(),
            0x00 | 0x02 | 0x03 => return Err(Status::INVALID_NAMESPACE),
            _ => return Err(Status::INVALID_FIELD),
        };
        self.send(command, &data)?;
        Ok(Reply::Done(0))
    }

    /// NUMD, 0's based dwords, in CDW10 31:16 and CDW11 15:0; the offset in CDW12 and 13; RAE in CDW10 bit 15.
    fn get_log_page(&self, command: &Command) -> Result<Reply, Status> {
        const ERROR_LOG: u8 = 0x01;
        const RETAIN_EVENT: u32 = 1 << 15;
        let page = command.cdw(10) as u8;
        let dwords = u64::from(command.cdw(10) >> 16) | u64::from(command.cdw(11) & 0xffff) << 16;
        let (len, offset) = (4 * (dwords + 1), command.qword(12));
        let bytes = self.state().logs.page(page).ok_or(Status::INVALID_LOG)?;
        if len > self.transfer_max() as u64 || offset & 3 != 0 || offset > bytes.len() as u64 {
            return Err(Status::INVALID_FIELD);
        }
        let mut part = bytes[offset as usize..].to_vec();
        part.resize(len as usize, 0);
        self.send(command, &part)?;
        if page == ERROR_LOG && command.cdw(10) & RETAIN_EVENT == 0 {
            self.state().events.unmask();
        }
        Ok(Reply::Done(0))
    }

    /// SQID in bits 15:0, CID in 31:16 of CDW10. The result is 0 if the command was aborted, 1 if it could not be: so if there is no room to say that it
    /// was, besides the answer to this one where that goes to the same queue.
    /// Spec: NVMe 1.4, 5.1 "Abort command".
    fn abort(&self, command: &Command) -> Reply {
        let (sq, id) = (command.cdw(10) as u16, (command.cdw(10) >> 16) as u16);
        let mut state = self.state();
        let has_room = state.room(sq) > u32::from(sq == 0);
        let held = sq == 0 && has_room && state.events.drop_held(id);
        let found = state.in_flight.iter().position(|under| under.sq == sq && under.command.id() == id);
        let under = match found {
            Some(at) if has_room => Some(state.in_flight.remove(at)),
            _ => None,
        };
        drop(state);
        if held {
            self.complete_id(0, id, Status::ABORT_REQUESTED, 0);
        } else if let Some(under) = under {
            self.complete(sq, &under.command, Status::ABORT_REQUESTED, 0);
        } else {
            return Reply::Done(1);
        }
        Reply::Done(0)
    }
}
