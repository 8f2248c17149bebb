//! What a CPU is told to translate with: TTBR0, TCR and MAIR, and what they mean.
//!
//! Spec: Arm ARM, D24.2 "TTBR0_EL1", "TCR_EL1", "MAIR_EL1". With FEAT_VHE the EL2 registers have the same fields.

use portcullis_types::Pa;

use crate::{CpuFeatures, HardwareUpdate};

/// The registers that user code is translated by, as software writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Context {
    /// TTBR0_ELx: table address 47:1 (with 52-bit addresses: 51:48 in bits 5:2), ASID 63:48.
    pub ttbr0: u64,
    /// TCR_ELx.
    pub tcr: u64,
    /// MAIR_ELx.
    pub mair: u64,
}

/// The size of the smallest page and of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

impl Granule {
    /// The exponent of its size.
    pub const fn lg2(self) -> u8 {
        match self {
            Self::Kib4 => 12,
            Self::Kib16 => 14,
            Self::Kib64 => 16,
        }
    }

    /// How many address bits a level resolves.
    pub(crate) const fn stride(self) -> u8 {
        self.lg2() - 3
    }

    /// The exponent of what an entry of `level` covers.
    pub(crate) const fn entry_lg2(self, level: i8) -> u8 {
        self.lg2() + self.stride() * (3 - level) as u8
    }
}

/// How an address lies in a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Up to 48 bits, in their places.
    Plain,
    /// 64 KiB granules with FEAT_LPA: bits 51:48 in 15:12.
    Large64k,
    /// TCR.DS with 4 or 16 KiB granules: bits 51:50 in 9:8.
    LargeDs,
}

/// What a [`Context`] means to a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage1 {
    pub(crate) granule: Granule,
    pub(crate) form: Form,
    pub(crate) input_bits: u8,
    pub(crate) output_bits: u8,
    pub(crate) root: Pa,
    pub(crate) start_level: i8,
    pub(crate) asid: u16,
    pub(crate) walks_disabled: bool,
    pub(crate) top_byte_ignored: bool,
    pub(crate) hierarchy_ignored: bool,
    pub(crate) set_access: bool,
    pub(crate) set_dirty: bool,
}

const TG0: u32 = 14;
const IPS: u32 = 32;
const A1: u32 = 22;
const AS: u32 = 36;
const DS: u32 = 59;

const fn bit(word: u64, at: u32) -> bool {
    word >> at & 1 != 0
}

impl Context {
    /// What it means, or the rule that it breaks. A context that breaks one translates nothing.
    pub(crate) fn decode(&self, features: &CpuFeatures) -> Result<Stage1, &'static str> {
        let granule = match self.tcr >> TG0 & 3 {
            0b00 if features.granule_4k => Granule::Kib4,
            0b01 if features.granule_64k => Granule::Kib64,
            0b10 if features.granule_16k => Granule::Kib16,
            _ => return Err("TCR.TG0 is reserved or not supported"),
        };
        if bit(self.tcr, A1) {
            return Err("TCR.A1 takes the ASID from TTBR1, which this model does not have");
        }
        let form = form(self.tcr, granule, features)?;
        let t0sz = (self.tcr & 0x3f) as u8;
        let long_va = form == Form::LargeDs || granule == Granule::Kib64 && features.large_va;
        if t0sz > 39 || t0sz < if long_va { 12 } else { 16 } {
            return Err("TCR.T0SZ is out of range");
        }
        let input_bits = 64 - t0sz;
        let start_level = 4 - (input_bits - granule.lg2()).div_ceil(granule.stride()) as i8;
        Ok(Stage1 {
            granule,
            form,
            input_bits,
            output_bits: output_bits(self.tcr, form).min(features.pa_bits),
            root: root(self, form, input_bits - granule.entry_lg2(start_level) + 3),
            start_level,
            asid: asid(self, features),
            walks_disabled: bit(self.tcr, 7),
            top_byte_ignored: bit(self.tcr, 37),
            hierarchy_ignored: bit(self.tcr, 41),
            set_access: bit(self.tcr, 39) && features.hardware_update >= HardwareUpdate::Access,
            set_dirty: bit(self.tcr, 39)
                && bit(self.tcr, 40)
                && features.hardware_update >= HardwareUpdate::AccessAndDirty,
        })
    }
}

fn form(tcr: u64, granule: Granule, features: &CpuFeatures) -> Result<Form, &'static str> {
    match granule {
        Granule::Kib64 if features.pa_bits >= 52 => Ok(Form::Large64k),
        Granule::Kib64 => Ok(Form::Plain),
        _ if !bit(tcr, DS) => Ok(Form::Plain),
        _ if features.large_descriptors => Ok(Form::LargeDs),
        _ => Err("TCR.DS is set, but FEAT_LPA2 is not there"),
    }
}

/// The effective IPS. Without a form for 52 bits no address has more than 48.
///
/// Choice: the reserved encoding 0b111 is 48 bits, or 52 where the form has them, as the book lets it be.
fn output_bits(tcr: u64, form: Form) -> u8 {
    const BITS: [u8; 8] = [32, 36, 40, 42, 44, 48, 52, 52];
    let bits = BITS[(tcr >> IPS & 7) as usize];
    if form == Form::Plain { bits.min(48) } else { bits }
}

