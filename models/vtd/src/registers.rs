//! The registers as software reads them.
//!
//! Spec: VT-d 5.10, 11.4 "Register Descriptions".
//! Not here: what a write does (`program`).

use crate::bits::{high, low};
use crate::config::{Config, FAULT_RECORDS, IOTLB_REGISTERS};
use crate::event::Events;

/// GSTS_REG and GCMD_REG.
pub(crate) const TRANSLATION: u32 = 1 << 31;
pub(crate) const ROOT_POINTER: u32 = 1 << 30;
pub(crate) const WRITE_BUFFER: u32 = 1 << 27;
pub(crate) const QUEUE: u32 = 1 << 26;
pub(crate) const INTERRUPTS: u32 = 1 << 25;
pub(crate) const INTERRUPT_POINTER: u32 = 1 << 24;
pub(crate) const COMPATIBILITY: u32 = 1 << 23;

/// FSTS_REG.
pub(crate) const OVERFLOW: u32 = 1 << 0;
pub(crate) const PENDING: u32 = 1 << 1;
pub(crate) const QUEUE_ERROR: u32 = 1 << 4;
pub(crate) const COMPLETION_ERROR: u32 = 1 << 5;
pub(crate) const TIMEOUT_ERROR: u32 = 1 << 6;

/// F of a fault recording register, in its upper word.
pub(crate) const RECORDED: u64 = 1 << 63;

/// PRS_REG.
pub(crate) const PAGE_REQUEST_PENDING: u32 = 1 << 0;
pub(crate) const PAGE_REQUEST_OVERFLOW: u32 = 1 << 1;

/// ICC of CCMD_REG and IVT of IOTLB_REG.
pub(crate) const BUSY: u64 = 1 << 63;

/// What the registers hold.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    pub(crate) gsts: u32,
    pub(crate) rtaddr: u64,
    pub(crate) ccmd: u64,
    pub(crate) iva: u64,
    pub(crate) iotlb: u64,
    /// Without PPF and FRI.
    pub(crate) fsts: u32,
    pub(crate) fri: u8,
    pub(crate) events: Events,
    pub(crate) pmen: u32,
    pub(crate) plm: [u32; 2],
    pub(crate) phm: [u64; 2],
    pub(crate) iqh: u64,
    pub(crate) iqt: u64,
    pub(crate) iqa: u64,
    pub(crate) ics: u32,
    pub(crate) iqercd: u64,
    pub(crate) irta: u64,
    pub(crate) pqh: u64,
    pub(crate) pqt: u64,
    pub(crate) pqa: u64,
    pub(crate) prs: u32,
    pub(crate) records: Vec<[u64; 2]>,
}

impl Registers {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            gsts: 0,
            rtaddr: 0,
            ccmd: 0,
            iva: 0,
            iotlb: 0,
            fsts: 0,
            fri: 0,
            events: Events::default(),
            pmen: 0,
            plm: [0; 2],
            phm: [0; 2],
            iqh: 0,
            iqt: 0,
            iqa: 0,
            ics: 0,
            iqercd: 0,
            irta: 0,
            pqh: 0,
            pqt: 0,
            pqa: 0,
            prs: 0,
            records: vec![[0; 2]; usize::from(config.fault_records)],
        }
    }

    pub(crate) fn is_on(&self, status: u32) -> bool {
        self.gsts & status != 0
    }

    /// PPF: "the logical OR of the Fault (F) fields".
    pub(crate) fn pending_fault(&self) -> bool {
        self.records.iter().any(|record| record[1] & RECORDED != 0)
    }

    /// FSTS_REG.
    pub(crate) fn fault_status(&self) -> u32 {
        let pending = if self.pending_fault() { PENDING | u32::from(self.fri) << 8 } else { 0 };
        self.fsts | pending
    }

    /// Which fault recording register a doubleword belongs to, and which word of it.
    pub(crate) fn record_at(&self, offset: u64) -> Option<(usize, usize)> {
        let within = offset.checked_sub(FAULT_RECORDS)?;
        let index = usize::try_from(within / 16).ok().filter(|&index| index < self.records.len())?;
        Some((index, usize::from(within % 16 >= 8)))
    }

    /// The aligned doubleword at `offset`.
    pub(crate) fn read32(&self, offset: u64, config: &Config) -> u32 {
        if let Some(value) = self.events.read(offset) {
            return value;
        }
        let wide = match offset & !7 {
            0x08 => config.cap(),
            0x10 => config.ecap(),
            0x20 => self.rtaddr,
            0x28 => self.ccmd,
            0x70 => self.phm[0],
            0x78 => self.phm[1],
            0x80 => self.iqh,
            0x88 => self.iqt,
            0x90 => self.iqa,
            0xb0 => self.iqercd,
            0xb8 => self.irta,
            0xc0 => self.pqh,
            0xc8 => self.pqt,
            0xd0 => self.pqa,
            IOTLB_REGISTERS => 0,
            at if at == IOTLB_REGISTERS + 8 => self.iotlb,
            _ => return self.read_narrow(offset, config),
        };
        if offset & 4 == 0 { low(wide) } else { high(wide) }
    }

    fn read_narrow(&self, offset: u64, config: &Config) -> u32 {
        match offset {
            0x00 => config.ver(),
            0x1c => self.gsts,
            0x34 => self.fault_status(),
            0x64 => self.pmen,
            0x68 => self.plm[0],
            0x6c => self.plm[1],
            0x9c => self.ics,
            0xdc => self.prs,
            _ => match self.record_at(offset) {
                Some((index, word)) => {
                    let value = self.records[index][word];
                    if offset & 4 == 0 { low(value) } else { high(value) }
                }
                None => 0,
            },
        }
    }

    /// Whether a quadword at `offset` is one register.
    pub(crate) fn is_wide(&self, offset: u64) -> bool {
        matches!(offset, 0x08 | 0x10 | 0x20 | 0x28 | 0x70..=0x90 | 0xb0..=0xd0)
            || offset == IOTLB_REGISTERS
            || offset == IOTLB_REGISTERS + 8
            || self.record_at(offset).is_some()
    }
}
