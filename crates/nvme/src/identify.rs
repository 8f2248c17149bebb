//! What the controller says of itself and of a namespace, checked.
//!
//! Spec: NVMe Base 2.0, 5.17.2.1 "Identify Controller data structure"; NVM Command Set 1.0, 4.1.5.1 "NVM Command Set Identify
//! Namespace Data Structure".

use alloc::string::String;

use crate::error::{BadIdentity, NvmeError, Unsupported};

/// Bytes of either structure.
pub(crate) const STRUCTURE_BYTES: usize = 4096;

/// The largest block that is supported, as a power of two.
const LARGEST_BLOCK_LG2: u8 = 16;

/// A controller, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControllerInfo {
    /// PCI vendor id.
    pub vendor: u16,
    /// Serial number, without the spaces at its end. What is not printable ASCII is `?`.
    pub serial: String,
    /// Model, likewise.
    pub model: String,
    /// Firmware revision, likewise.
    pub firmware: String,
    /// The most bytes of one command; none if it names no limit.
    pub max_transfer_bytes: Option<u64>,
    /// The highest id of a namespace.
    pub namespace_count: u32,
    /// Whether it has a write cache that a flush empties.
    pub volatile_write_cache: bool,
    /// How long it takes to put away what it has cached when it is shut down, in nanoseconds (`RTD3E`); none if it does not say.
    pub shutdown_ns: Option<u64>,
}

impl ControllerInfo {
    /// Reads Identify Controller. `page_bytes` is the unit of `MDTS`: the controller's smallest page.
    pub(crate) fn decode(page: &[u8; STRUCTURE_BYTES], page_bytes: u64) -> Result<Self, NvmeError> {
        let (sqes, cqes) = (page[512], page[513]);
        // Low half: what is required at least; high half: what is possible at most. Powers of two.
        let holds = |sizes: u8, wanted: u8| sizes & 0xf <= wanted && wanted <= sizes >> 4;
        if !holds(sqes, 6) || !holds(cqes, 4) {
            return Err(Unsupported::EntrySizes { sqes, cqes }.into());
        }
        Ok(Self {
            vendor: u16::from_le_bytes([page[0], page[1]]),
            serial: text(&page[4..24]),
            model: text(&page[24..64]),
            firmware: text(&page[64..72]),
            max_transfer_bytes: max_transfer(page[77], page_bytes),
            namespace_count: word(page, 516),
            volatile_write_cache: page[525] & 1 == 1,
            // In microseconds.
            shutdown_ns: Some(u64::from(word(page, 88)) * 1000).filter(|&ns| ns != 0),
        })
    }
}

/// `MDTS` in bytes: none if it is 0, or so large that it limits nothing.
fn max_transfer(mdts: u8, page_bytes: u64) -> Option<u64> {
    if mdts == 0 {
        return None;
    }
    1u64.checked_shl(mdts.into())?.checked_mul(page_bytes)
}

/// A namespace: a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceInfo {
    /// Its id, from 1.
    pub id: u32,
    /// How many blocks it has.
    pub block_count: u64,
    /// A block in bytes: a power of two, at least 512.
    pub block_bytes: u64,
}

impl NamespaceInfo {
    /// Reads Identify Namespace of the namespace `id`.
    pub(crate) fn decode(page: &[u8; STRUCTURE_BYTES], id: u32) -> Result<Self, NvmeError> {
        let block_count = u64::from(word(page, 0)) | u64::from(word(page, 4)) << 32;
        if block_count == 0 {
            return Err(BadIdentity::Inactive { namespace: id }.into());
        }
        // Bits 6:5 extend the index for controllers with more than 16 formats.
        let (index, last) = (page[26] & 0xf | page[26] >> 1 & 0x30, page[25]);
        if index > last || index > 63 {
            return Err(BadIdentity::Format { index, last }.into());
        }
        let format = word(page, 128 + 4 * usize::from(index));
        let (metadata, lg2) = ((format & 0xffff) as u16, (format >> 16 & 0xff) as u8);
        if lg2 < 9 {
            return Err(BadIdentity::BlockSize { lg2 }.into());
        }
        if lg2 > LARGEST_BLOCK_LG2 {
            return Err(Unsupported::BlockSize { lg2 }.into());
        }
        if metadata != 0 {
            return Err(Unsupported::Metadata { bytes: metadata }.into());
        }
        if block_count.checked_mul(1 << lg2).is_none() {
            return Err(BadIdentity::Capacity { block_count }.into());
        }
        Ok(Self { id, block_count, block_bytes: 1 << lg2 })
    }
}

