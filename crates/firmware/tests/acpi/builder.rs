//! Builds DMAR tables byte by byte: what lies where is the book's chapter 8, and no code of the reader's is used. And what tables of all kinds have:
//! the header, the checksum, and the ways in which they can be damaged.

/// An entry of a device scope.
pub(crate) fn entry(kind: u8, id: u8, bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    let length = u8::try_from(6 + 2 * path.len()).unwrap();
    let mut bytes = vec![kind, length, 0, 0, id, bus];
    bytes.extend(path.iter().flat_map(|&(device, function)| [device, function]));
    bytes
}

pub(crate) fn endpoint(bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    entry(1, 0, bus, path)
}

pub(crate) fn bridge(bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    entry(2, 0, bus, path)
}

fn structure(kind: u16, body: &[u8], scope: &[Vec<u8>]) -> Vec<u8> {
    let scope: Vec<u8> = scope.concat();
    let length = u16::try_from(4 + body.len() + scope.len()).unwrap();
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, &scope].concat()
}

pub(crate) fn drhd(flags: u8, segment: u16, registers: u64, scope: &[Vec<u8>]) -> Vec<u8> {
    let body = [&[flags, 0][..], &segment.to_le_bytes(), &registers.to_le_bytes()].concat();
    structure(0, &body, scope)
}

pub(crate) fn rmrr(segment: u16, base: u64, limit: u64, scope: &[Vec<u8>]) -> Vec<u8> {
    let body = [&[0, 0][..], &segment.to_le_bytes(), &base.to_le_bytes(), &limit.to_le_bytes()].concat();
    structure(1, &body, scope)
}

pub(crate) fn atsr(flags: u8, segment: u16, scope: &[Vec<u8>]) -> Vec<u8> {
    structure(2, &[&[flags, 0][..], &segment.to_le_bytes()].concat(), scope)
}

pub(crate) fn rhsa(registers: u64, proximity: u32) -> Vec<u8> {
    structure(3, &[&[0; 4][..], &registers.to_le_bytes(), &proximity.to_le_bytes()].concat(), &[])
}

pub(crate) fn andd(number: u8, name: &[u8]) -> Vec<u8> {
    structure(4, &[&[0, 0, 0, number][..], name].concat(), &[])
}

pub(crate) fn satc(flags: u8, segment: u16, scope: &[Vec<u8>]) -> Vec<u8> {
    structure(5, &[&[flags, 0][..], &segment.to_le_bytes()].concat(), scope)
}

pub(crate) fn sidp(segment: u16, scope: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let with_flags = |(flags, entry): &(u8, Vec<u8>)| {
        let mut entry = entry.clone();
        entry[2] = *flags;
        entry
    };
    let scope: Vec<_> = scope.iter().map(with_flags).collect();
    structure(6, &[&[0, 0][..], &segment.to_le_bytes()].concat(), &scope)
}

/// The table of these structures, its checksum right.
pub(crate) fn table(structures: &[Vec<u8>]) -> Vec<u8> {
    // 46 bits of address; interrupt remapping, and firmware keeps its DMA to the reserved regions.
    let fixed = [45, 0b101, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    sealed(*b"DMAR", 1, &[&fixed[..], &structures.concat()].concat())
}

/// The table of this signature and revision: its header, the rest of it, its checksum right.
pub(crate) fn sealed(signature: [u8; 4], revision: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(u32::try_from(36 + rest.len()).unwrap().to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.extend(b"PORTCUPORTCULL");
    bytes.extend([1, 0, 0, 0, b'P', b'O', b'R', b'T', 1, 0, 0, 0]);
    bytes.extend(rest);
    seal(&mut bytes);
    bytes
}

/// Puts the checksum right.
pub(crate) fn seal(bytes: &mut [u8]) {
    bytes[9] = 0;
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[9] = sum.wrapping_neg();
}

/// Shows `ask` the table with each of its bits turned, its checksum right, and cut off before each of its bytes.
pub(crate) fn every_damage(whole: &[u8], mut ask: impl FnMut(&[u8])) {
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut turned = whole.to_vec();
            turned[at] ^= 1 << bit;
            seal(&mut turned);
            ask(&turned);
        }
        ask(&whole[..at]);
    }
}
