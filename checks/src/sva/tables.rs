//! A reader of processes' page tables of its own, for those who watch: what an entry allows, without TLBs and without the code under test.
//!
//! Spec: Arm ARM DDI 0487, D8.3.1 "VMSAv8-64 descriptor formats", "VMSAv8-64 Block descriptor and Page descriptor formats"; Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level
//! Paging".

use model_bus::Bus;
use portcullis::core::mm::ProcessTable;
use portcullis::types::Pa;

/// A leaf of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where the page of the address lies.
    pub page: Pa,
    /// Whether it may be written, now or after hardware has noted that it is dirty (DBM; an x86 table always can).
    pub writable: bool,
    /// Whether its entry says that it was written: AP\[2\] is 0, or D is 1.
    pub dirty: bool,
}

/// The last level of a walk.
const LAST_LEVEL: u32 = 3;

/// What the table says of `va`, as the CPU that wrote it sees it; none if there is no entry for user code.
pub fn look_up(bus: &Bus, table: &ProcessTable, va: u64) -> Option<Leaf> {
    let (root, granule, input_bits, large_descriptors) = match *table {
        ProcessTable::Vmsa64 { root, granule, input_bits, large_descriptors, .. } => {
            (root, granule, input_bits, large_descriptors)
        }
        ProcessTable::X86 { root, levels, .. } => return look_up_x86(bus, root, levels, va),
        _ => return None,
    };
    let (bits, input) = (u32::from(granule.get()), u32::from(input_bits));
    if va >> input != 0 {
        return None;
    }
    let stride = bits - 3;
    let mut below = (input - 1 - bits) / stride;
    let mut at = root.get();
    loop {
        let shift = bits + below * stride;
        let index = va >> shift & ((1 << stride) - 1);
        let word = bus.cpu().load64(Pa::new(at + 8 * index)).ok()?;
        let address = output(word, bits, large_descriptors);
        match (below, word & 3) {
            (0, 3) => return leaf(word, address),
            (1.., 1) => {
                return leaf(
                    word,
                    address & !((1 << shift) - 1) | va & ((1 << shift) - 1) & !((1 << bits) - 1),
                );
            }
            (1.., 3) => (at, below) = (address, below - 1),
            _ => return None,
        }
        debug_assert!(below < LAST_LEVEL + 1, "levels go down");
    }
}

/// Tables of 512 entries of 8 bytes: P is bit 0, R/W bit 1, U/S bit 2, D bit 6, PS bit 7, the address 51:12. What the way forbids, the leaf cannot allow.
fn look_up_x86(bus: &Bus, root: Pa, levels: u8, va: u64) -> Option<Leaf> {
    // The lower half.
    if va >> (12 + 9 * u32::from(levels) - 1) != 0 {
        return None;
    }
    let (mut at, mut writable) = (root.get(), true);
    for level in (1..=u32::from(levels)).rev() {
        let shift = 12 + 9 * (level - 1);
        let word = bus.cpu().load64(Pa::new(at + 8 * (va >> shift & 511))).ok()?;
        if word & 0b101 != 0b101 {
            return None;
        }
        writable &= word & 0b10 != 0;
        let address = word & 0x000f_ffff_ffff_f000;
        if level == 1 || word & 0x80 != 0 {
            let inside = (1 << shift) - 1;
            let page = Pa::new(address & !inside | va & inside & !0xfff);
            return Some(Leaf { page, writable, dirty: word & 0x40 != 0 });
        }
        at = address;
    }
    None
}

/// AP[1], bit 6, lets user code in; AP[2], bit 7, forbids writing, unless DBM, bit 51, says that hardware may allow it.
fn leaf(word: u64, page: u64) -> Option<Leaf> {
    let dirty = word >> 7 & 1 == 0;
    (word >> 6 & 1 == 1).then_some(Leaf {
        page: Pa::new(page),
        writable: dirty || word >> 51 & 1 == 1,
        dirty,
    })
}

/// The address in an entry: bits 47 down to the granule; 51:48 lie in 15:12 with 64 KiB, and with large descriptors 49:48 lie where they are and 51:50 in 9:8.
fn output(word: u64, bits: u32, large: bool) -> u64 {
    let low = word & ((1 << 48) - (1 << bits));
    match (bits, large) {
        (16, _) => low | (word >> 12 & 0xf) << 48,
        (_, true) => low | word & 0x3 << 48 | (word >> 8 & 3) << 50,
        _ => low,
    }
}

#[cfg(test)]
mod tests {
    use model_bus::BusOptions;
    use portcullis::types::PaRange;

    use super::*;

    #[test]
    fn addresses_lie_where_the_architecture_has_them() {
        assert_eq!(output(0x0040_0000_4321_0f43, 12, false), 0x4321_0000);
        assert_eq!(output(0x0000_0000_4321_9043 | 0xf << 12, 16, false), 0xf_0000_4321_0000);
        assert_eq!(output(0x0003_0000_4321_0343, 12, true), 0xf_0000_4321_0000);
    }

    #[test]
    fn x86s_tables_are_read_level_by_level() {
        let ram = PaRange::new(Pa::new(0x10_0000), 0x10_0000).unwrap();
        let bus = Bus::new(&BusOptions::new(ram, 1));
        let put = |at: u64, word: u64| bus.cpu().store64(Pa::new(at), word).unwrap();
        // 7654_1910_0000h is entries 236, 336, 200, 256 of the four levels.
        put(0x10_0000 + 8 * 236, 0x10_1067);
        put(0x10_1000 + 8 * 336, 0x10_2067);
        put(0x10_2000 + 8 * 200, 0x10_3065);
        put(0x10_3000 + 8 * 256, 0x8000_0001_2345_6067);
        let look = |va| look_up_x86(&bus, Pa::new(0x10_0000), 4, va);
        let leaf = |page, writable, dirty| Some(Leaf { page: Pa::new(page), writable, dirty });
        assert_eq!(
            look(0x7654_1910_0123),
            leaf(0x1_2345_6000, false, true),
            "a table on the way is read only"
        );
        put(0x10_2000 + 8 * 200, 0x1_2340_00a7);
        assert_eq!(look(0x7654_1910_0123), leaf(0x1_2350_0000, true, false), "2 MiB");
        put(0x10_2000 + 8 * 200, 0x1_2340_00a3);
        assert_eq!(look(0x7654_1910_0123), None, "the kernel's");
        assert_eq!(look(0x8000_0000_0000), None, "the upper half");
    }

    #[test]
    fn a_clean_page_may_be_written_and_is_not_dirty() {
        assert_eq!(
            leaf(0x0008_0000_0000_00c3, 0),
            Some(Leaf { page: Pa::new(0), writable: true, dirty: false })
        );
        assert_eq!(
            leaf(0x0000_0000_0000_00c3, 0),
            Some(Leaf { page: Pa::new(0), writable: false, dirty: false })
        );
        assert_eq!(
            leaf(0x0000_0000_0000_0043, 0),
            Some(Leaf { page: Pa::new(0), writable: true, dirty: true })
        );
        assert_eq!(leaf(0x0000_0000_0000_0003, 0), None);
    }
}
