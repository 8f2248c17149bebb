//! Where things lie in the memory that both machines have.
//!
//! RAM is that of QEMU's `virt`. Its first 16 MiB belong to the parked CPU. What a device may reach is only the data area,
//! or one of the places where nothing answers: a wrong translation must not write into registers, nor into tables.

/// The first byte of RAM.
pub const RAM: u64 = 0x4000_0000;
/// How much RAM there is.
pub const RAM_BYTES: u64 = 256 << 20;
/// The command queue, of 2^[`COMMAND_LG2`] entries.
pub const COMMANDS: u64 = 0x4100_0000;
/// log2 of the entries of the command queue.
pub const COMMAND_LG2: u32 = 8;
/// The event queue, of 2^[`EVENT_LG2`] entries.
pub const EVENTS: u64 = 0x4110_0000;
/// log2 of the entries of the event queue.
pub const EVENT_LG2: u32 = 15;
/// Where the bytes that QEMU's device has read come to lie.
pub const READ_BACK: u64 = 0x4130_0000;
/// The stream table, and its second level.
pub const STREAMS: u64 = 0x4200_0000;
/// The end of the stream table.
pub const STREAMS_END: u64 = 0x4300_0000;
/// Context descriptors and translation tables.
pub const TABLES: u64 = 0x4400_0000;
/// The end of the tables.
pub const TABLES_END: u64 = 0x4700_0000;
/// What devices read and write.
pub const DATA: u64 = 0x4800_0000;
/// The end of what devices read and write.
pub const DATA_END: u64 = 0x4880_0000;

/// Whether nothing answers in all of `len` bytes at `at`, on either machine.
pub fn is_nowhere(at: u64, len: u64) -> bool {
    let last = at + (len - 1);
    let between = |first: u64, end: u64| at >= first && last < end;
    between(0x5000_0000, 0x40_0000_0000) || at >= 0x100_0000_0000
}

/// Whether all of `len` bytes at `at` are in the data area.
pub fn is_data(at: u64, len: u64) -> bool {
    at >= DATA && at + len <= DATA_END
}

/// What lies in the data area before any device has written: every word says where it is, seven bits a byte, so that no byte is zero, nor one
/// that QEMU's device writes.
pub fn pattern(at: u64) -> u32 {
    let word = at >> 2;
    (0..4u32).fold(0, |bytes, index| {
        let seven = u32::try_from(word >> (7 * index) & 0x7f).unwrap_or(0);
        bytes | (0x80 | seven) << (8 * index)
    })
}

/// Where in the data area a word of [`pattern`] is from; none if it is no such word.
pub fn pattern_address(word: u32) -> Option<u64> {
    let seven = |index: u32| u64::from(word >> (8 * index) & 0x7f) << (7 * index);
    let low = (0..4).map(seven).sum::<u64>() << 2;
    // 30 bits of the address are in the word.
    let at = DATA >> 30 << 30 | low;
    (word & 0x8080_8080 == 0x8080_8080 && is_data(at, 4)).then_some(at)
}

/// The bytes of the data area before any device has written.
pub fn pattern_bytes(at: u64, len: u64) -> Vec<u8> {
    let byte = |at: u64| pattern(at).to_le_bytes()[usize::try_from(at & 3).unwrap_or(0)];
    (at..at + len).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_data_area_says_where_it_is() {
        for at in [DATA, DATA + 0x12_3454, DATA_END - 4] {
            assert_eq!(pattern_address(pattern(at)), Some(at));
            assert!(pattern_bytes(at, 4).iter().all(|&byte| byte >= 0x80));
        }
        assert_eq!(pattern_address(0x1234_5678), None);
    }
}
