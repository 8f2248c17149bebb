//! What a CPU can do with tables, as CPUID tells.

/// What a CPU can do with tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuFeatures {
    /// MAXPHYADDR: how many bits a physical address has, 36 to 52.
    pub pa_bits: u8,
    /// 5-level paging (LA57).
    pub five_levels: bool,
    /// Pages of 1 GiB (Page1GB).
    pub gib_pages: bool,
    /// PCIDs, and INVPCID.
    pub pcids: bool,
    /// Pages that are not to be executed (Execute Disable).
    pub execute_disable: bool,
}

impl CpuFeatures {
    /// A CPU as they are common: 4 levels, 46 bits, all else.
    pub const COMMON: Self =
        Self { pa_bits: 46, five_levels: false, gib_pages: true, pcids: true, execute_disable: true };

    /// A CPU with all that is here.
    pub const LARGE: Self = Self { pa_bits: 52, five_levels: true, ..Self::COMMON };

    /// CPUID leaf 80000008H, EAX: physical address bits in 7:0, linear address bits in 15:8.
    ///
    /// Spec: Intel SDM volume 3A, 4.1.4 "Enumeration of Paging Features by CPUID".
    pub fn cpuid_80000008_eax(&self) -> u32 {
        u32::from(self.pa_bits) | if self.five_levels { 57 << 8 } else { 48 << 8 }
    }

    /// CPUID leaf 07H, ECX: its field LA57; others are 0.
    pub fn cpuid_07_ecx(&self) -> u32 {
        u32::from(self.five_levels) << 16
    }

    /// CPUID leaf 80000001H, EDX: its fields Execute Disable, Page1GB and Intel 64; others are 0.
    pub fn cpuid_80000001_edx(&self) -> u32 {
        u32::from(self.execute_disable) << 20 | u32::from(self.gib_pages) << 26 | 1 << 29
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuid_is_as_the_book_has_it() {
        assert_eq!(CpuFeatures::COMMON.cpuid_80000008_eax(), 0x302e);
        assert_eq!(CpuFeatures::LARGE.cpuid_80000008_eax(), 0x3934);
        assert_eq!((CpuFeatures::COMMON.cpuid_07_ecx(), CpuFeatures::LARGE.cpuid_07_ecx()), (0, 0x1_0000));
        assert_eq!(CpuFeatures::COMMON.cpuid_80000001_edx(), 0x2410_0000);
        let old = CpuFeatures { gib_pages: false, execute_disable: false, ..CpuFeatures::COMMON };
        assert_eq!(old.cpuid_80000001_edx(), 0x2000_0000);
    }
}