/// The table of the first level, which has `1 << table_lg2` bytes. Low bits that its alignment makes zero are ignored.
fn root(context: &Context, form: Form, table_lg2: u8) -> Pa {
    let large = match form {
        Form::Plain => false,
        Form::Large64k => matches!(context.tcr >> IPS & 7, 6 | 7),
        Form::LargeDs => true,
    };
    let low = context.ttbr0 & 0xffff_ffff_fffe;
    if !large {
        return Pa::new(low & !((1 << table_lg2) - 1));
    }
    let high = (context.ttbr0 >> 2 & 0xf) << 48;
    Pa::new(low & !((1 << table_lg2.max(6)) - 1) | high)
}

fn asid(context: &Context, features: &CpuFeatures) -> u16 {
    let asid = (context.ttbr0 >> 48) as u16;
    if bit(context.tcr, AS) && features.asid_bits >= 16 { asid } else { asid & 0xff }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(ttbr0: u64, tcr: u64) -> Result<Stage1, &'static str> {
        Context { ttbr0, tcr, mair: 0 }.decode(&CpuFeatures::LARGE)
    }

    #[test]
    fn a_common_context_decodes_as_the_book_says() {
        // T0SZ 16, IRGN0 1, ORGN0 1, SH0 3, TG0 4K, EPD1, IPS 48 bits, AS 16 bits.
        let stage1 = decode(0x0007_0000_4123_4001, 0x0000_0015_0080_3510).unwrap();
        assert_eq!((stage1.granule, stage1.form), (Granule::Kib4, Form::Plain));
        assert_eq!((stage1.input_bits, stage1.output_bits, stage1.start_level), (48, 48, 0));
        assert_eq!((stage1.root, stage1.asid), (Pa::new(0x4123_4000), 7));
        assert!(!stage1.walks_disabled && !stage1.top_byte_ignored && !stage1.hierarchy_ignored);
        assert!(!stage1.set_access && !stage1.set_dirty);
    }

    #[test]
    fn the_walk_starts_where_the_input_size_says() {
        let start = |tcr| decode(0, tcr).map(|stage1| stage1.start_level);
        assert_eq!([start(16), start(25), start(34), start(39)], [Ok(0), Ok(1), Ok(2), Ok(2)]);
        assert_eq!([start(0x8010), start(0x8011), start(0x801c)], [Ok(0), Ok(1), Ok(2)]);
        assert_eq!([start(0x400c), start(0x4010), start(0x4016)], [Ok(1), Ok(1), Ok(2)]);
        assert_eq!([start(1 << 59 | 12), start(1 << 59 | 0x800c)], [Ok(-1), Ok(0)]);
    }

    #[test]
    fn sizes_and_granules_that_are_not_there_are_refused() {
        for tcr in [15, 40, 0x4000 | 11, 0x8000 | 15, 1 << 59 | 11] {
            assert_eq!(decode(0, tcr), Err("TCR.T0SZ is out of range"), "{tcr:#x}");
        }
        assert_eq!(decode(0, 0xc010), Err("TCR.TG0 is reserved or not supported"));
        let from_ttbr1 = "TCR.A1 takes the ASID from TTBR1, which this model does not have";
        assert_eq!(decode(0, 1 << 22 | 16), Err(from_ttbr1));
        let context = Context { ttbr0: 0, tcr: 1 << 59 | 16, mair: 0 };
        let no_lpa2 = "TCR.DS is set, but FEAT_LPA2 is not there";
        assert_eq!(context.decode(&CpuFeatures::COMMON), Err(no_lpa2));
    }

    #[test]
    fn high_root_bits_lie_low_in_the_register_with_52_bit_addresses_only() {
        let root = |ttbr0, tcr| decode(ttbr0, tcr).map(|stage1| stage1.root.get());
        // 64K, IPS 52 bits; then the same with IPS 48 bits.
        assert_eq!(root(0x1234_0000_0040, 0x6_0000_4010), Ok(0x1234_0000_0000));
        assert_eq!(root(0x1234_0001_2028, 0x6_0000_4010), Ok(0xa_1234_0001_2000));
        assert_eq!(root(0x1234_0001_2028, 0x5_0000_4010), Ok(0x1234_0001_2000));
        // 4K with DS.
        assert_eq!(root(0x4000_103c, 1 << 59 | 0x6_0000_0010), Ok(0xf_0000_4000_1000));
    }

    #[test]
    fn an_asid_has_eight_bits_unless_it_is_told_and_able_to_have_sixteen() {
        let context = Context { ttbr0: 0x1234 << 48, tcr: 1 << 36 | 16, mair: 0 };
        let small = CpuFeatures { asid_bits: 8, ..CpuFeatures::COMMON };
        assert_eq!(context.decode(&CpuFeatures::COMMON).unwrap().asid, 0x1234);
        assert_eq!(context.decode(&small).unwrap().asid, 0x34);
        assert_eq!(decode(0x1234 << 48, 16).unwrap().asid, 0x34);
    }

    #[test]
    fn hardware_updates_need_the_register_and_the_feature() {
        let updates = |tcr, hardware_update| {
            let features = CpuFeatures { hardware_update, ..CpuFeatures::COMMON };
            let stage1 = Context { ttbr0: 0, tcr, mair: 0 }.decode(&features).unwrap();
            (stage1.set_access, stage1.set_dirty)
        };
        let (ha, hd) = (1 << 39 | 16, 1 << 40 | 16);
        assert_eq!(updates(ha | hd, HardwareUpdate::None), (false, false));
        assert_eq!(updates(ha | hd, HardwareUpdate::Access), (true, false));
        assert_eq!(updates(ha | hd, HardwareUpdate::AccessAndDirty), (true, true));
        assert_eq!(updates(hd, HardwareUpdate::AccessAndDirty), (false, false));
        assert_eq!(updates(ha, HardwareUpdate::AccessAndDirty), (true, false));
    }
}
