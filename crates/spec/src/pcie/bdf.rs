//! Bus, device and function: who a function is.

use core::fmt;

/// Bus, device and function numbers of a function, within one segment: also its requester id.
///
/// Bits 15:8 bus, 7:3 device, 2:0 function. Prints as `01:02.3`.
///
/// Spec: PCIe 6.0, 2.2.6.2 "Transaction Descriptor - Transaction ID Field".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bdf(u16);

impl Bdf {
    /// The function with this requester id. Every number is one.
    pub const fn from_requester_id(id: u16) -> Self {
        Self(id)
    }

    /// Function `function` (below 8) of device `device` (below 32) on `bus`; none if there cannot be such.
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self((bus as u16) << 8 | (device as u16) << 3 | function as u16))
        } else {
            None
        }
    }

    /// The 16 bits that requests carry.
    pub const fn requester_id(self) -> u16 {
        self.0
    }

    /// The bus number.
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The device number, below 32.
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// The function number, below 8.
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }

    /// Device and function number as one: bits 7:3 and 2:0. With ARI, all of it is a function number.
    pub const fn devfn(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Another function of the same device; `function` below 8, else none.
    pub const fn sibling(self, function: u8) -> Option<Self> {
        Self::new(self.bus(), self.device(), function)
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bdf({self})")
    }
}
