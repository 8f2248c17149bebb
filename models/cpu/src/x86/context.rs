//! What a CPU is told to translate with: CR3, CR4 and EFER, and what they mean.
//!
//! Spec: Intel SDM volume 3A, 2.5 "Control Registers"; 4.1.1 "Four Paging Modes"; 4.5 "4-Level Paging and 5-Level Paging", "Use of CR3"; 4.10.1
//! "Process-Context Identifiers (PCIDs)".

use portcullis_types::Pa;

use super::CpuFeatures;

/// The registers that user code is translated by, as software writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Context {
    /// CR3: table address M-1:12, PCID 11:0 (with CR4.PCIDE; else PWT and PCD in bits 3 and 4). As the source of MOV to CR3 with PCIDs it may have bit 63
    /// set, see [`Context::KEEP`]; what the register holds has it clear.
    pub cr3: u64,
    /// CR4: PAE bit 5, PGE bit 7, LA57 bit 12, PCIDE bit 17 matter here.
    pub cr4: u64,
    /// IA32_EFER: LME bit 8, LMA bit 10, NXE bit 11 matter here.
    pub efer: u64,
}

/// What a [`Context`] means to a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) root: Pa,
    pub(crate) pcid: u16,
    pub(crate) levels: u8,
    pub(crate) pa_bits: u8,
    pub(crate) global_pages: bool,
    pub(crate) execute_disable: bool,
    pub(crate) gib_pages: bool,
    pub(crate) pcids: bool,
}

const PAE: u64 = 1 << 5;
const PGE: u64 = 1 << 7;
const LA57: u64 = 1 << 12;
const PCIDE: u64 = 1 << 17;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;

impl Context {
    /// Bit 63 of what is moved to CR3: nothing needs to be forgotten.
    pub const KEEP: u64 = 1 << 63;

    /// The registers for the table at `root`, of 4 or 5 levels, under PCID `pcid` (12 bits): global pages, PCIDs and execute-disable on.
    pub const fn new(root: Pa, pcid: u16, levels: u8) -> Self {
        Self {
            cr3: root.get() & !0xfff | pcid as u64 & 0xfff,
            cr4: PAE | PGE | PCIDE | if levels == 5 { LA57 } else { 0 },
            efer: LME | LMA | NXE,
        }
    }

    /// The same, to be switched to with nothing forgotten.
    #[must_use]
    pub const fn keeping(self) -> Self {
        Self { cr3: self.cr3 | Self::KEEP, ..self }
    }

    /// Whether what is held may stay. Without PCIDs the bit is reserved.
    pub(crate) const fn keeps(&self) -> bool {
        self.cr3 & Self::KEEP != 0
    }

    /// What the registers hold after the move.
    pub(crate) const fn held(self) -> Self {
        Self { cr3: self.cr3 & !Self::KEEP, ..self }
    }

    /// What it means, or the rule that it breaks. A context that breaks one translates nothing.
    pub(crate) fn decode(&self, features: &CpuFeatures) -> Result<Space, &'static str> {
        if self.cr4 & PAE == 0 || self.efer & (LME | LMA) != LME | LMA {
            return Err("CR4.PAE, EFER.LME and EFER.LMA are not all set: 4- or 5-level paging is not in use");
        }
        let allowed = [
            (self.cr4 & LA57, features.five_levels, "CR4.LA57 is set, but 5-level paging is not there"),
            (self.cr4 & PCIDE, features.pcids, "CR4.PCIDE is set, but PCIDs are not there"),
            (self.efer & NXE, features.execute_disable, "EFER.NXE is set, but execute-disable is not there"),
        ];
        if let Some((.., clause)) = allowed.iter().find(|(bit, there, _)| *bit != 0 && !there) {
            return Err(clause);
        }
        let pcids = self.cr4 & PCIDE != 0;
        let cr3 = if pcids { self.held().cr3 } else { self.cr3 };
        if cr3 >> features.pa_bits != 0 {
            return Err("a reserved bit of CR3 is set");
        }
        Ok(Space {
            root: Pa::new(cr3 & !0xfff),
            pcid: if pcids { (cr3 & 0xfff) as u16 } else { 0 },
            levels: if self.cr4 & LA57 != 0 { 5 } else { 4 },
            pa_bits: features.pa_bits,
            global_pages: self.cr4 & PGE != 0,
            execute_disable: self.efer & NXE != 0,
            gib_pages: features.gib_pages,
            pcids,
        })
    }
}

