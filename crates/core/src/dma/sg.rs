//! Scatter lists: many buffers, as few segments for the device as can be.
//!
//! All buffers of a list go into one range of addresses, each on whole pages of its own. Where one buffer ends at the end of a page
//! and the next begins at the beginning of one, the device sees one segment. Space is left between two buffers only where a
//! buffer would otherwise cross the device's segment boundary.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use portcullis_hal::Platform;
use portcullis_types::trace::Value;
use portcullis_types::{Iova, IovaRange, PaRange, SizeLg2, mutant};

use super::handle::{bytes, physical};
use super::space::When;
use super::{Direction, DmaHandle, DmaMapError, DmaSpace, DmaUnmapError, Refused, Segment, SgMapping};
use crate::device::DeviceInfo;

/// Where everything goes, relative to the beginning of the range.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// What is to be mapped: runs of pages that lie together in memory and for the device.
    runs: Vec<(u64, PaRange)>,
    /// Where each buffer begins, and its length.
    places: Vec<(u64, u64)>,
    total_bytes: u64,
    mapped_bytes: u64,
}

impl Plan {
    fn new(buffers: &[PaRange], granule: u64, info: &DeviceInfo) -> Result<Self, DmaMapError> {
        let mut plan = Self { runs: Vec::new(), places: Vec::new(), total_bytes: 0, mapped_bytes: 0 };
        for &buffer in buffers {
            plan.add(buffer, granule, info)?;
        }
        if plan.total_bytes == 0 { Err(DmaMapError::BadLength) } else { Ok(plan) }
    }

    fn add(&mut self, buffer: PaRange, granule: u64, info: &DeviceInfo) -> Result<(), DmaMapError> {
        let pages = buffer.align_outward(granule);
        let len = pages.len_bytes().ok_or(DmaMapError::BadLength)?;
        if bytes(buffer) > info.max_segment_bytes {
            return Err(DmaMapError::Segment(buffer));
        }
        if let Some(boundary) = info.segment_boundary.map(SizeLg2::bytes) {
            let used = self.total_bytes % boundary;
            if len > boundary {
                return Err(DmaMapError::Segment(buffer));
            }
            if used + len > boundary {
                self.total_bytes =
                    self.total_bytes.checked_add(boundary - used).ok_or(DmaMapError::BadLength)?;
            }
        }
        let at = self.total_bytes;
        self.places.push((at + buffer.first().offset_in(granule), bytes(buffer)));
        self.add_run(at, pages);
        self.total_bytes = at.checked_add(len).ok_or(DmaMapError::BadLength)?;
        self.mapped_bytes += len;
        Ok(())
    }

    fn add_run(&mut self, at: u64, pages: PaRange) {
        if let Some((start, run)) = self.runs.last_mut()
            && let Some(longer) = run.joined(pages).filter(|_| *start + bytes(*run) == at)
        {
            *run = longer;
            return;
        }
        self.runs.push((at, pages));
    }

    /// What the device is told, if the range begins at `base`.
    fn segments(&self, base: Iova, granule: u64, info: &DeviceInfo) -> Box<[Segment]> {
        let mut segments: Vec<Segment> = Vec::with_capacity(self.places.len());
        for &(at, len_bytes) in &self.places {
            let iova = Iova::new(base.get() + at);
            match segments.last_mut() {
                Some(last) if joins(*last, iova, len_bytes, granule, info) => last.len_bytes += len_bytes,
                _ => segments.push(Segment { iova, len_bytes }),
            }
        }
        segments.into()
    }
}

/// Whether a buffer at `iova` can be part of the segment before it.
fn joins(last: Segment, iova: Iova, len_bytes: u64, granule: u64, info: &DeviceInfo) -> bool {
    let len = last.len_bytes + len_bytes;
    let end = last.iova.get() + (len - 1);
    let crosses =
        info.segment_boundary.is_some_and(|boundary| (last.iova.get() ^ end) >> boundary.get() != 0);
    iova.is_aligned(granule)
        && last.iova.get() + last.len_bytes == iova.get()
        && len <= info.max_segment_bytes
        && !crosses
}

