//! Pages of RAM. A frame goes back when the last who holds it lets go.
//!
//! A huge page is a block of RAM that is cut into frames ([`Frames::huge`]). It goes back as a whole, with the last of them.
//!
//! Zeroed frames can be stocked ([`Frames::stock`]), as a kernel does when it has nothing else to do: then a fault neither waits for the zeroing
//! nor for the barrier that makes the zeroes visible. Frames that go back are not stocked again: who still reaches one is to be caught.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::hal::{Barriers, BlockLayout, DmaMemory};
use portcullis::types::{Pa, SizeLg2};

use crate::platform::LabPlatform;

/// Where frames come from.
#[derive(Clone)]
pub(super) struct Frames {
    platform: Arc<LabPlatform>,
    size: SizeLg2,
    /// Zeroed, and visible to hardware.
    stock: Arc<Mutex<Vec<Frame>>>,
}

/// The size of a huge page: that of a POWER8's CPUs.
pub const HUGE_PAGE: SizeLg2 = match SizeLg2::new(24) {
    Some(size) => size,
    None => panic!("16 MiB are fewer than 64 bits"),
};

/// A huge page, whoever has parts of it.
struct Block {
    platform: Arc<LabPlatform>,
    at: Pa,
    lost: AtomicBool,
}

/// One page of RAM.
pub(super) struct FrameOwner {
    platform: Arc<LabPlatform>,
    size: SizeLg2,
    at: Pa,
    /// The huge page that it is a part of, and that goes back with the last.
    part_of: Option<Arc<Block>>,
    /// How many of its holders are pins.
    pins: AtomicUsize,
    /// Its RAM never goes back.
    lost: AtomicBool,
}

/// A hold on a page of RAM.
pub(super) type Frame = Arc<FrameOwner>;

/// How many frames a process takes from the stock at a time.
const RESERVE: usize = 32;

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
        Self { platform, size, stock: Arc::default() }
    }

    pub(super) fn size(&self) -> SizeLg2 {
        self.size
    }

    /// Zeroes frames until `count` are in stock, with one barrier for all. Answers how many are: fewer if there is no memory.
    pub(super) fn stock(&self, count: usize) -> usize {
        let missing = count.saturating_sub(self.stocked_frames().len());
        let fresh: Vec<Frame> = (0..missing).map_while(|_| self.fresh()).collect();
        self.platform.write_barrier();
        let mut stock = self.stocked_frames();
        stock.extend(fresh);
        stock.len()
    }

    /// A page of zeroes from the stock, visible to hardware already; none if the stock is empty. `reserve` is the caller's own: it is filled
    /// from the stock with several at a time, so that callers are seldom in each other's way.
    pub(super) fn stocked(&self, reserve: &mut Vec<Frame>) -> Option<Frame> {
        reserve.pop().or_else(|| {
            let mut stock = self.stocked_frames();
            let left = stock.len().saturating_sub(RESERVE);
            reserve.extend(stock.drain(left..));
            reserve.pop()
        })
    }

    /// A page of zeroes, visible to hardware after the next write barrier; none if there is no memory.
    pub(super) fn zeroed(&self) -> Option<Frame> {
        let stocked = self.stocked_frames().pop();
        stocked.or_else(|| self.fresh())
    }

    /// A page with the bytes of `of`; none if there is no memory.
    pub(super) fn copy(&self, of: &Frame) -> Option<Frame> {
        let copy = self.zeroed()?;
        let mut bytes = vec![0; usize::try_from(self.size.bytes()).ok()?];
        of.read(&mut bytes);
        copy.write(0, &bytes);
        Some(copy)
    }

    fn fresh(&self) -> Option<Frame> {
        let at = self.platform.alloc_buffer(layout(self.size))?;
        Some(self.frame(at, None))
    }

    fn frame(&self, at: Pa, part_of: Option<Arc<Block>>) -> Frame {
        let platform = self.platform.clone();
        let (pins, lost) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(FrameOwner { platform, size: self.size, at, part_of, pins, lost })
    }

    /// The frames of a huge page of zeroes, one behind the other, visible to hardware after the next write barrier; none if there is no memory in one piece.
    pub(super) fn huge(&self) -> Option<Vec<Frame>> {
        let at = self.platform.alloc_buffer(layout(HUGE_PAGE))?;
        let block = Arc::new(Block { platform: self.platform.clone(), at, lost: AtomicBool::new(false) });
        let parts = 0..HUGE_PAGE.bytes() >> self.size.get();
        let frame = |part| self.frame(Pa::new(at.get() + (part << self.size.get())), Some(block.clone()));
        Some(parts.map(frame).collect())
    }

    fn stocked_frames(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn layout(size: SizeLg2) -> BlockLayout {
    BlockLayout::naturally_aligned(size.get())
}

impl FrameOwner {
    pub(super) fn at(&self) -> Pa {
        self.at
    }

    /// Whether it is a part of a huge page.
    pub(super) fn is_part(&self) -> bool {
        self.part_of.is_some()
    }

    pub(super) fn pin_count(&self) -> usize {
        self.pins.load(SeqCst)
    }

    /// Hardware may reach it for ever: whoever lets go of it, its RAM does not go back, nor that of the huge page that it is a part of.
    pub(super) fn lose(&self) {
        self.lost.store(true, SeqCst);
        if let Some(block) = &self.part_of {
            block.lost.store(true, SeqCst);
        }
    }

    pub(super) fn read(&self, into: &mut [u8]) {
        self.platform.read(self.at, into);
    }

    pub(super) fn write(&self, offset_bytes: u64, from: &[u8]) {
        self.platform.write(Pa::new(self.at.get() + offset_bytes), from);
    }
}

/// A hold on a page that lets its process go on writing it, although it does not hold it alone.
#[derive(Debug)]
pub(super) struct PinnedFrame(Frame);

impl PinnedFrame {
    /// Pins a frame. Under the lock of a process that has it as its own, so that nobody looks in between.
    pub(super) fn new(frame: &Frame) -> Self {
        frame.pins.fetch_add(1, SeqCst);
        Self(frame.clone())
    }

    pub(super) fn at(&self) -> Pa {
        self.0.at()
    }
}

impl Drop for PinnedFrame {
    fn drop(&mut self) {
        // Between this and the drop of the hold there seems to be one holder too many: a write of the process may copy the page, which nobody
        // reaches but the process any more.
        self.0.pins.fetch_sub(1, SeqCst);
    }
}

impl Drop for FrameOwner {
    fn drop(&mut self) {
        if self.part_of.is_none() && !*self.lost.get_mut() {
            self.platform.free_buffer(self.at, layout(self.size));
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !*self.lost.get_mut() {
            self.platform.free_buffer(self.at, layout(HUGE_PAGE));
        }
    }
}
