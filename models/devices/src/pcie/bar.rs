//! Base address registers: how software learns a function's sizes and says where it answers.
//!
//! Software writes all ones and reads back the size: the bits below it are fixed. Then it writes the address.
//!
//! Spec: PCIe 6.0, 7.5.1.2.1 "Base Address Registers".

use super::config::{ConfigBuilder, ConfigSpace};

const FIRST_BAR: usize = 0x10;
const TYPE_64_BIT: u32 = 0b10 << 1;
const PREFETCHABLE: u32 = 1 << 3;

/// A run of registers or memory that a function answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Which BAR, 0 to 5; a wide one also takes the next.
    pub index: usize,
    /// The size in bytes, a power of two of at least 16.
    pub size_bytes: u64,
    /// Whether the address may be beyond 4 GiB.
    pub wide: bool,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
}

impl Bar {
    /// Lays the register out.
    ///
    /// # Panics
    ///
    /// If the index, the size, or both together are not what a BAR can be.
    pub fn lay_out(self, config: &mut ConfigBuilder) {
        let fits = if self.wide { self.index < 5 } else { self.index < 6 && self.size_bytes <= 1 << 31 };
        assert!(fits && self.size_bytes.is_power_of_two() && self.size_bytes >= 16, "no such BAR: {self:?}");
        let at = FIRST_BAR + 4 * self.index;
        let mask = !(self.size_bytes - 1);
        let kind = if self.wide { TYPE_64_BIT } else { 0 } | if self.prefetchable { PREFETCHABLE } else { 0 };
        config.set32(at, kind).allow32(at, mask as u32);
        if self.wide {
            config.allow32(at + 4, (mask >> 32) as u32);
        }
    }

    /// The address in the register, whether or not the function answers there at the moment.
    pub fn address(self, config: &ConfigSpace) -> u64 {
        let at = FIRST_BAR + 4 * self.index;
        let low = u64::from(config.read32(at) & !0xf);
        if self.wide { low | u64::from(config.read32(at + 4)) << 32 } else { low }
    }

    /// Where in the BAR `len_bytes` bytes at `address` lie; none if the function does not answer for all of them.
    pub fn offset_of(self, config: &ConfigSpace, address: u64, len_bytes: u64) -> Option<u64> {
        let offset = address.checked_sub(self.address(config))?;
        let inside = offset.checked_add(len_bytes).is_some_and(|end| end <= self.size_bytes);
        (inside && config.memory_enabled()).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use model_bus::Width;

    use super::*;
    use crate::pcie::Identity;

    fn space(bar: Bar) -> ConfigSpace {
        let identity = Identity { vendor: 1, device: 2, revision: 0, class: 0 };
        let mut builder = ConfigBuilder::new(identity, 0);
        bar.lay_out(&mut builder);
        builder.build()
    }

    #[test]
    fn a_64_bit_bar_tells_its_size_to_who_writes_ones() {
        let bar = Bar { index: 0, size_bytes: 0x4000, wide: true, prefetchable: false };
        let config = space(bar);
        assert_eq!((config.read32(0x10), config.read32(0x14)), (0x0000_0004, 0));
        config.write(0x10, Width::Bits32, 0xffff_ffff);
        config.write(0x14, Width::Bits32, 0xffff_ffff);
        assert_eq!((config.read32(0x10), config.read32(0x14)), (0xffff_c004, 0xffff_ffff));
    }

    #[test]
    fn a_32_bit_bar_tells_its_size_to_who_writes_ones() {
        let config = space(Bar { index: 5, size_bytes: 0x10_0000, wide: false, prefetchable: true });
        config.write(0x24, Width::Bits32, 0xffff_ffff);
        assert_eq!(config.read32(0x24), 0xfff0_0008);
        config.write(0x20, Width::Bits32, 0xffff_ffff);
        assert_eq!(config.read32(0x20), 0);
    }

    #[test]
    fn a_function_answers_inside_its_bar_while_memory_is_enabled() {
        let bar = Bar { index: 2, size_bytes: 0x1000, wide: true, prefetchable: false };
        let config = space(bar);
        config.write(0x18, Width::Bits32, 0x2000_0000);
        config.write(0x1c, Width::Bits32, 0x80);
        assert_eq!(bar.address(&config), 0x80_2000_0000);
        assert_eq!(bar.offset_of(&config, 0x80_2000_0010, 4), None);
        config.write(0x04, Width::Bits16, 0x0002);
        assert_eq!(bar.offset_of(&config, 0x80_2000_0010, 4), Some(0x10));
        assert_eq!(bar.offset_of(&config, 0x80_2000_0ffc, 8), None);
        assert_eq!(bar.offset_of(&config, 0x80_1fff_ffff, 1), None);
    }
}
