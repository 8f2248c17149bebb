//! Just enough of ELF: the image that a boot loader loads, and how much text each crate has.
//!
//! Spec: Tool Interface Standard ELF 1.2, and its 64-bit form, "ELF header", "Program header", "Symbol table".

use std::collections::BTreeMap;

/// A 64-bit little-endian ELF file.
pub(super) struct Elf<'a>(&'a [u8]);

const LOAD: u32 = 1;
const SYMBOL_TABLE: u32 = 2;
const FUNCTION: u8 = 2;

impl<'a> Elf<'a> {
    /// The file, if it is one.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, String> {
        let known = file.starts_with(b"\x7fELF\x02\x01");
        if known { Ok(Self(file)) } else { Err("no 64-bit little-endian ELF file".into()) }
    }

    /// What is loaded, from the lowest physical address on.
    pub(super) fn image(&self) -> Result<Vec<u8>, String> {
        let (at, size, count) = (self.u64(32)?, self.u16(54)?, self.u16(56)?);
        let mut parts = Vec::new();
        for index in 0..u64::from(count) {
            let header = at + index * u64::from(size);
            let bytes = self.u64(header + 32)?;
            if self.u32(header)? == LOAD && bytes > 0 {
                parts.push((self.u64(header + 24)?, self.bytes(self.u64(header + 8)?, bytes)?));
            }
        }
        let first = parts.iter().map(|(address, _)| *address).min().ok_or("nothing is loaded")?;
        let mut image = Vec::new();
        for (address, bytes) in parts {
            let start = usize::try_from(address - first).map_err(|error| error.to_string())?;
            let end = start + bytes.len();
            if end > 64 << 20 {
                return Err(format!("a part is loaded {start:#x} bytes behind the first"));
            }
            image.resize(image.len().max(end), 0);
            image[start..end].copy_from_slice(bytes);
        }
        Ok(image)
    }

    /// How many bytes of functions each crate has, by the names of the symbols, the most first. What a generic function was made for is not asked: it counts for the
    /// crate that wrote it.
    pub(super) fn text_by_crate(&self) -> Result<Vec<(String, u64)>, String> {
        let mut by_crate: BTreeMap<String, u64> = BTreeMap::new();
        for (name, bytes) in self.functions()? {
            *by_crate.entry(crate_of(&name)).or_default() += bytes;
        }
        let mut sorted: Vec<_> = by_crate.into_iter().collect();
        sorted.sort_by_key(|(_, bytes)| core::cmp::Reverse(*bytes));
        Ok(sorted)
    }

    fn functions(&self) -> Result<Vec<(String, u64)>, String> {
        let (at, size, count) = (self.u64(40)?, self.u16(58)?, self.u16(60)?);
        let header = |index: u64| at + index * u64::from(size);
        let tables = (0..u64::from(count)).map(header);
        let mut functions = Vec::new();
        for table in tables {
            if self.u32(table + 4)? != SYMBOL_TABLE {
                continue;
            }
            let names = self.u64(header(self.u32(table + 40)?.into()) + 24)?;
            let (first, bytes) = (self.u64(table + 24)?, self.u64(table + 32)?);
            for symbol in (first..first + bytes).step_by(24) {
                if self.bytes(symbol + 4, 1)?[0] & 0xf == FUNCTION {
                    functions
                        .push((self.text(names + u64::from(self.u32(symbol)?))?, self.u64(symbol + 16)?));
                }
            }
        }
        if functions.is_empty() { Err("it has no symbols".into()) } else { Ok(functions) }
    }

    fn bytes(&self, at: u64, len: u64) -> Result<&'a [u8], String> {
        let end = at.checked_add(len).and_then(|end| usize::try_from(end).ok());
        let start = usize::try_from(at).ok();
        start
            .zip(end)
            .and_then(|(start, end)| self.0.get(start..end))
            .ok_or_else(|| format!("{at:#x} is beyond its end"))
    }

    fn word<const N: usize>(&self, at: u64) -> Result<[u8; N], String> {
        self.bytes(at, N as u64)?.try_into().map_err(|_| "short".into())
    }

    fn u16(&self, at: u64) -> Result<u16, String> {
        self.word(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: u64) -> Result<u32, String> {
        self.word(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: u64) -> Result<u64, String> {
        self.word(at).map(u64::from_le_bytes)
    }

    /// The text at `at`, up to its zero.
    fn text(&self, at: u64) -> Result<String, String> {
        let start =
            usize::try_from(at).ok().and_then(|at| self.0.get(at..)).ok_or("a name is beyond the end")?;
        let end = start.iter().position(|&byte| byte == 0).unwrap_or(start.len());
        Ok(String::from_utf8_lossy(&start[..end]).into_owned())
    }
}

/// The crate that a mangled name begins with: of a method of a trait, that of the type; `other` for what is no Rust function.
///
/// Both manglings write a name as its length and its letters. In the older one the name follows `_ZN`; a type's own path may be inside the first part, after
/// `$LT$` or `_$LT$`. In the newer one a crate's name follows a `C` and its disambiguator.
fn crate_of(symbol: &str) -> String {
    let known = |name: &str| {
        name.split(|other: char| other != '_' && !other.is_ascii_alphanumeric()).next().map(str::to_owned)
    };
    if let Some(rest) = symbol.strip_prefix("_ZN") {
        let digits = rest.find(|other: char| !other.is_ascii_digit()).unwrap_or(0);
        let len = rest[..digits].parse().unwrap_or(0);
        let part = rest[digits..].get(..len).unwrap_or(&rest[digits..]);
        let path = part.trim_start_matches('_').trim_start_matches("$LT$").trim_start_matches("$RF$");
        return known(path.split("..").next().unwrap_or(path))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "other".into());
    }
    if let Some(rest) = symbol.strip_prefix("_R") {
        let crate_name = rest.match_indices('C').find_map(|(at, _)| name_after(&rest[at + 1..]));
        return crate_name.unwrap_or_else(|| "other".into());
    }
    "other".into()
}

