//! One case: a memory image, what the registers say, and accesses.
//!
//! Both machines take it as it is. What is random in it comes from the seed and the case's number, and from nothing else.

use crate::image::Image;
use crate::tables::Tables;

/// Stream ids of the devices that write.
pub const WRITERS: [u32; 6] = [0x0008, 0x001d, 0x00ff, 0x0100, 0x1200, 0xff00];
/// Stream ids of the devices that read.
pub const READERS: [u32; 4] = [0x0010, 0x003f, 0x00f8, 0x2000];

/// What the registers say.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// STRTAB_BASE.
    pub table_base: u64,
    /// STRTAB_BASE_CFG.
    pub table_config: u32,
    /// CR2.
    pub cr2: u32,
}

impl Setup {
    /// Bits of a stream id that the second level of the stream table resolves; none for a linear one.
    pub fn split(&self) -> Option<u32> {
        (self.table_config >> 16 & 3 == 1).then_some(self.table_config >> 6 & 0x1f)
    }
}

/// What one device was told.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its id.
    pub id: u32,
    /// Its entry, as it lies in memory.
    pub ste: [u64; 8],
    /// Its context descriptor, if it has one.
    pub cd: Option<[u64; 8]>,
    /// Its tables of stage 1: from TTB0 and TTB1.
    pub stage1: [Option<Tables>; 2],
    /// Its tables of stage 2.
    pub stage2: Option<Tables>,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whose.
    pub stream: u32,
    /// Where.
    pub address: u64,
    /// How many bytes; they lie in one page of 4 KiB.
    pub len: u32,
    /// A write, or a read.
    pub write: bool,
    /// All caches are invalidated before it.
    pub flush: bool,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The seed of the run.
    pub seed: u64,
    /// Which case of the run.
    pub number: u64,
    /// What the registers say.
    pub setup: Setup,
    /// What the memory holds.
    pub image: Image,
    /// What each device was told.
    pub streams: Vec<Stream>,
    /// What devices do, in this order.
    pub accesses: Vec<Access>,
    /// The model takes accesses for privileged, as QEMU always does.
    pub privileged: bool,
}

impl Case {
    /// What the device with this id was told.
    pub fn stream(&self, id: u32) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.id == id)
    }

    /// The same with only these accesses.
    pub fn with(&self, accesses: &[Access]) -> Self {
        Self { accesses: accesses.to_vec(), ..self.clone() }
    }
}
