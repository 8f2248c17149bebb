//! Pages of RAM. A frame goes back when the last who holds it lets go.
//!
//! A huge page is one piece of RAM that is cut into frames ([`Frames::huge`]). It goes back as a whole, with the last of them.
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

/// RAM that goes back as it came, in one piece.
struct Piece {
    platform: Arc<LabPlatform>,
    at: Pa,
    size: SizeLg2,
    /// It never goes back.
    lost: AtomicBool,
}

/// What RAM a frame is.
enum Ram {
    Own(Piece),
    /// A part of a huge page, which goes back with the last.
    PartOf(Arc<Piece>),
}

/// One page of RAM.
pub(super) struct FrameOwner {
    at: Pa,
    ram: Ram,
    /// How many of its holders are pins.
    pins: AtomicUsize,
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
        let own = self.piece(self.size)?;
        Some(frame(own.at, Ram::Own(own)))
    }

    /// The frames of a huge page of zeroes, one behind the other, visible to hardware after the next write barrier; none if there is no memory in one piece.
    pub(super) fn huge(&self) -> Option<Vec<Frame>> {
        let whole = Arc::new(self.piece(HUGE_PAGE)?);
        let offsets = (0..HUGE_PAGE.bytes()).step_by(usize::try_from(self.size.bytes()).ok()?);
        let part = |offset| frame(Pa::new(whole.at.get() + offset), Ram::PartOf(whole.clone()));
        Some(offsets.map(part).collect())
    }

    fn piece(&self, size: SizeLg2) -> Option<Piece> {
        let platform = self.platform.clone();
        let at = platform.alloc_buffer(layout(size))?;
        Some(Piece { platform, at, size, lost: AtomicBool::new(false) })
    }

    fn stocked_frames(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn layout(size: SizeLg2) -> BlockLayout {
    BlockLayout::naturally_aligned(size.get())
}

fn frame(at: Pa, ram: Ram) -> Frame {
    Arc::new(FrameOwner { at, ram, pins: AtomicUsize::new(0) })
}

impl FrameOwner {
    pub(super) fn at(&self) -> Pa {
        self.at
    }

    /// Whether it is a part of a huge page.
    pub(super) fn is_part(&self) -> bool {
        matches!(self.ram, Ram::PartOf(_))
    }

    pub(super) fn pin_count(&self) -> usize {
        self.pins.load(SeqCst)
    }

    /// Hardware may reach it for ever: whoever lets go of it, its RAM does not go back, nor that of the huge page that it is a part of.
    pub(super) fn lose(&self) {
        self.piece().lost.store(true, SeqCst);
    }

    /// Whether hardware may reach it for ever.
    pub(super) fn is_lost(&self) -> bool {
        self.piece().lost.load(SeqCst)
    }

    fn piece(&self) -> &Piece {
        match &self.ram {
            Ram::Own(own) => own,
            Ram::PartOf(whole) => whole,
        }
    }

    pub(super) fn read(&self, into: &mut [u8]) {
        self.piece().platform.read(self.at, into);
    }

    pub(super) fn write(&self, offset_bytes: u64, from: &[u8]) {
        self.piece().platform.write(Pa::new(self.at.get() + offset_bytes), from);
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

impl Drop for Piece {
    fn drop(&mut self) {
        if !*self.lost.get_mut() {
            self.platform.free_buffer(self.at, layout(self.size));
        }
    }
}
