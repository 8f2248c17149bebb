//! The flattened format: from bytes to nodes and properties, in one pass.
//!
//! A blob comes from outside. Every offset and length in it is checked before it is followed, nesting is bounded, and
//! reading costs time in proportion to its length.
//!
//! Choice: names longer than the 31 characters of the specification are accepted, up to 255; trees of real machines have
//! them (`snps,dis-u2-freeclk-exists-quirk`).
//!
//! Spec: Devicetree Specification 0.4, 5 "Flattened Devicetree (DTB) Format".
//! Not here: what nodes mean (`tree` and on).

use alloc::vec::Vec;
use core::ops::Range;

use portcullis_spec::dt::flat;
use portcullis_types::{Pa, PaRange};

use crate::error::{BlobFault, FirmwareError};

/// Nodes may be nested this deep.
pub(crate) const MAX_DEPTH: usize = 64;

/// Names may be this long, with the zero byte at the end.
const MAX_NAME_BYTES: usize = 256;

/// A property: its name and its value's bytes.
pub(crate) type Property<'a> = (&'a str, &'a [u8]);

/// A node as it lies in the blob. Nodes are in the blob's order: children after their parent, before its next sibling.
#[derive(Debug)]
pub(crate) struct FlatNode<'a> {
    pub(crate) name: &'a str,
    pub(crate) parent: Option<usize>,
    /// Which of the blob's properties are this node's.
    pub(crate) properties: Range<usize>,
}

/// Everything in a blob.
#[derive(Debug)]
pub(crate) struct Blob<'a> {
    pub(crate) nodes: Vec<FlatNode<'a>>,
    pub(crate) properties: Vec<Property<'a>>,
    pub(crate) reservations: Vec<PaRange>,
}

fn fault(fault: BlobFault, offset: usize) -> FirmwareError {
    FirmwareError::Blob { fault, offset }
}

fn truncated(offset: usize) -> FirmwareError {
    fault(BlobFault::Truncated, offset)
}

/// The big-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Result<u32, FirmwareError> {
    let chunk = bytes.get(offset..).and_then(|rest| rest.first_chunk()).ok_or_else(|| truncated(offset))?;
    Ok(u32::from_be_bytes(*chunk))
}

/// The word at `offset` as an offset or a length.
fn word_usize(bytes: &[u8], offset: usize) -> Result<usize, FirmwareError> {
    usize::try_from(word(bytes, offset)?).map_err(|_| truncated(offset))
}

/// The part of a blob that two words of its header describe.
fn block(blob: &[u8], offset_at: usize, size_at: usize) -> Result<Range<usize>, FirmwareError> {
    let start = word_usize(blob, offset_at)?;
    let end = start.checked_add(word_usize(blob, size_at)?).ok_or_else(|| truncated(size_at))?;
    if end > blob.len() { Err(truncated(size_at)) } else { Ok(start..end) }
}

/// A name up to a zero byte from `start`, all before `end`; and where it ends, after the zero.
fn name(blob: &[u8], start: usize, end: usize) -> Result<(&str, usize), FirmwareError> {
    let bytes = blob.get(start..end).ok_or_else(|| truncated(start))?;
    let bytes = &bytes[..bytes.len().min(MAX_NAME_BYTES)];
    let len = bytes.iter().position(|&byte| byte == 0).ok_or_else(|| fault(BlobFault::Name, start))?;
    let is_name = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/';
    let name = core::str::from_utf8(&bytes[..len]).ok().filter(|_| bytes[..len].iter().all(is_name));
    Ok((name.ok_or_else(|| fault(BlobFault::Name, start))?, start + len + 1))
}

impl<'a> Blob<'a> {
    /// Reads a blob. Bytes after its own end are not looked at.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, FirmwareError> {
        let magic = word(bytes, 0)?;
        if magic != flat::MAGIC {
            return Err(fault(BlobFault::Magic(magic), 0));
        }
        let total = word_usize(bytes, flat::TOTAL_SIZE)?;
        let blob = bytes.get(..total).ok_or_else(|| truncated(flat::TOTAL_SIZE))?;
        let version = word(blob, flat::VERSION_OFFSET)?;
        let last_compatible = word(blob, flat::LAST_COMPATIBLE_OFFSET)?;
        if version < flat::VERSION || last_compatible > flat::VERSION {
            return Err(fault(BlobFault::Version { version, last_compatible }, flat::VERSION_OFFSET));
        }
        let structure = block(blob, flat::STRUCT_OFFSET, flat::STRUCT_SIZE)?;
        if !structure.start.is_multiple_of(4) {
            return Err(fault(BlobFault::Misaligned, flat::STRUCT_OFFSET));
        }
        let strings = block(blob, flat::STRINGS_OFFSET, flat::STRINGS_SIZE)?;
        let reservations = reservations(blob)?;
        let (nodes, properties) = Structure::new(blob, structure, strings).read()?;
        Ok(Self { nodes, properties, reservations })
    }
}

