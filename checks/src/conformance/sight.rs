//! Where an SMMU's structures lie in memory, and what is in them, read as the book says and not as the driver does.
//!
//! | what | where in the book |
//! |---|---|
//! | registers | 6.1 "Memory map" |
//! | [`Sight::ste`] | 5.1 "L1STD, Level 1 Stream Table Descriptor", 6.3.24 "SMMU_STRTAB_BASE" and the one behind it |
//! | [`Sight::cd`] | 5.2 "STE, Stream Table Entry", S1ContextPtr |
//! | [`Sight::leaf`] | Arm ARM, D8.3.1 "VMSAv8-64 descriptor formats" |
//!
//! Spec: SMMUv3 H.a. Offsets and masks are typed from it.

use portcullis::hal::Registers;
use portcullis::types::Pa;

use super::via::Machine;

/// Offsets of registers.
pub mod offset {
    /// SMMU_IDR0.
    pub const IDR0: usize = 0x00;
    /// SMMU_IDR1.
    pub const IDR1: usize = 0x04;
    /// SMMU_IDR3.
    pub const IDR3: usize = 0x0c;
    /// SMMU_IDR5.
    pub const IDR5: usize = 0x14;
    /// SMMU_CR0.
    pub const CR0: usize = 0x20;
    /// SMMU_CR0ACK.
    pub const CR0ACK: usize = 0x24;
    /// SMMU_CR2.
    pub const CR2: usize = 0x2c;
    /// SMMU_GBPA.
    pub const GBPA: usize = 0x44;
    /// SMMU_STRTAB_BASE.
    pub const STRTAB_BASE: usize = 0x80;
    /// SMMU_STRTAB_BASE_CFG.
    pub const STRTAB_BASE_CFG: usize = 0x88;
    /// SMMU_CMDQ_BASE.
    pub const CMDQ_BASE: usize = 0x90;
    /// SMMU_CMDQ_PROD.
    pub const CMDQ_PROD: usize = 0x98;
    /// SMMU_EVENTQ_PROD, in page 1.
    pub const EVENTQ_PROD: usize = 0x1_00a8;
    /// SMMU_EVENTQ_CONS, in page 1.
    pub const EVENTQ_CONS: usize = 0x1_00ac;
}

/// The identification registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// SMMU_IDR0.
    pub idr0: u32,
    /// SMMU_IDR1.
    pub idr1: u32,
    /// SMMU_IDR3.
    pub idr3: u32,
    /// SMMU_IDR5.
    pub idr5: u32,
}

impl Ids {
    /// Reads them.
    pub fn read(registers: &impl Registers) -> Self {
        Self {
            idr0: registers.read32(offset::IDR0),
            idr1: registers.read32(offset::IDR1),
            idr3: registers.read32(offset::IDR3),
            idr5: registers.read32(offset::IDR5),
        }
    }

    /// IDR5.OAS, as bits of an address.
    pub fn output_bits(self) -> u32 {
        [32, 36, 40, 42, 44, 48, 52, 56][(self.idr5 & 7) as usize]
    }
}

/// Bits 55:6 of a pointer to a structure.
const POINTER: u64 = 0x00ff_ffff_ffff_ffc0;

/// The structures of an SMMU that is on.
pub struct Sight<'a, R> {
    /// Its registers.
    pub registers: &'a R,
    /// Its memory.
    pub machine: &'a dyn Machine,
}

