//! Records of the event queue.
//!
//! Spec: SMMUv3 H.a, 7.3 "Event records".

use bitfield_struct::bitfield;

/// Bytes of a record.
pub const EVENT_BYTES: u64 = 32;
/// 64-bit words of a record.
pub const EVENT_WORDS: usize = 4;

/// Bits 63:0 of a record, common to all kinds.
///
/// Spec: SMMUv3 H.a, 7.3 "Event records".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct EventWord0 {
    /// The event number.
    pub id: u8,
    #[bits(3)]
    __: u8,
    /// The transaction had a SubstreamID.
    pub ssv: bool,
    /// The SubstreamID; unknown where `ssv` is clear.
    #[bits(20)]
    pub substream_id: u32,
    /// The StreamID.
    pub stream_id: u32,
}

/// Bits 127:64 of the record of a translation-related fault. Other kinds use some of these fields, or bits 79:64 for a reason.
///
/// Spec: SMMUv3 H.a, 7.3.13 "F_TRANSLATION".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct EventWord1 {
    /// STAG of a stalled transaction; the implementation defined reason in kinds that have one.
    pub stag: u16,
    #[bits(15)]
    __: u16,
    /// The transaction is stalled and waits for CMD_RESUME.
    pub stall: bool,
    __: bool,
    /// PnU: the access is privileged.
    pub pnu: bool,
    /// InD: the access is an instruction fetch.
    pub ind: bool,
    /// RnW: the access is a read.
    pub rnw: bool,
    #[bits(2)]
    __: u8,
    /// The intermediate address is in the Non-secure space; Secure event queue only.
    pub nsipa: bool,
    /// Stage 2 faulted.
    pub s2: bool,
    /// What was being done: [`CLASS_CD`] and its kin.
    #[bits(2)]
    pub class: u8,
    #[bits(2)]
    __: u8,
    /// TTRnW: the descriptor access that faulted was a read. F_PERMISSION with [`CLASS_TTD`] only; unknown otherwise.
    pub ttrnw: bool,
    #[bits(19)]
    __: u32,
}

/// CLASS: a CD was being fetched.
pub const CLASS_CD: u8 = 0b00;
/// CLASS: a stage 1 table was being walked.
pub const CLASS_TTD: u8 = 0b01;
/// CLASS: the input address itself.
pub const CLASS_IN: u8 = 0b10;

/// An event number. Numbers that the book does not name are kept.
///
/// Spec: SMMUv3 H.a, 7.3 "Event records".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventId(pub u8);

impl EventId {
    /// Unsupported upstream transaction. Spec: SMMUv3 H.a, 7.3.2 "F_UUT".
    pub const F_UUT: Self = Self(0x01);
    /// The StreamID is out of range. Spec: SMMUv3 H.a, 7.3.3 "C_BAD_STREAMID".
    pub const C_BAD_STREAMID: Self = Self(0x02);
    /// The STE could not be fetched. Spec: SMMUv3 H.a, 7.3.4 "F_STE_FETCH".
    pub const F_STE_FETCH: Self = Self(0x03);
    /// The STE is invalid. Spec: SMMUv3 H.a, 7.3.5 "C_BAD_STE".
    pub const C_BAD_STE: Self = Self(0x04);
    /// An ATS translation request is not allowed. Spec: SMMUv3 H.a, 7.3.6 "F_BAD_ATS_TREQ".
    pub const F_BAD_ATS_TREQ: Self = Self(0x05);
    /// Traffic of this kind, with or without SubstreamID, is disabled. Spec: SMMUv3 H.a, 7.3.7 "F_STREAM_DISABLED".
    pub const F_STREAM_DISABLED: Self = Self(0x06);
    /// Translated traffic is not allowed. Spec: SMMUv3 H.a, 7.3.8 "F_TRANSL_FORBIDDEN".
    pub const F_TRANSL_FORBIDDEN: Self = Self(0x07);
    /// The SubstreamID is out of range or not allowed. Spec: SMMUv3 H.a, 7.3.9 "C_BAD_SUBSTREAMID".
    pub const C_BAD_SUBSTREAMID: Self = Self(0x08);
    /// The CD could not be fetched. Spec: SMMUv3 H.a, 7.3.10 "F_CD_FETCH".
    pub const F_CD_FETCH: Self = Self(0x09);
    /// The CD is invalid. Spec: SMMUv3 H.a, 7.3.11 "C_BAD_CD".
    pub const C_BAD_CD: Self = Self(0x0a);
    /// A translation table could not be read. Spec: SMMUv3 H.a, 7.3.12 "F_WALK_EABT".
    pub const F_WALK_EABT: Self = Self(0x0b);
    /// Not mapped. Spec: SMMUv3 H.a, 7.3.13 "F_TRANSLATION".
    pub const F_TRANSLATION: Self = Self(0x10);
    /// An address is too large. Spec: SMMUv3 H.a, 7.3.14 "F_ADDR_SIZE".
    pub const F_ADDR_SIZE: Self = Self(0x11);
    /// The access flag is clear. Spec: SMMUv3 H.a, 7.3.15 "F_ACCESS".
    pub const F_ACCESS: Self = Self(0x12);
    /// Not allowed. Spec: SMMUv3 H.a, 7.3.16 "F_PERMISSION".
    pub const F_PERMISSION: Self = Self(0x13);
    /// TLB entries disagree. Spec: SMMUv3 H.a, 7.3.17 "F_TLB_CONFLICT".
    pub const F_TLB_CONFLICT: Self = Self(0x20);
    /// Cached configuration disagrees. Spec: SMMUv3 H.a, 7.3.18 "F_CFG_CONFLICT".
    pub const F_CFG_CONFLICT: Self = Self(0x21);
    /// A hint that a page will be needed. Spec: SMMUv3 H.a, 7.3.19 "E_PAGE_REQUEST".
    pub const E_PAGE_REQUEST: Self = Self(0x24);
    /// The VMS could not be fetched. Spec: SMMUv3 H.a, 7.3.20 "F_VMS_FETCH".
    pub const F_VMS_FETCH: Self = Self(0x25);

