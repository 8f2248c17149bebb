//! What a CPU can do with tables, and the id registers that say so.

/// Which updates of descriptors a CPU makes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HardwareUpdate {
    /// None.
    None,
    /// The access flag.
    Access,
    /// The access flag and the dirty state.
    AccessAndDirty,
}

/// What a CPU can do with tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuFeatures {
    /// How many bits a physical address has: 32, 36, 40, 42, 44, 48 or 52.
    pub pa_bits: u8,
    /// How many bits an ASID has: 8 or 16.
    pub asid_bits: u8,
    /// Granules of 4 KiB.
    pub granule_4k: bool,
    /// Granules of 16 KiB.
    pub granule_16k: bool,
    /// Granules of 64 KiB.
    pub granule_64k: bool,
    /// 52-bit virtual addresses with 64 KiB granules (FEAT_LVA).
    pub large_va: bool,
    /// 52-bit addresses with 4 and 16 KiB granules (FEAT_LPA2).
    pub large_descriptors: bool,
    /// What the CPU updates in descriptors (FEAT_HAFDBS).
    pub hardware_update: HardwareUpdate,
    /// The operating system runs at EL2, so that its TLB entries belong to the EL2&0 regime (FEAT_VHE, HCR_EL2.E2H and TGE set).
    pub host_at_el2: bool,
}

impl CpuFeatures {
    /// A CPU as they are common: 48 bits, 16-bit ASIDs, every granule, no hardware updates.
    pub const COMMON: Self = Self {
        pa_bits: 48,
        asid_bits: 16,
        granule_4k: true,
        granule_16k: true,
        granule_64k: true,
        large_va: false,
        large_descriptors: false,
        hardware_update: HardwareUpdate::None,
        host_at_el2: false,
    };

    /// A CPU with all that is here, for tables of every kind.
    pub const LARGE: Self = Self {
        pa_bits: 52,
        large_va: true,
        large_descriptors: true,
        hardware_update: HardwareUpdate::AccessAndDirty,
        host_at_el2: true,
        ..Self::COMMON
    };

    /// ID_AA64MMFR0_EL1, its fields PARange, ASIDBits, TGran16, TGran64 and TGran4; others are 0.
    ///
    /// Spec: Arm ARM, D24.2 "ID_AA64MMFR0_EL1, AArch64 Memory Model Feature Register 0".
    pub fn id_aa64mmfr0(&self) -> u64 {
        let pa_range = match self.pa_bits {
            ..36 => 0,
            36..40 => 1,
            40..42 => 2,
            42..44 => 3,
            44..48 => 4,
            48..52 => 5,
            52.. => 6,
        };
        let asid = if self.asid_bits >= 16 { 2 } else { 0 };
        let large = u64::from(self.large_descriptors);
        let g16 = if self.granule_16k { 1 + large } else { 0 };
        let g64 = if self.granule_64k { 0 } else { 0xf };
        let g4 = if self.granule_4k { large } else { 0xf };
        pa_range | asid << 4 | g16 << 20 | g64 << 24 | g4 << 28
    }

    /// ID_AA64MMFR1_EL1, its fields HAFDBS and VH; others are 0. VH says that the CPU can run an operating system at EL2; that it does so is
    /// [`host_at_el2`](Self::host_at_el2), and here both are one.
    ///
    /// Spec: Arm ARM, D24.2 "ID_AA64MMFR1_EL1, AArch64 Memory Model Feature Register 1".
    pub fn id_aa64mmfr1(&self) -> u64 {
        let update = match self.hardware_update {
            HardwareUpdate::None => 0,
            HardwareUpdate::Access => 1,
            HardwareUpdate::AccessAndDirty => 2,
        };
        update | u64::from(self.host_at_el2) << 8
    }

    /// ID_AA64MMFR2_EL1, its field VARange; others are 0.
    ///
    /// Spec: Arm ARM, D24.2 "ID_AA64MMFR2_EL1, AArch64 Memory Model Feature Register 2".
    pub fn id_aa64mmfr2(&self) -> u64 {
        u64::from(self.large_va) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_registers_are_as_the_book_has_them() {
        assert_eq!(CpuFeatures::COMMON.id_aa64mmfr0(), 0x0010_0025);
        assert_eq!(CpuFeatures::LARGE.id_aa64mmfr0(), 0x1020_0026);
        let small = CpuFeatures {
            pa_bits: 40,
            asid_bits: 8,
            granule_4k: false,
            granule_16k: false,
            granule_64k: false,
            ..CpuFeatures::COMMON
        };
        assert_eq!(small.id_aa64mmfr0(), 0xff00_0002);
        assert_eq!((CpuFeatures::COMMON.id_aa64mmfr1(), CpuFeatures::LARGE.id_aa64mmfr1()), (0, 0x102));
        assert_eq!((CpuFeatures::COMMON.id_aa64mmfr2(), CpuFeatures::LARGE.id_aa64mmfr2()), (0, 0x1_0000));
    }
}