impl Space {
    /// How many bits a linear address has that are looked at.
    pub(crate) const fn linear_bits(&self) -> u8 {
        12 + 9 * self.levels
    }

    /// Whether the bits above those are copies of the highest one of them.
    pub(crate) const fn is_canonical(&self, va: u64) -> bool {
        let unused = 64 - self.linear_bits();
        (va << unused).cast_signed() >> unused == va.cast_signed()
    }

    /// Whether going from `before` to this makes a CPU forget everything, with its global pages.
    ///
    /// Spec: Intel SDM volume 3A, 4.10.4.1 "Operations that Invalidate TLBs and Paging-Structure Caches", MOV to CR0, MOV to CR4. LA57 changes only while
    /// paging is off.
    pub(crate) const fn forgets_all_after(&self, before: &Self) -> bool {
        self.global_pages != before.global_pages
            || before.pcids && !self.pcids
            || self.levels != before.levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: Context = Context { cr3: 0x4123_4007, cr4: 0x2_00a0, efer: 0xd00 };

    fn space(context: Context) -> Result<Space, &'static str> {
        context.decode(&CpuFeatures::LARGE)
    }

    #[test]
    fn a_common_context_decodes_as_the_book_says() {
        let space = space(COMMON).unwrap();
        assert_eq!((space.root, space.pcid, space.levels), (Pa::new(0x4123_4000), 7, 4));
        assert!(space.global_pages && space.execute_disable && space.pcids);
        assert_eq!(Context::new(Pa::new(0x4123_4000), 7, 4), COMMON);
        assert_eq!(Context::new(Pa::new(0x4123_4000), 7, 5), Context { cr4: 0x2_10a0, ..COMMON });
    }

    #[test]
    fn without_pcids_the_low_bits_of_cr3_name_nobody_and_bit_63_is_reserved() {
        let plain = Context { cr3: 0x4123_4018, cr4: 0xa0, ..COMMON };
        assert_eq!(space(plain).map(|space| (space.root, space.pcid)), Ok((Pa::new(0x4123_4000), 0)));
        assert_eq!(space(plain.keeping()), Err("a reserved bit of CR3 is set"));
        assert_eq!(space(COMMON.keeping()), space(COMMON));
    }

    #[test]
    fn what_is_not_there_or_reserved_is_refused() {
        let small = CpuFeatures {
            five_levels: false,
            pcids: false,
            execute_disable: false,
            pa_bits: 40,
            ..CpuFeatures::LARGE
        };
        let fine = Context { cr3: 0x4123_4000, cr4: 0xa0, efer: 0x500 };
        assert!(fine.decode(&small).is_ok());
        for (broken, register) in [
            (Context { cr4: 0x10a0, ..fine }, "CR4.LA57"),
            (Context { cr4: 0x2_00a0, ..fine }, "CR4.PCIDE"),
            (Context { cr4: 0x80, ..fine }, "CR4.PAE"),
            (Context { efer: 0xd00, ..fine }, "EFER.NXE"),
            (Context { efer: 0x100, ..fine }, "CR4.PAE, EFER.LME"),
            (Context { cr3: 0x100_0000_0000, ..fine }, "a reserved bit of CR3"),
        ] {
            let clause = broken.decode(&small).unwrap_err();
            assert!(clause.starts_with(register), "{broken:x?}: {clause}");
        }
    }

    #[test]
    fn canonical_addresses_are_those_that_repeat_their_highest_bit() {
        let four = space(COMMON).unwrap();
        let five = space(Context { cr4: 0x2_10a0, ..COMMON }).unwrap();
        assert!(four.is_canonical(0x7fff_ffff_ffff) && !four.is_canonical(0x8000_0000_0000));
        assert!(four.is_canonical(0xffff_8000_0000_0000) && !four.is_canonical(0xffff_7fff_ffff_ffff));
        assert!(five.is_canonical(0x8000_0000_0000) && five.is_canonical(0xff_ffff_ffff_ffff));
        assert!(!five.is_canonical(0x100_0000_0000_0000) && five.is_canonical(0xff00_0000_0000_0000));
    }
}
