//! Little-endian words at offsets, names, and pieces one after the other; and never beyond the end.

/// The byte at `offset`; none beyond the end.
pub(super) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// The 16-bit word at `offset`.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

/// The 32-bit word at `offset`.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

/// The 64-bit word at `offset`.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// The name at the start of `bytes`, of something in the name space. None if it is not ASCII that a zero byte ends.
pub(super) fn name(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let name = core::str::from_utf8(bytes.get(..end)?).ok()?;
    (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())).then_some(name)
}

/// Pieces that lie one after the other in `bytes`, which lie at `offset` of the table: where each lies in the table, and its bytes. It ends with the
/// first error.
///
/// `piece` is given the rest and where that lies, and answers which bytes of it, at least one, are the next piece; none if there is no more.
pub(super) fn pieces<'a, E>(
    bytes: &'a [u8],
    offset: usize,
    piece: impl Fn(&'a [u8], usize) -> Option<Result<&'a [u8], E>> + Clone,
) -> impl Iterator<Item = Result<(usize, &'a [u8]), E>> + Clone {
    let mut left = Some((bytes, offset));
    core::iter::from_fn(move || {
        let (rest, at) = left.take()?;
        let found = piece(rest, at)?;
        if let Ok(found) = &found {
            left = rest.get(found.len()..).map(|rest| (rest, at + found.len()));
        }
        Some(found.map(|found| (at, found)))
    })
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