    /// The book's name; `IMPDEF_EVENT` for 0xe0 to 0xef, none for a number it does not name.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::F_UUT => "F_UUT",
            Self::C_BAD_STREAMID => "C_BAD_STREAMID",
            Self::F_STE_FETCH => "F_STE_FETCH",
            Self::C_BAD_STE => "C_BAD_STE",
            Self::F_BAD_ATS_TREQ => "F_BAD_ATS_TREQ",
            Self::F_STREAM_DISABLED => "F_STREAM_DISABLED",
            Self::F_TRANSL_FORBIDDEN => "F_TRANSL_FORBIDDEN",
            Self::C_BAD_SUBSTREAMID => "C_BAD_SUBSTREAMID",
            Self::F_CD_FETCH => "F_CD_FETCH",
            Self::C_BAD_CD => "C_BAD_CD",
            Self::F_WALK_EABT => "F_WALK_EABT",
            Self::F_TRANSLATION => "F_TRANSLATION",
            Self::F_ADDR_SIZE => "F_ADDR_SIZE",
            Self::F_ACCESS => "F_ACCESS",
            Self::F_PERMISSION => "F_PERMISSION",
            Self::F_TLB_CONFLICT => "F_TLB_CONFLICT",
            Self::F_CFG_CONFLICT => "F_CFG_CONFLICT",
            Self::E_PAGE_REQUEST => "E_PAGE_REQUEST",
            Self::F_VMS_FETCH => "F_VMS_FETCH",
            Self(0xe0..=0xef) => "IMPDEF_EVENT",
            Self(_) => return None,
        })
    }

    /// Whether the record holds an input address in bits 191:128.
    pub const fn has_input_address(self) -> bool {
        matches!(
            self,
            Self::F_UUT
                | Self::F_BAD_ATS_TREQ
                | Self::F_TRANSL_FORBIDDEN
                | Self::F_WALK_EABT
                | Self::F_TRANSLATION
                | Self::F_ADDR_SIZE
                | Self::F_ACCESS
                | Self::F_PERMISSION
                | Self::F_TLB_CONFLICT
                | Self::E_PAGE_REQUEST
        )
    }

    /// Whether the record is of a translation-related fault, which can stall and has all fields of [`EventWord1`].
    ///
    /// Spec: SMMUv3 H.a, 3.12 "Fault models, recording and reporting".
    pub const fn is_translation_related(self) -> bool {
        matches!(self, Self::F_TRANSLATION | Self::F_ADDR_SIZE | Self::F_ACCESS | Self::F_PERMISSION)
    }

    /// Whether RnW of [`EventWord1`] says what the access was, and, except in F_TRANSL_FORBIDDEN, InD and PnU as well.
    ///
    /// Spec: SMMUv3 H.a, 7.3.8 "F_TRANSL_FORBIDDEN": RnW is bit 99, bits 98:96 are reserved.
    pub const fn has_access(self) -> bool {
        self.is_translation_related()
            || matches!(
                self,
                Self::F_UUT | Self::F_TRANSL_FORBIDDEN | Self::F_WALK_EABT | Self::F_TLB_CONFLICT
            )
    }

    /// Whether the record always holds a SubstreamID, also with SSV clear.
    ///
    /// Spec: SMMUv3 H.a, 7.3.9 "C_BAD_SUBSTREAMID", the note at its end.
    pub const fn always_has_substream(self) -> bool {
        matches!(self, Self::C_BAD_SUBSTREAMID)
    }

    /// Whether the record holds an address that could not be fetched, in bits 255:192.
    pub const fn has_fetch_address(self) -> bool {
        matches!(self, Self::F_STE_FETCH | Self::F_CD_FETCH | Self::F_WALK_EABT | Self::F_VMS_FETCH)
    }

    /// Whether the record can hold an intermediate physical address in bits 247:204.
    pub const fn has_ipa(self) -> bool {
        self.is_translation_related() || matches!(self, Self::F_TLB_CONFLICT)
    }
}
