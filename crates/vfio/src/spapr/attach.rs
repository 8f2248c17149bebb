//! Groups come, taken from the platform, and get every window that there is; groups go, and are given back.
//!
//! What hardware does not confirm when a group goes is kept (`kept`), with the group: it stays out of the platform's hands until that is done.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::device::Device;
use portcullis_core::group::Group;
use portcullis_core::table_group::{
    DmaTable, JoinError, Kind, MAX_WINDOWS, TableGroup, TableGroupInfo, WholeTable, join, kind,
};
use portcullis_hal::Platform;
use portcullis_types::trace::Value;
use portcullis_types::{IovaRange, mutant};

use super::kept::Kept;
use super::pages::Dues;
use super::windows::{Window, unset, window_errno};
use super::{Attached, Reserved, Spapr, Version, table_group};
use crate::Errno;
use crate::container::Member;
use crate::trace::say;

impl<P: Platform> Spapr<P> {
    /// Takes a group in, which its user has claimed.
    pub(crate) fn attach(&mut self, member: &Member<P>) -> Result<(), Errno> {
        let done = self.try_attach(member);
        self.say("vfio_attach", member, if done.is_ok() { "ok" } else { "refused" });
        done
    }

    fn try_attach(&mut self, member: &Member<P>) -> Result<(), Errno> {
        let tables = table_group(&member.group).ok_or(Errno::Enodev)?;
        self.fits(member, &tables.info())?;
        let reserved = Reserved::of(&member.group);
        if self.has_mapped(&reserved) {
            return Err(Errno::Einval);
        }
        // Its last user may have left what hardware has not let go.
        if self.shared.is_held(&tables.name()) {
            return Err(Errno::Ebusy);
        }
        match kind(&*tables).map_err(|error| error.errno())? {
            Kind::OnDemand(..) => self.take(&tables)?,
            Kind::Whole(whole) => self.take_whole(whole)?,
        }
        self.members.push(Attached { member: member.clone(), tables, reserved });
        Ok(())
    }

    /// Whether a user of the group may have this device of it, which may have come after the group was attached: it has to be where the windows are, and nothing mapped that is
    /// reserved for it.
    pub(crate) fn may_open(&self, group: &Arc<Group<P>>, device: &Device<P>) -> Result<(), Errno> {
        let is = |held: &&Attached<P>| Arc::ptr_eq(&held.member.group, group);
        let name = self.members.iter().find(is).ok_or(Errno::Einval)?.tables.name();
        let is_there = |&source| group.iommu().table_group(source).is_some_and(|own| own.name() == name);
        if !device.sources().iter().all(is_there) || self.has_mapped(&Reserved::of(group)) {
            return Err(Errno::Einval);
        }
        Ok(())
    }

    /// Whether something of what is reserved is mapped in a window.
    fn has_mapped(&self, reserved: &Reserved) -> bool {
        let is_mapped = |&range: &IovaRange| {
            self.windows.iter().flatten().any(|Window { table, .. }| {
                let Some(inside) = table.range().intersection(range) else { return false };
                // A page may begin before it.
                table.entry(inside.first()).is_some() || table.next_in(inside).is_some()
            })
        };
        reserved.ranges.iter().any(is_mapped)
    }

    /// Whether nobody maps some of a range, as the groups' devices are now.
    pub(super) fn is_reserved(&mut self, range: IovaRange) -> bool {
        let held = self.members.iter_mut();
        let stale = held.filter(|held| held.reserved.changes != held.member.group.changes());
        stale.for_each(|held| held.reserved = Reserved::of(&held.member.group));
        self.members.iter().flat_map(|held| &held.reserved.ranges).any(|reserved| reserved.overlaps(range))
    }

