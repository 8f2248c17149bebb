//! Lists of capabilities, walked with a limit.
//!
//! A list is a chain of offsets that the device writes. Each place is visited at most once, so a chain that bites its tail is found
//! out, and a chain that leaves its space is, too.

use alloc::vec::Vec;

use portcullis_spec::pcie::capability::{
    ExtendedHeader, ExtendedId, FIRST_EXTENDED_OFFSET, FIRST_OFFSET, Header, Id,
};
use portcullis_spec::pcie::express::{self, PortType};
use portcullis_spec::pcie::header::{CAPABILITIES_POINTER, STATUS, Status};
use portcullis_spec::pcie::{ABSENT, Bdf, CONFIG_SPACE_BYTES};

use crate::ConfigAccess;

/// Places for a capability header: every fourth byte.
const PLACES: usize = CONFIG_SPACE_BYTES as usize / 4;

/// The capabilities of a function, in the order of its lists.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Capabilities {
    list: Vec<(Id, u16)>,
    extended: Vec<(ExtendedId, u16)>,
}

/// What is wrong with a list of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CapabilityFault {
    /// It comes to an offset for the second time.
    Loop {
        /// The offset.
        offset: u16,
    },
    /// It leads to an offset where no capability can be.
    Outside {
        /// The offset.
        offset: u16,
    },
    /// The function stopped answering.
    Gone,
}

/// The offsets that a walk has come to.
struct Visited([u64; PLACES / 64]);

impl Visited {
    /// Notes an offset; an error if it was there before.
    fn visit(&mut self, offset: u16) -> Result<(), CapabilityFault> {
        let place = usize::from(offset / 4);
        let (word, bit) = (&mut self.0[place / 64], 1u64 << (place % 64));
        if *word & bit != 0 {
            return Err(CapabilityFault::Loop { offset });
        }
        *word |= bit;
        Ok(())
    }
}

impl Capabilities {
    /// Walks the lists of a function.
    ///
    /// # Errors
    ///
    /// What is wrong with a list.
    pub fn read(config: &(impl ConfigAccess + ?Sized), at: Bdf) -> Result<Self, CapabilityFault> {
        let list = list(config, at)?;
        let mut capabilities = Self { list, extended: Vec::new() };
        // Only PCI Express functions have what is beyond 256 bytes; with others, anything may be found there.
        if capabilities.find(Id::EXPRESS).is_some() {
            capabilities.extended = extended(config, at)?;
        }
        Ok(capabilities)
    }

    /// The offset of the first capability with this id.
    pub fn find(&self, id: Id) -> Option<u16> {
        self.list.iter().find(|capability| capability.0 == id).map(|capability| capability.1)
    }

    /// The offset of the first extended capability with this id.
    pub fn find_extended(&self, id: ExtendedId) -> Option<u16> {
        self.extended.iter().find(|capability| capability.0 == id).map(|capability| capability.1)
    }

    /// All capabilities with their offsets.
    pub fn list(&self) -> &[(Id, u16)] {
        &self.list
    }

    /// All extended capabilities with their offsets.
    pub fn extended(&self) -> &[(ExtendedId, u16)] {
        &self.extended
    }

    /// What kind of port or endpoint the function says it is; none for conventional PCI.
    pub fn port_type(&self, config: &(impl ConfigAccess + ?Sized), at: Bdf) -> Option<PortType> {
        let offset = self.find(Id::EXPRESS)?;
        Some(express::Capabilities::from(config.read16(at, offset + express::CAPABILITIES)).port_type())
    }
}

/// Spec: PCIe 6.0, 7.5.1.1.11 "Capabilities Pointer (Offset 34h)".
fn list(config: &(impl ConfigAccess + ?Sized), at: Bdf) -> Result<Vec<(Id, u16)>, CapabilityFault> {
    let mut found = Vec::new();
    if !Status::from(config.read16(at, STATUS)).capabilities_list() {
        return Ok(found);
    }
    let mut visited = Visited([0; PLACES / 64]);
    let mut offset = u16::from(config.read8(at, CAPABILITIES_POINTER) & !3);
    while offset != 0 {
        if offset < FIRST_OFFSET {
            return Err(CapabilityFault::Outside { offset });
        }
        visited.visit(offset)?;
        let header = config.read16(at, offset);
        if header == u16::MAX {
            return Err(CapabilityFault::Gone);
        }
        let header = Header::from(header);
        found.push((header.id(), offset));
        offset = u16::from(header.next() & !3);
    }
    Ok(found)
}

/// Spec: PCIe 6.0, 7.6.1 "Extended Capabilities in Configuration Space", 7.6.3 "PCI Express Extended Capability Header".
fn extended(
    config: &(impl ConfigAccess + ?Sized),
    at: Bdf,
) -> Result<Vec<(ExtendedId, u16)>, CapabilityFault> {
    let mut found = Vec::new();
    let mut visited = Visited([0; PLACES / 64]);
    let mut offset = FIRST_EXTENDED_OFFSET;
    loop {
        if offset < FIRST_EXTENDED_OFFSET {
            return Err(CapabilityFault::Outside { offset });
        }
        visited.visit(offset)?;
        let header = config.read32(at, offset);
        // The first header is zeroes where there are none; all ones where the way to configuration space ends at 256 bytes.
        match (header, offset) {
            (0 | ABSENT, FIRST_EXTENDED_OFFSET) => return Ok(found),
            (ABSENT, _) => return Err(CapabilityFault::Gone),
            _ => {}
        }
        let header = ExtendedHeader::from(header);
        found.push((header.id(), offset));
        offset = header.next() & !3;
        if offset == 0 {
            return Ok(found);
        }
    }
}