impl<P: Platform> DmaHandle<P> {
    /// Gives a list of buffers to the device, in one range of addresses, as few segments as the buffers and the device allow.
    ///
    /// # Errors
    ///
    /// As [`DmaMapError`] says; then nothing is mapped, and no address is taken, unless it says so.
    pub fn map_sg(&self, buffers: &[PaRange], direction: Direction) -> Result<SgMapping, DmaMapError> {
        let mapping = match self.space() {
            None => self.physical_sg(buffers, direction)?,
            Some(space) => self.map_list(space, buffers, direction)?,
        };
        buffers.iter().for_each(|&buffer| self.buffer_to_device(buffer));
        self.say(
            "dma_map_sg",
            &[
                ("iova", Value::Addr(mapping.segments[0].iova.get())),
                ("buffers", Value::Dec(buffers.len() as u64)),
                ("segments", Value::Dec(mapping.segments.len() as u64)),
                ("len", Value::Dec(buffers.iter().map(|&buffer| bytes(buffer)).sum())),
                ("dir", Value::Str(direction.name())),
            ],
        );
        Ok(mapping)
    }

    fn physical_sg(&self, buffers: &[PaRange], direction: Direction) -> Result<SgMapping, DmaMapError> {
        let info = self.device().info();
        let limit = self.device().dma_limit();
        let segment = |&buffer: &PaRange| {
            let range = physical(buffer, limit)?;
            let split = |boundary: SizeLg2| (range.first().get() ^ range.last().get()) >> boundary.get() != 0;
            if bytes(buffer) > info.max_segment_bytes || info.segment_boundary.is_some_and(split) {
                return Err(DmaMapError::Segment(buffer));
            }
            Ok(Segment { iova: range.first(), len_bytes: bytes(buffer) })
        };
        let segments = buffers.iter().map(segment).collect::<Result<Box<[_]>, _>>()?;
        if segments.is_empty() {
            return Err(DmaMapError::BadLength);
        }
        Ok(SgMapping {
            taken: None,
            mapped_bytes: 0,
            segments,
            buffers: buffers.into(),
            direction,
            owner: self.owner(),
        })
    }

    fn map_list(
        &self,
        space: &DmaSpace<P>,
        buffers: &[PaRange],
        direction: Direction,
    ) -> Result<SgMapping, DmaMapError> {
        let info = self.device().info();
        let plan = Plan::new(buffers, space.granule(), info)?;
        let taken = space.take(plan.total_bytes, self.device().dma_limit(), self.prefer())?;
        self.map_runs(space, &plan, taken, direction)?;
        space.counters.maps.fetch_add(1, Relaxed);
        Ok(SgMapping {
            taken: Some(taken),
            mapped_bytes: plan.mapped_bytes,
            segments: plan.segments(taken.first(), space.granule(), info),
            buffers: buffers.into(),
            direction,
            owner: self.owner(),
        })
    }

    fn map_runs(
        &self,
        space: &DmaSpace<P>,
        plan: &Plan,
        taken: IovaRange,
        direction: Direction,
    ) -> Result<(), DmaMapError> {
        let prot = self.prot(direction.perms());
        plan.runs
            .iter()
            .try_for_each(|&(at, pages)| space.map_piece(Iova::new(taken.first().get() + at), pages, prot))
            .and_then(|()| space.show(taken))
            .map_err(|error| {
                if mutant!("failed-list-keeps-its-addresses") {
                    error
                } else {
                    space.undo(taken, None, error)
                }
            })
    }

    /// Takes a list of buffers back from the device.
    ///
    /// # Errors
    ///
    /// As [`DmaUnmapError`] says.
    pub fn unmap_sg(&self, mapping: SgMapping) -> Result<(), Refused<SgMapping>> {
        if mapping.owner != self.owner() {
            return Err(Refused { error: DmaUnmapError::Foreign, mapping: Some(mapping) });
        }
        let done = match self.space().zip(mapping.taken) {
            None => Ok(()),
            Some((space, taken)) => space.unmap(taken, mapping.mapped_bytes, None, When::ByMode),
        };
        self.say_unmap(mapping.segments[0].iova, &done);
        match done {
            Err(error @ DmaUnmapError::Unmap(_)) => Err(Refused { error, mapping: Some(mapping) }),
            done => {
                self.list_to_cpu(&mapping);
                done.map_err(|error| Refused { error, mapping: None })
            }
        }
    }

    /// Hands a mapped list to the device again, after the CPU has changed it.
    pub fn sync_sg_for_device(&self, mapping: &SgMapping) {
        mapping.buffers.iter().for_each(|&buffer| self.buffer_to_device(buffer));
        self.say_sync(mapping.segments[0].iova, "device");
    }

    /// Hands a mapped list to the CPU, before it reads what the device wrote.
    pub fn sync_sg_for_cpu(&self, mapping: &SgMapping) {
        self.list_to_cpu(mapping);
        self.say_sync(mapping.segments[0].iova, "cpu");
    }

    fn list_to_cpu(&self, mapping: &SgMapping) {
        mapping.buffers.iter().for_each(|&buffer| self.buffer_to_cpu(buffer, mapping.direction));
    }
}
