//! Huge pages: memory in pieces of 16 MiB, for who has devices that translate by such pages.
//!
//! What is huge is the memory: the CPUs reach it by entries of their own page size, each made by a fault, since Arm's have no pages of 16 MiB.
//!
//! - A huge page is taken when it is mapped, so that no fault lacks one. Choice: Linux sets it aside then, and takes it when it is touched.
//! - It is never shared: a fork has copies at once, as of pinned pages. Choice: Linux copies when one of both writes.
//! - An area of huge pages is mapped, cut and unmapped at multiples of their size only. Observed: Linux 7.3, mm/hugetlb.c `hugetlb_vm_op_split`.
//! - It goes back as a whole, when nobody has any part of it mapped or pinned any more.

use portcullis::hal::Barriers;

use super::area::{Areas, Source};
use super::error::MmError;
use super::frame::{Frame, HUGE_PAGE};
use super::process::{Page, Process, State};

impl Areas {
    /// That taking out or changing `start..end` leaves no piece of a huge page.
    pub(super) fn check_cuts(&self, start: u64, end: u64) -> Result<(), MmError> {
        if self.cuts_huge(start) || self.cuts_huge(end) { Err(MmError::BadRange) } else { Ok(()) }
    }
}

impl Process {
    /// The frames of `len_bytes` bytes, whole huge pages. What they hold, hardware sees.
    pub(super) fn huge_frames(&self, len_bytes: u64) -> Result<Vec<Frame>, MmError> {
        let mut frames = Vec::new();
        for _ in 0..len_bytes >> HUGE_PAGE.get() {
            frames.extend(self.kernel.frames().huge().ok_or(MmError::NoMemory)?);
        }
        self.kernel.platform().write_barrier();
        Ok(frames)
    }

    /// Copies of all huge pages, for a fork.
    pub(super) fn copies_of_huge(&self, state: &State) -> Result<Vec<(u64, Page)>, MmError> {
        let page_bytes = self.kernel.page_bytes();
        let mut copies = Vec::new();
        let mut bytes = vec![0; usize::try_from(page_bytes).map_err(|_| MmError::NoMemory)?];
        for (start, area) in state.areas.within(0, u64::MAX) {
            if !matches!(area.source, Source::Huge) {
                continue;
            }
            for (number, frame) in (start / page_bytes..).zip(self.huge_frames(area.end - start)?) {
                if let Some(page) = state.pages.get(&number) {
                    page.frame.read(&mut bytes);
                    frame.write(0, &bytes);
                }
                copies.push((number, Page::new(frame, None)));
            }
        }
        self.kernel.platform().write_barrier();
        Ok(copies)
    }
}
