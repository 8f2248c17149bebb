//! Trace events: what drivers, core and models say about what they do.
//!
//! An [`Event`] is a name and a few named values, borrowed, so that saying one costs nothing where nobody
//! listens. The embedder's [`Sink`] decides what becomes of it: a line on a terminal, a JSON object, a counter.
//! The text form of an event is its `Display`: `name: key=value key=value`.

use core::fmt;

/// A value in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number that people count in tens.
    Dec(u64),
    /// A number that people read in hexadecimal: an address, a register.
    Hex(u64),
    /// An address in full, sixteen digits.
    Addr(u64),
    /// A word.
    Str(&'a str),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Dec(number) => write!(f, "{number}"),
            Self::Hex(number) => write!(f, "{number:#x}"),
            Self::Addr(number) => write!(f, "{number:#018x}"),
            Self::Str(word) => f.write_str(word),
        }
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The room that says it: `core`, `smmuv3`, `model.smmuv3`, `model.nvme`.
    pub source: &'static str,
    /// What happened, in a word of `snake_case`: `dma_map`, `cmd`, `event_record`.
    pub name: &'static str,
    /// The particulars, in the order in which they are printed. A key that ends with a colon says what kind of name its value is, and is
    /// printed as part of it: `IOMMU:0000:00:03.0`.
    pub fields: &'a [(&'static str, Value<'a>)],
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        self.fields.iter().try_for_each(|(key, value)| {
            let joint = if key.ends_with(':') { "" } else { "=" };
            write!(f, " {key}{joint}{value}")
        })
    }
}

/// Where events go.
pub trait Sink: Send + Sync {
    /// Whether anybody listens. A source may skip the work of making an event if not.
    fn listening(&self) -> bool;
    /// Takes an event. Called with locks held and in interrupt context: must not block, must not call back.
    fn event(&self, event: &Event<'_>);
}

/// The sink of those who do not listen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence;

impl Sink for Silence {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn an_event_prints_as_one_line() {
        let event = Event {
            source: "core",
            name: "dma_map",
            fields: &[
                ("dev", Value::Str("0000:00:01.0")),
                ("iova", Value::Addr(0x1000)),
                ("len", Value::Dec(4096)),
            ],
        };
        assert_eq!(std::format!("{event}"), "dma_map: dev=0000:00:01.0 iova=0x0000000000001000 len=4096");
    }

    #[test]
    fn a_key_with_a_colon_is_part_of_its_value() {
        let fields = [("IOMMU:", Value::Str("0000:00:03.0")), ("code", Value::Dec(0))];
        let event = Event { source: "core", name: "dev_page_response", fields: &fields };
        assert_eq!(std::format!("{event}"), "dev_page_response: IOMMU:0000:00:03.0 code=0");
    }
}
