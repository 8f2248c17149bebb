//! Moving devices: all or none, or each as far as hardware goes.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_types::mutant;
use portcullis_types::trace::Value;

use super::{Group, GroupError, Left, State};
use crate::device::Device;
use crate::domain::{Domain, DomainType, FlushMode, Prepared};
use crate::iommu::{AttachError, Target};
use crate::trace;

impl<P: Platform> Group<P> {
    /// Attaches all members to `domain`, which is the current one from then on; or none.
    pub(super) fn move_all(&self, state: &mut State<P>, domain: &Arc<Domain<P>>) -> Result<(), GroupError> {
        // Who is there already need not go. After a failure this differs from member to member. But who is said to be blocked may be so without hardware's word, after
        // something of this group's or of its IOMMU's that failed, and whoever takes the group from here is to have that.
        let asks = Arc::ptr_eq(domain, &self.blocked) && !mutant!("unconfirmed-block-taken-for-a-block");
        let goes = |device: &&Arc<Device<P>>| asks || !is_in(device, domain);
        let moving: Vec<Arc<Device<P>>> = state.members.iter().filter(goes).cloned().collect();
        let prepared = self.prepare_all(&moving, domain)?;
        let target = domain.target();
        let count = if mutant!("one-device-of-the-group-moves") { 1 } else { moving.len() };
        for (at, device) in moving.iter().enumerate().take(count) {
            if let Err(error) = self.tell(state, device, &target) {
                self.say(device, domain, "refused");
                return Err(self.go_back(state, &moving, at, error, domain, prepared));
            }
        }
        moving.iter().for_each(|device| self.moved(state, device, domain));
        state.is_now_in(domain);
        Ok(())
    }

    /// Blocks each member, as far as hardware does. Answers those that it refuses to block.
    pub(super) fn block_all(&self, state: &mut State<P>) -> Vec<String> {
        let mut open = Vec::new();
        let members = state.members.clone();
        for device in members.iter().filter(|device| !is_in(device, &self.blocked)) {
            if self.block(state, device).is_err() {
                open.push(device.name().into());
            }
        }
        state.is_now_in(&self.blocked);
        open
    }

    /// Hardware has left a member blocked, in something that is not the group's: it is taken to where it belongs when the group next moves, or a driver is
    /// bound to it.
    pub(crate) fn left_blocked(&self, device: &Arc<Device<P>>) {
        let mut state = self.lock();
        if state.is_member(device) && !is_in(device, &self.blocked) && !mutant!("left-blocked-and-not-noted")
        {
            self.moved(&mut state, device, &self.blocked);
        }
    }

    /// Blocks a member that does not answer, whoever has the group: as if hardware had [left it blocked](Self::left_blocked).
    pub(crate) fn give_up(&self, device: &Arc<Device<P>>) -> Result<(), AttachError> {
        let mut state = self.lock();
        if !state.is_member(device) || is_in(device, &self.blocked) {
            return Ok(());
        }
        self.block(&mut state, device)
    }

    /// Blocks a member, whether or not hardware confirms it.
    fn block(&self, state: &mut State<P>, device: &Arc<Device<P>>) -> Result<(), AttachError> {
        match self.tell(state, device, &Target::Blocked) {
            Ok(()) | Err(AttachError::LeftBlocked(_)) => {
                self.moved(state, device, &self.blocked);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn prepare_all(
        &self,
        devices: &[Arc<Device<P>>],
        domain: &Domain<P>,
    ) -> Result<Vec<Prepared>, GroupError> {
        let mut done = Vec::with_capacity(devices.len());
        for device in devices {
            match domain.prepare(device) {
                Ok(prepared) => done.push(prepared),
                Err(error) => {
                    // Last first, so that each finds what it left.
                    let done = if mutant!("failed-preparation-not-undone") { Vec::new() } else { done };
                    let undo: Vec<_> = devices.iter().zip(done).collect();
                    undo.into_iter().rev().for_each(|(device, prepared)| domain.unprepare(device, prepared));
                    return Err(GroupError::Attach { device: device.name().into(), error });
                }
            }
        }
        Ok(done)
    }

    /// Member `failed` of `moving` was refused with `error`: those before it go back to where they are said to be.
    fn go_back(
        &self,
        state: &mut State<P>,
        moving: &[Arc<Device<P>>],
        failed: usize,
        error: AttachError,
        domain: &Arc<Domain<P>>,
        prepared: Vec<Prepared>,
    ) -> GroupError {
        let mut left = Vec::new();
        let mut undo = Vec::with_capacity(prepared.len());
        for (at, (device, prepared)) in moving.iter().zip(prepared).enumerate() {
            let went = match error {
                _ if at < failed && !mutant!("failed-move-leaves-the-first-moved") => {
                    self.take_back(state, device)
                }
                AttachError::LeftBlocked(_) if at == failed => Err(Left::Blocked),
                _ => Ok(()),
            };
            match went {
                Ok(()) => undo.push((device, prepared)),
                Err(Left::Blocked) => {
                    self.moved(state, device, &self.blocked);
                    undo.push((device, prepared));
                }
                Err(Left::Attached) => self.moved(state, device, domain),
            }
            left.extend(went.err().map(|left| (device.name().into(), left)));
        }
        undo.into_iter().rev().for_each(|(device, prepared)| domain.unprepare(device, prepared));
        let device = moving[failed].name().into();
        if left.is_empty() {
            GroupError::Attach { device, error }
        } else {
            GroupError::Stranded { device, error, left }
        }
    }

    /// Attaches a device to where it is said to be, and blocks it if that is refused.
    fn take_back(&self, state: &mut State<P>, device: &Device<P>) -> Result<(), Left> {
        let domain = device.domain();
        let before = domain.as_ref().map_or(Target::Blocked, |domain| domain.target());
        match self.tell(state, device, &before) {
            Ok(()) => Ok(()),
            Err(AttachError::LeftBlocked(_)) => Err(Left::Blocked),
            Err(_) => match self.tell(state, device, &Target::Blocked) {
                Ok(()) | Err(AttachError::LeftBlocked(_)) => Err(Left::Blocked),
                Err(_) => Err(Left::Attached),
            },
        }
    }

    /// Notes where hardware has a device now.
    fn moved(&self, state: &mut State<P>, device: &Arc<Device<P>>, domain: &Arc<Domain<P>>) {
        if let Some(before) = device.domain() {
            before.released(device);
        }
        state.left.extend(device.set_domain(Some(domain.clone())));
        self.say(device, domain, "ok");
    }

    pub(super) fn say(&self, device: &Device<P>, domain: &Domain<P>, result: &'static str) {
        let kind = match domain.domain_type() {
            DomainType::Blocked => "blocked",
            DomainType::Identity => "identity",
            DomainType::Dma(FlushMode::Strict) => "dma",
            DomainType::Dma(FlushMode::Lazy) => "dma_fq",
            DomainType::Unmanaged => "unmanaged",
            DomainType::Process => "process",
            DomainType::Nested => "nested",
        };
        let fields = [
            ("group", Value::Dec(self.id.into())),
            ("domain", Value::Str(kind)),
            ("result", Value::Str(result)),
        ];
        trace::say(&*self.platform, "attach", device.name(), &fields);
    }
}

pub(super) fn is_in<P: Platform>(device: &Device<P>, domain: &Arc<Domain<P>>) -> bool {
    device.domain().is_some_and(|now| Arc::ptr_eq(&now, domain))
}