/// Spec: Devicetree Specification 0.4, 5.3 "Memory Reservation Block".
fn reservations(blob: &[u8]) -> Result<Vec<PaRange>, FirmwareError> {
    let mut offset = word_usize(blob, flat::RESERVATIONS_OFFSET)?;
    if !offset.is_multiple_of(8) {
        return Err(fault(BlobFault::Misaligned, flat::RESERVATIONS_OFFSET));
    }
    let mut ranges = Vec::new();
    loop {
        let pair = |at: usize| Ok(u64::from(word(blob, at)?) << 32 | u64::from(word(blob, at + 4)?));
        let (address, size) = (pair(offset)?, pair(offset + 8)?);
        if (address, size) == (0, 0) {
            return Ok(ranges);
        }
        if size > 0 {
            ranges.push(PaRange::new(Pa::new(address), size).ok_or_else(|| truncated(offset))?);
        }
        offset += 16;
    }
}

/// A walk over the structure block.
struct Structure<'a> {
    blob: &'a [u8],
    strings: Range<usize>,
    /// Where the walk is, and where the block ends.
    at: usize,
    end: usize,
    /// The nodes that have begun and not ended.
    open: Vec<usize>,
    nodes: Vec<FlatNode<'a>>,
    properties: Vec<Property<'a>>,
}

impl<'a> Structure<'a> {
    fn new(blob: &'a [u8], structure: Range<usize>, strings: Range<usize>) -> Self {
        let (at, end) = (structure.start, structure.end);
        Self { blob, strings, at, end, open: Vec::new(), nodes: Vec::new(), properties: Vec::new() }
    }

    /// Spec: Devicetree Specification 0.4, 5.4 "Structure Block".
    fn read(mut self) -> Result<(Vec<FlatNode<'a>>, Vec<Property<'a>>), FirmwareError> {
        loop {
            let token_at = self.at;
            let token = self.next_word()?;
            match token {
                flat::BEGIN_NODE => self.begin_node(token_at)?,
                flat::PROP => self.property(token_at)?,
                flat::END_NODE => self.end_node(token_at)?,
                flat::NOP => {}
                flat::END if self.open.is_empty() && !self.nodes.is_empty() => {
                    return Ok((self.nodes, self.properties));
                }
                _ => return Err(fault(BlobFault::Token(token), token_at)),
            }
        }
    }

    fn next_word(&mut self) -> Result<u32, FirmwareError> {
        if self.end - self.at < 4 {
            return Err(truncated(self.at));
        }
        let word = word(self.blob, self.at)?;
        self.at += 4;
        Ok(word)
    }

    /// Goes on behind `end`, at the next multiple of 4.
    fn go_on_after(&mut self, end: usize) -> Result<(), FirmwareError> {
        let next = end.checked_next_multiple_of(4).filter(|&next| next <= self.end);
        self.at = next.ok_or_else(|| truncated(end))?;
        Ok(())
    }

    fn begin_node(&mut self, token_at: usize) -> Result<(), FirmwareError> {
        let parent = self.open.last().copied();
        let second_root = parent.is_none() && !self.nodes.is_empty();
        if second_root {
            return Err(fault(BlobFault::Token(flat::BEGIN_NODE), token_at));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(fault(BlobFault::TooDeep(MAX_DEPTH), token_at));
        }
        let (name, end) = name(self.blob, self.at, self.end)?;
        if name.is_empty() != parent.is_none() {
            return Err(fault(BlobFault::Name, self.at));
        }
        self.go_on_after(end)?;
        let first = self.properties.len();
        self.open.push(self.nodes.len());
        self.nodes.push(FlatNode { name, parent, properties: first..first });
        Ok(())
    }

    fn property(&mut self, token_at: usize) -> Result<(), FirmwareError> {
        // Properties come before children, so the node that has them is the last one that began, and still open.
        let node = match (self.open.last(), self.nodes.len().checked_sub(1)) {
            (Some(&open), Some(last)) if open == last => last,
            _ => return Err(fault(BlobFault::Token(flat::PROP), token_at)),
        };
        let too_long = |_| truncated(token_at);
        let len = usize::try_from(self.next_word()?).map_err(too_long)?;
        let name_offset = usize::try_from(self.next_word()?).map_err(too_long)?;
        let value_end = self.at.checked_add(len).filter(|&end| end <= self.end);
        let value_end = value_end.ok_or_else(|| truncated(self.at))?;
        let value = &self.blob[self.at..value_end];
        let name_at = self.strings.start.checked_add(name_offset).ok_or_else(|| truncated(token_at))?;
        let (name, _) = name(self.blob, name_at, self.strings.end)?;
        if name.is_empty() {
            return Err(fault(BlobFault::Name, name_at));
        }
        self.go_on_after(value_end)?;
        self.properties.push((name, value));
        self.nodes[node].properties.end = self.properties.len();
        Ok(())
    }

    fn end_node(&mut self, token_at: usize) -> Result<(), FirmwareError> {
        let node = self.open.pop().ok_or_else(|| fault(BlobFault::Token(flat::END_NODE), token_at))?;
        let mut names: Vec<&str> =
            self.properties[self.nodes[node].properties.clone()].iter().map(|&(name, _)| name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(fault(BlobFault::DuplicateProperty, token_at));
        }
        Ok(())
    }
}