impl<R: Registers> Sight<'_, R> {
    fn word(&self, at: u64) -> u64 {
        self.machine.load(Pa::new(at))
    }

    /// Where the STE of a stream is; none if the table does not lead to one.
    pub fn ste(&self, stream: u32) -> Option<Pa> {
        let base = self.registers.read64(offset::STRTAB_BASE);
        let config = self.registers.read32(offset::STRTAB_BASE_CFG);
        stream_entry(base, config, stream, |at| self.machine.load(at))
    }

    /// Where the first CD of a stream is.
    pub fn cd(&self, stream: u32) -> Option<Pa> {
        Some(Pa::new(self.machine.load(self.ste(stream)?) & POINTER))
    }

    /// The descriptor at which the walk of an address of a stream ends; none if the stream has no entry.
    pub fn leaf(&self, stream: u32, iova: u64) -> Option<Leaf> {
        self.path(stream, iova)?.pop()
    }

    /// The descriptors of the walk of an address, the first table's first.
    pub fn path(&self, stream: u32, iova: u64) -> Option<Vec<Leaf>> {
        let ste = self.ste(stream)?.get();
        // Config[1]: stage 2 translates; Config[0]: stage 1.
        let config = self.word(ste) >> 1 & 7;
        if config == 0b110 { self.stage_2(ste, iova) } else { self.stage_1(self.cd(stream)?.get(), iova) }
    }

    fn stage_1(&self, cd: u64, iova: u64) -> Option<Vec<Leaf>> {
        let word = self.word(cd);
        // TG0, bits 7:6.
        let granule = [12, 16, 14][(word >> 6 & 3) as usize];
        let bits = 64 - (word & 0x3f);
        let levels = (bits - granule).div_ceil(granule - 3);
        // TTB0, bits 55:4 of the second word.
        let root = self.word(cd + 8) & 0x00ff_ffff_ffff_fff0;
        Some(self.walk(root, granule, levels, bits, iova))
    }

    fn stage_2(&self, ste: u64, iova: u64) -> Option<Vec<Leaf>> {
        let word = self.word(ste + 16);
        // S2TG, bits 143:142 hence 15:14 of the high half: the third word's bits 47:46.
        let granule = [12, 16, 14][(word >> 46 & 3) as usize];
        let bits = 64 - (word >> 32 & 0x3f);
        // S2SL0, bits 39:38 of the third word: 0 starts at level 2, 1 at 1, 2 at 0 with 4K; one level lower with the others; 3 is level 3
        // with 4K and level 0 with 16K.
        let levels = match (granule, word >> 38 & 3) {
            (12, 3) => 1,
            (12, start) => start + 2,
            (_, start) => start + 1,
        };
        let root = self.word(ste + 24) & 0x000f_ffff_ffff_fff0;
        Some(self.walk(root, granule, levels, bits, iova))
    }

    fn walk(&self, root: u64, granule: u64, levels: u64, bits: u64, iova: u64) -> Vec<Leaf> {
        let stride = granule - 3;
        let mut table = root;
        let mut level = 4 - levels;
        let mut path = Vec::new();
        loop {
            let shift = granule + stride * (3 - level);
            // The first table has whatever bits are left, concatenated tables of stage 2 included.
            let width = if level == 4 - levels { bits - shift } else { stride };
            let at = table + 8 * (iova >> shift & ((1 << width) - 1));
            let word = self.word(at);
            path.push(Leaf { at: Pa::new(at), level, size_lg2: shift, word });
            if level == 3 || word & 3 != 3 {
                return path;
            }
            table = address(word, granule);
            level += 1;
        }
    }
}

/// Where the STE of a stream is, by what SMMU_STRTAB_BASE and SMMU_STRTAB_BASE_CFG say; none if the table does not lead to one. `load` reads a word of memory.
pub fn stream_entry(base: u64, config: u32, stream: u32, load: impl FnOnce(Pa) -> u64) -> Option<Pa> {
    let (base, stream) = (base & POINTER, u64::from(stream));
    if stream >> (config & 0x3f) != 0 {
        return None;
    }
    // FMT, bits 17:16.
    if config >> 16 & 3 == 0 {
        return Some(Pa::new(base + 64 * stream));
    }
    let split = config >> 6 & 0x1f;
    let level_1 = load(Pa::new(base + 8 * (stream >> split)));
    let within = stream & ((1 << split) - 1);
    let span = level_1 & 0x1f;
    (span > 0 && within >> (span - 1) == 0).then(|| Pa::new((level_1 & POINTER) + 64 * within))
}

/// The address in a descriptor.
fn address(word: u64, granule: u64) -> u64 {
    let low = word & 0x0000_ffff_ffff_f000 & !((1 << granule) - 1);
    if granule == 16 {
        // 52 bits: bits 15:12 are address bits 51:48.
        return low | (word >> 12 & 0xf) << 48;
    }
    // With DS: bits 49:48 are in place, 9:8 are address bits 51:50; without, they are zero in a table descriptor.
    low | word & 0x0003_0000_0000_0000 | (word >> 8 & 3) << 50
}

/// A descriptor that a walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where it is.
    pub at: Pa,
    /// On which level.
    pub level: u64,
    /// How much it is about, as log2.
    pub size_lg2: u64,
    /// What it says.
    pub word: u64,
}

impl Leaf {
    /// Whether it is a block or a page.
    pub fn is_valid(self) -> bool {
        self.word & 1 == 1
    }
}