    /// That it can be with those that are there.
    fn fits(&self, member: &Member<P>, info: &TableGroupInfo) -> Result<(), Errno> {
        let (Some(first), Some(limits)) = (self.members.first(), self.limits()) else { return Ok(()) };
        if self.version == Version::V1 {
            return Err(Errno::Ebusy);
        }
        if !Arc::ptr_eq(first.member.group.iommu(), member.group.iommu()) {
            return Err(Errno::Eperm);
        }
        let alike = (info.windows, info.window32) == (limits.windows, limits.window32);
        if !alike || limits.page_sizes.intersection(info.page_sizes).is_empty() {
            return Err(Errno::Einval);
        }
        Ok(())
    }

    /// Takes a group whose windows are made, and sets those that there are.
    fn take(&mut self, tables: &Arc<dyn TableGroup>) -> Result<(), Errno> {
        // A removal that hardware has not confirmed is finished first: nobody joins it.
        self.settle_all();
        if self.windows.iter().flatten().any(|window| window.closing) {
            return Err(Errno::Eio);
        }
        let ownership = tables.ownership().ok_or(Errno::Efault)?;
        ownership.take_ownership().map_err(|error| error.errno())?;
        let live: Vec<_> = self.windows.iter().flatten().map(|window| window.table.clone()).collect();
        if let Err(error) = join(&**tables, &live) {
            let errno = match error {
                JoinError::Set { error, .. } => window_errno(error),
                error => error.errno(),
            };
            // Windows that hardware did not let go stay with the group, and so does the group with the list.
            if !mutant!("refused-group-stays-taken") {
                self.keep(Kept::unused(tables.clone(), live));
            }
            return Err(errno);
        }
        self.pending |= self.members.is_empty();
        Ok(())
    }

    /// Takes over the only table of a group: its window is there for good.
    fn take_whole(&mut self, whole: &dyn WholeTable) -> Result<(), Errno> {
        // There is nothing to be made on demand.
        if self.version == Version::V2 {
            return Err(Errno::Einval);
        }
        let dues = Dues::new()?;
        let table = whole.take_table().map_err(|error| error.errno())?;
        let window = table.spec().window;
        self.windows[window] = Some(Window::new(table, None, dues));
        Ok(())
    }

    /// Lets a group go. With the last one all windows go, and all that is registered.
    pub(crate) fn detach(&mut self, member: &Member<P>) {
        let is = |held: &Attached<P>| Arc::ptr_eq(&held.member.group, &member.group);
        let Some(at) = self.members.iter().position(is) else { return };
        let last = self.members.len() == 1;
        if last {
            for window in 0..MAX_WINDOWS {
                // What is refused is kept below.
                let _ = self.close(window);
            }
        }
        let Attached { tables, .. } = self.members.remove(at);
        let shared: Vec<_> = self.windows.iter().flatten().map(|window| window.table.clone()).collect();
        let mut kept = Kept::of(tables, if last { Vec::new() } else { shared }, self.injected);
        if last {
            kept.inherit(core::mem::take(&mut self.windows), core::mem::take(&mut self.allowance));
            (self.owner, self.pending) = (None, false);
        }
        let left = self.keep(kept);
        self.say("vfio_detach", member, if left { "refused" } else { "ok" });
    }

    /// Finishes with a group; or keeps it, and says so, until that is possible.
    fn keep(&self, kept: Kept) -> bool {
        let left = kept.reclaim(&self.shared);
        let refused = left.is_some();
        self.shared.keep(left.map(Into::into));
        refused
    }

    fn say(&self, name: &'static str, member: &Member<P>, result: &'static str) {
        let fields = [
            ("group", Value::Dec(member.group.id().into())),
            ("windows", Value::Dec(self.windows.iter().flatten().count() as u64)),
            ("result", Value::Str(result)),
        ];
        say(&*self.shared.platform, name, &fields);
    }
}

/// Removes every one of `tables` that is a window of `group`. Each is tried.
pub(super) fn unset_all(group: &dyn TableGroup, tables: &[Arc<dyn DmaTable>]) -> Result<(), Errno> {
    tables.iter().map(|table| unset(group, table)).fold(Ok(()), Result::and)
}