fn word(page: &[u8; STRUCTURE_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

fn text(bytes: &[u8]) -> String {
    let printable = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' };
    let mut text: String = bytes.iter().map(printable).collect();
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller() -> [u8; STRUCTURE_BYTES] {
        let mut page = [0; STRUCTURE_BYTES];
        page[0..2].copy_from_slice(&[0x34, 0x12]);
        page[4..24].copy_from_slice(b"SN 7                ");
        page[24..64].fill(b' ');
        page[24..29].copy_from_slice(b"Model");
        page[64..72].copy_from_slice(b"1.0\x07    ");
        page[77] = 5;
        // RTD3R, and RTD3E: 8 s.
        page[84..92].copy_from_slice(&[1, 2, 3, 4, 0x00, 0x12, 0x7a, 0x00]);
        (page[512], page[513]) = (0x66, 0x44);
        page[516] = 3;
        page[525] = 1;
        page
    }

    fn namespace() -> [u8; STRUCTURE_BYTES] {
        let mut page = [0; STRUCTURE_BYTES];
        page[0..8].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0]);
        page[25] = 1;
        page[26] = 1;
        page[132..136].copy_from_slice(&[0, 0, 12, 0]);
        page
    }

    #[test]
    fn a_controller_is_read_field_by_field() {
        let info = ControllerInfo::decode(&controller(), 4096).unwrap();
        assert_eq!((info.vendor, info.serial.as_str(), info.model.as_str()), (0x1234, "SN 7", "Model"));
        assert_eq!((info.firmware.as_str(), info.namespace_count), ("1.0?", 3));
        assert_eq!((info.max_transfer_bytes, info.volatile_write_cache), (Some(0x2_0000), true));
        assert_eq!(info.shutdown_ns, Some(8_000_000_000));
    }

    #[test]
    fn no_limit_and_an_absurd_limit_are_the_same() {
        assert_eq!(
            (max_transfer(0, 4096), max_transfer(255, 4096), max_transfer(63, 4096)),
            (None, None, None)
        );
        let mut silent = controller();
        silent[88..92].fill(0);
        assert_eq!(ControllerInfo::decode(&silent, 4096).unwrap().shutdown_ns, None);
    }

    #[test]
    fn other_entry_sizes_are_refused() {
        let mut page = controller();
        page[512] = 0x77;
        let refused = ControllerInfo::decode(&page, 4096).unwrap_err();
        assert_eq!(refused, Unsupported::EntrySizes { sqes: 0x77, cqes: 0x44 }.into());
    }

    #[test]
    fn a_namespace_is_read_in_the_format_it_has() {
        let info = NamespaceInfo::decode(&namespace(), 1).unwrap();
        assert_eq!((info.block_count, info.block_bytes), (0x1_0000, 4096));
    }

    #[test]
    fn a_bogus_namespace_is_an_error_that_names_the_field() {
        let refused = |change: fn(&mut [u8; STRUCTURE_BYTES])| {
            let mut page = namespace();
            change(&mut page);
            NamespaceInfo::decode(&page, 1).unwrap_err()
        };
        assert_eq!(refused(|page| page[2] = 0), BadIdentity::Inactive { namespace: 1 }.into());
        assert_eq!(refused(|page| page[26] = 2), BadIdentity::Format { index: 2, last: 1 }.into());
        assert_eq!(refused(|page| page[26] = 0x21), BadIdentity::Format { index: 0x11, last: 1 }.into());
        assert_eq!(refused(|page| page[134] = 8), BadIdentity::BlockSize { lg2: 8 }.into());
        assert_eq!(refused(|page| page[134] = 255), Unsupported::BlockSize { lg2: 255 }.into());
        assert_eq!(refused(|page| page[132] = 8), Unsupported::Metadata { bytes: 8 }.into());
        let huge = 0xff00_0000_0001_0000;
        assert_eq!(refused(|page| page[7] = 0xff), BadIdentity::Capacity { block_count: huge }.into());
    }
}
