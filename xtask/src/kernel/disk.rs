//! The disk that the kernel is given: a content that nobody has seen before, and a last block that says what it is.
//!
//! The last block, little-endian: 16 bytes of magic; at 16 how many bytes are before it; at 24 their SHA-256; at 56 the CRC-32 of the first of them, at 60 of how
//! many.

use std::path::{Path, PathBuf};

use super::sha256::sha256;
use crate::random::{Random, fresh_seed};

const BLOCK: usize = 512;
const BYTES: usize = 4 << 20;
/// What the kernel's process checks itself.
const CRC_BYTES: u32 = 64 << 10;
const MAGIC: &[u8; 16] = b"PORTCULLIS DISK\0";

/// A disk in a file.
#[derive(Debug)]
pub(super) struct Disk {
    /// The file.
    pub(super) path: PathBuf,
    /// SHA-256 of the content, in hexadecimal.
    pub(super) sha256: String,
}

impl Disk {
    /// Makes it.
    pub(super) fn make(path: &Path) -> Result<Self, String> {
        let (bytes, sha256) = content(fresh_seed());
        std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), sha256 })
    }
}

/// What is on the disk, and the digest of what is before its last block.
fn content(seed: u64) -> (Vec<u8>, String) {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> = (0..BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    let digest = sha256(&bytes);
    let mut label = [0; BLOCK];
    label[..16].copy_from_slice(MAGIC);
    label[16..24].copy_from_slice(&(BYTES as u64).to_le_bytes());
    label[24..56].copy_from_slice(&digest);
    label[56..60].copy_from_slice(&crc32(&bytes[..CRC_BYTES as usize]).to_le_bytes());
    label[60..64].copy_from_slice(&CRC_BYTES.to_le_bytes());
    bytes.extend(label);
    (bytes, digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// CRC-32 as in IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_one_that_everybody_knows() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_last_block_says_what_is_before_it_and_no_two_disks_are_alike() {
        let ((bytes, digest), (others, _)) = (content(1), content(2));
        let (before, label) = bytes.split_at(BYTES);
        assert_eq!(label.len(), BLOCK);
        assert!(label.starts_with(MAGIC));
        assert_eq!(digest, sha256(before).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        assert_eq!(label[24..56], sha256(before));
        assert_ne!(before, &others[..BYTES]);
    }
}
