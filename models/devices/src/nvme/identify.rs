//! Identify: what the controller and its namespace are.
//!
//! Spec: NVMe 1.4, 5.15 "Identify command".

use super::NvmeOptions;
use super::events::HELD_MAX;
use super::log::ERRORS_KEPT;
use super::registers::{CQE_LG2, SQE_LG2, VERSION};

pub(crate) const IDENTIFY_BYTES: usize = 4096;
/// The firmware's revision, eight characters.
pub(crate) const FIRMWARE: &[u8; 8] = b"1.0     ";
/// The only namespace.
pub(crate) const NSID: u32 = 1;
/// Compare, Write Zeroes, and Save and Select in features. Bits 0, 3, 4 of ONCS.
const OPTIONAL_COMMANDS: u16 = 1 | 1 << 3 | 1 << 4;

type Data = [u8; IDENTIFY_BYTES];

fn text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    let printable = text.bytes().map(|byte| if (0x20..0x7f).contains(&byte) { byte } else { b'?' });
    field.iter_mut().zip(printable).for_each(|(place, byte)| *place = byte);
}

fn put<const N: usize>(data: &mut Data, at: usize, bytes: [u8; N]) {
    data[at..at + N].copy_from_slice(&bytes);
}

/// Spec: NVMe 1.4, 5.15.2.2 "Identify Controller data structure".
pub(crate) fn controller(options: &NvmeOptions) -> Data {
    let mut data = [0; IDENTIFY_BYTES];
    put(&mut data, 0, options.identity.vendor.to_le_bytes());
    put(&mut data, 2, options.identity.vendor.to_le_bytes());
    text(&mut data[4..24], &options.serial);
    text(&mut data[24..64], &options.model);
    data[64..72].copy_from_slice(FIRMWARE);
    // RAB: no preference beyond one command.
    data[77] = options.mdts;
    put(&mut data, 80, VERSION.to_le_bytes());
    // CNTRLTYPE: an I/O controller.
    data[111] = 1;
    data[259] = (HELD_MAX - 1) as u8;
    // FRMW: one slot, read-only.
    data[260] = 1 << 1 | 1;
    data[262] = (ERRORS_KEPT - 1) as u8;
    put(&mut data, 266, 343u16.to_le_bytes());
    put(&mut data, 268, 353u16.to_le_bytes());
    data[512] = (SQE_LG2 << 4 | SQE_LG2) as u8;
    data[513] = (CQE_LG2 << 4 | CQE_LG2) as u8;
    put(&mut data, 516, NSID.to_le_bytes());
    put(&mut data, 520, OPTIONAL_COMMANDS.to_le_bytes());
    let name = format!("nqn.2014.org.nvmexpress:{}", options.serial.trim());
    for (place, byte) in data[768..1023].iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    // PSD0: 25 W at most.
    put(&mut data, 2048, 2500u16.to_le_bytes());
    data
}

/// What Identify Namespace tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) blocks: u64,
    pub(crate) block_lg2: u8,
    pub(crate) read_only: bool,
}

/// Spec: NVMe 1.4, 5.15.2.1 "Identify Namespace data structure".
pub(crate) fn namespace(facts: Namespace) -> Data {
    let mut data = [0; IDENTIFY_BYTES];
    for at in [0, 8, 16] {
        put(&mut data, at, facts.blocks.to_le_bytes());
    }
    data[99] = u8::from(facts.read_only);
    put(&mut data, 120, EUI64);
    data[130] = facts.block_lg2;
    data
}

/// The namespace's name for ever. Spec: NVMe 1.4, 7.10 "Unique Identifier".
const EUI64: [u8; 8] = [0x52, 0x54, 0x00, 0xff, 0xfe, 0x00, 0x00, 0x01];

/// Spec: NVMe 1.4, 5.15.2.4 "Namespace Identification Descriptor list".
pub(crate) fn descriptors() -> Data {
    let mut data = [0; IDENTIFY_BYTES];
    data[0] = 1;
    data[1] = 8;
    put(&mut data, 4, EUI64);
    data
}

/// The active namespaces whose id is above `after`. Spec: NVMe 1.4, 5.15.2.3 "Active Namespace ID list".
pub(crate) fn active_list(after: u32) -> Data {
    let mut data = [0; IDENTIFY_BYTES];
    if after < NSID {
        put(&mut data, 0, NSID.to_le_bytes());
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_says_who_it_is_and_what_it_takes() {
        let options = NvmeOptions { serial: "S1".into(), model: "é disk".into(), ..NvmeOptions::default() };
        let data = controller(&options);
        assert_eq!(data[0..4], [0x36, 0x1b, 0x36, 0x1b]);
        assert_eq!(&data[4..24], b"S1                  ");
        assert_eq!(&data[24..32], b"?? disk ");
        assert_eq!((data[77], &data[80..84], data[111]), (8, &[0, 4, 1, 0][..], 1));
        assert_eq!((data[259], data[512], data[513], &data[516..520]), (3, 0x66, 0x44, &[1, 0, 0, 0][..]));
        assert_eq!(data[520..522], [0x19, 0]);
        assert_eq!(&data[768..795], b"nqn.2014.org.nvmexpress:S1\0");
    }

    #[test]
    fn a_namespace_says_how_large_it_is() {
        let data = namespace(Namespace { blocks: 0x12345, block_lg2: 12, read_only: true });
        for at in [0, 8, 16] {
            assert_eq!(data[at..at + 8], [0x45, 0x23, 1, 0, 0, 0, 0, 0]);
        }
        assert_eq!((data[25], data[26], data[99], &data[128..132]), (0, 0, 1, &[0, 0, 12, 0][..]));
    }

    #[test]
    fn the_list_begins_after_the_id_that_is_asked() {
        assert_eq!(active_list(0)[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(active_list(1)[..4], [0; 4]);
        assert_eq!(descriptors()[..4], [1, 8, 0, 0]);
    }
}