/// The name after a crate's `C`: perhaps a disambiguator, `s…_`, then its length, perhaps a `_`, and itself.
fn name_after(rest: &str) -> Option<String> {
    let rest = match rest.strip_prefix('s') {
        Some(disambiguated) => &disambiguated[disambiguated.find('_')? + 1..],
        None => rest,
    };
    let digits = rest.find(|other: char| !other.is_ascii_digit())?;
    let len: usize = rest[..digits].parse().ok()?;
    let name = rest[digits..].strip_prefix('_').unwrap_or(&rest[digits..]);
    name.get(..len).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_says_whose_it_is_in_both_manglings() {
        assert_eq!(
            crate_of("_ZN15portcullis_core5group14Group$LT$P$GT$3new17h0123456789abcdefE"),
            "portcullis_core"
        );
        assert_eq!(
            crate_of(
                "_ZN99_$LT$portcullis_smmuv3..smmu..Smmu$LT$P$C$R$GT$$u20$as$u20$portcullis_core..iommu..Iommu$LT$P$GT$$GT$6attach17h0E"
            ),
            "portcullis_smmuv3"
        );
        assert_eq!(crate_of("_RNvMs_NtCsabc123_15portcullis_core5groupINtB4_5GroupE3new"), "portcullis_core");
        assert_eq!(crate_of("memcpy"), "other");
    }

    #[test]
    fn an_image_is_what_is_loaded_in_the_order_of_addresses() {
        let mut file = vec![0; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 2;
        for (index, (address, byte)) in [(0x2004u64, b'b'), (0x2000, b'a')].into_iter().enumerate() {
            let header = 64 + 56 * index;
            file[header] = 1;
            let end = file.len() as u64;
            file[header + 8..header + 16].copy_from_slice(&end.to_le_bytes());
            file[header + 24..header + 32].copy_from_slice(&address.to_le_bytes());
            file[header + 32] = 2;
            file.extend([byte, byte]);
        }
        assert_eq!(Elf::read(&file).unwrap().image().unwrap(), b"aa\0\0bb");
        assert!(Elf::read(b"\x7fELF\x01").is_err());
        file.truncate(64 + 2 * 56);
        assert!(Elf::read(&file).unwrap().image().is_err());
    }
}
