//! Pages of RAM. A frame goes back when the last who holds it lets go.

use core::fmt;
use std::sync::Arc;

use portcullis::hal::{BlockLayout, DmaMemory};
use portcullis::types::{Pa, SizeLg2};

use crate::platform::LabPlatform;

/// Where frames come from.
#[derive(Clone)]
pub(super) struct Frames {
    platform: Arc<LabPlatform>,
    size: SizeLg2,
}

/// One page of RAM.
pub(super) struct FrameOwner {
    frames: Frames,
    at: Pa,
}

/// A hold on a page of RAM.
pub(super) type Frame = Arc<FrameOwner>;

impl fmt::Debug for FrameOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:#x})", self.at)
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({})", self.size)
    }
}

impl Frames {
    pub(super) fn new(platform: Arc<LabPlatform>, size: SizeLg2) -> Self {
        Self { platform, size }
    }

    pub(super) fn size(&self) -> SizeLg2 {
        self.size
    }

    /// A page of zeroes, visible to hardware after the next write barrier; none if there is no memory.
    pub(super) fn zeroed(&self) -> Option<Frame> {
        let at = self.platform.alloc_buffer(self.layout())?;
        Some(Arc::new(FrameOwner { frames: self.clone(), at }))
    }

    /// A page with the bytes of `of`; none if there is no memory.
    pub(super) fn copy(&self, of: &Frame) -> Option<Frame> {
        let copy = self.zeroed()?;
        let mut bytes = vec![0; usize::try_from(self.size.bytes()).ok()?];
        of.read(&mut bytes);
        copy.write(0, &bytes);
        Some(copy)
    }

    fn layout(&self) -> BlockLayout {
        BlockLayout::naturally_aligned(self.size.get())
    }
}

impl FrameOwner {
    pub(super) fn at(&self) -> Pa {
        self.at
    }

    pub(super) fn read(&self, into: &mut [u8]) {
        self.frames.platform.read(self.at, into);
    }

    pub(super) fn write(&self, offset_bytes: u64, from: &[u8]) {
        self.frames.platform.write(Pa::new(self.at.get() + offset_bytes), from);
    }
}

impl Drop for FrameOwner {
    fn drop(&mut self) {
        self.frames.platform.free_buffer(self.at, self.frames.layout());
    }
}
