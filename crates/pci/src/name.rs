//! Names of functions: `0000:00:01.0`.

use core::fmt;
use core::str::FromStr;

use portcullis_spec::pcie::Bdf;

/// A function of a machine: its segment, and its place in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionName {
    /// The segment: which host bridge, or set of them.
    pub segment: u16,
    /// Bus, device and function.
    pub at: Bdf,
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.at)
    }
}

/// A text that is not the name of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName;

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a PCI function: wanted something like 0000:00:01.0")
    }
}

impl core::error::Error for NotAName {}

impl FromStr for FunctionName {
    type Err = NotAName;

    /// Reads `0000:00:01.0`, or `00:01.0` in segment 0.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        let hex = |text: &str, digits: usize| {
            let all_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            all_hex.then(|| u16::from_str_radix(text, 16).ok()).flatten().ok_or(NotAName)
        };
        let byte =
            |text, digits| hex(text, digits).and_then(|number| u8::try_from(number).map_err(|_| NotAName));
        let (rest, function) = text.rsplit_once('.').ok_or(NotAName)?;
        let (rest, device) = rest.rsplit_once(':').ok_or(NotAName)?;
        let (segment, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
        let at = Bdf::new(byte(bus, 2)?, byte(device, 2)?, byte(function, 1)?).ok_or(NotAName)?;
        Ok(Self { segment: hex(segment, 4)?, at })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let name = FunctionName { segment: 0x12, at: Bdf::new(0xab, 0x1f, 7).unwrap() };
        assert_eq!(name.to_string(), "0012:ab:1f.7");
        assert_eq!("0012:ab:1f.7".parse(), Ok(name));
        assert_eq!("ab:1f.7".parse(), Ok(FunctionName { segment: 0, ..name }));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in
            ["", "0000:00:01", "0000:00:20.0", "0000:00:01.8", "0:00:01.0", "0000:00:01.0 ", "::.", "+0:01.0"]
        {
            assert_eq!(text.parse::<FunctionName>(), Err(NotAName), "{text:?}");
        }
    }
}
