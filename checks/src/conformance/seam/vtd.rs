//! VT-d: what its book calls refusals, and which tables there are.
//!
//! Spec: VT-d 5.10, 7.1.3 "Fault Conditions and Remapping Hardware Behavior for Various Requests", Table 30; 11.4.2 "Capability Register", 11.4.3 "Extended Capability
//! Register".
//! Not here: what else the book promises (`vtd_cases`).

use std::sync::Arc;

use portcullis::core::iommu::SyncError;
use portcullis::core::nested::{GuestTable, GuestTables};
use portcullis::hal::Registers;
use portcullis::types::SizeLg2;
use portcullis::vtd::{Config, InterruptConfig, Mode, Vtd};

use super::guest::Dialect;
use super::suite::Case;
use super::{Refusal, Vendor};
use crate::conformance::bed::Bed;
use crate::conformance::via::{Via, ViaRegisters};

/// The vendor.
pub struct VtD;

/// CAP_REG and ECAP_REG.
const CAP: usize = 0x08;
const ECAP: usize = 0x10;

/// Which tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Scalable mode.
    pub scalable: bool,
    /// Bits of a domain's addresses: 39, 48 or 57, which is 3, 4 or 5 levels.
    pub bits: u8,
}

impl Vendor for VtD {
    type Driver<B: Bed> = Vtd<Via<B::Platform>, ViaRegisters<B::Registers>>;
    type Config = Config;
    type Setting = Setting;

    fn settings() -> Vec<(&'static str, Setting)> {
        let setting = |scalable, bits| Setting { scalable, bits };
        vec![
            ("legacy, 3 levels", setting(false, 39)),
            ("legacy, 4 levels", setting(false, 48)),
            ("legacy, 5 levels", setting(false, 57)),
            ("scalable, 3 levels", setting(true, 39)),
            ("scalable, 4 levels", setting(true, 48)),
            ("scalable, 5 levels", setting(true, 57)),
        ]
    }

    fn missing<B: Bed>(bed: &B, setting: Setting) -> Option<String> {
        let (cap, ecap) = (bed.registers().read64(CAP), bed.registers().read64(ECAP));
        // SMTS, SSTS: without a second stage domains are first-stage tables, of 4 or 5 levels.
        if setting.scalable && ecap >> 43 & 1 == 0 {
            return Some("ECAP.SMTS is 0: no scalable mode".into());
        }
        if setting.scalable && ecap >> 46 & 1 == 0 {
            let five = cap >> 60 & 1 == 1;
            return match setting.bits {
                39 => Some("ECAP.SSTS is 0: first-stage tables have 4 levels at least".into()),
                57 if !five => Some("CAP.FS5LP is 0: no first-stage tables of 5 levels".into()),
                _ => None,
            };
        }
        // SAGAW, bits 12:8: bit 1 is 3 levels.
        let levels = (setting.bits - 12) / 9;
        (cap >> (8 + levels - 2) & 1 == 0).then(|| format!("CAP.SAGAW: no tables of {levels} levels"))
    }

    fn config<B: Bed>(bed: &B, setting: Setting) -> Config {
        let mut config = Config::new("unit");
        config.host_address_bits = bed.host_address_bits();
        config.mode = if setting.scalable { Mode::Scalable } else { Mode::Legacy };
        config.input_bits = Some(setting.bits);
        config.interrupts = Some(InterruptConfig { entries_lg2: 8, x2apic: false });
        config.wait_limit_ns = 200_000_000;
        config
    }

    fn probe<B: Bed>(
        via: Arc<Via<B::Platform>>,
        registers: ViaRegisters<B::Registers>,
        config: Config,
    ) -> Result<Arc<Self::Driver<B>>, String> {
        let unit = Vtd::probe(via, Arc::new(registers), config);
        unit.map(Arc::new).map_err(|error| format!("probe: {error:?}"))
    }

    fn teardown<B: Bed>(driver: &Self::Driver<B>) -> Result<(), SyncError> {
        driver.teardown()
    }

    fn names(Setting { scalable, .. }: Setting, refusal: Refusal, write: bool) -> &'static [&'static str] {
        match (scalable, refusal, write) {
            // An entry that is not there is, in legacy mode, one that allows nothing.
            (false, Refusal::NotMapped | Refusal::Forbidden, true) => &["LGN.2"],
            (false, Refusal::NotMapped | Refusal::Forbidden, false) => &["LGN.3"],
            (false, Refusal::TooHigh, _) => &["LGN.1"],
            (false, Refusal::Blocked, _) => &["LCT.2"],
            (false, Refusal::Unknown, _) => &["LRT.2", "LCT.2"],
            (true, Refusal::NotMapped, _) => &["SSS.2", "SFS.2"],
            (true, Refusal::Forbidden, true) => &["SGN.6"],
            (true, Refusal::Forbidden, false) => &["SGN.7"],
            // Of a second stage, and, not being canonical, of a first.
            (true, Refusal::TooHigh, _) => &["SGN.5", "SGN.1"],
            (true, Refusal::Blocked, _) => &["SCT.2"],
            (true, Refusal::Unknown, _) => &["SRT.2", "SCT.2"],
        }
    }

    fn writes_alone<B: Bed>(bed: &B, setting: Setting) -> bool {
        !setting.scalable || bed.registers().read64(ECAP) >> 46 & 1 == 1
    }

    /// CAP_REG.NFR, bits 47:40, and one more.
    fn records<B: Bed>(bed: &B) -> usize {
        1 + (bed.registers().read64(CAP) >> 40 & 0xff) as usize
    }

    /// As many as the largest AGAW has, by CAP_REG.SAGAW. Spec: VT-d 5.10, 11.4.7.6 "Fault Recording Registers \[n\]", FI.
    fn recorded_bits<B: Bed>(bed: &B) -> u8 {
        let sagaw = bed.registers().read64(CAP) >> 8 & 0x1f;
        [(3, 57), (2, 48), (1, 39)]
            .into_iter()
            .find(|(bit, _)| sagaw >> bit & 1 == 1)
            .map_or(64, |(_, bits)| bits)
    }

    fn nests_nothing<B: Bed>(bed: &B, setting: Setting) -> Option<String> {
        if !setting.scalable {
            return Some("legacy mode nests nothing".into());
        }
        let nests = bed.registers().read64(ECAP) >> 26 & 1 == 1;
        (!nests).then(|| "ECAP.NEST is 0: no nested translation".into())
    }

    fn dialects(walks: &GuestTables) -> Vec<Dialect> {
        let Some(x86) = walks.x86 else { return Vec::new() };
        let dialect = |name, levels| Dialect {
            name,
            granule: SizeLg2::KIB_4,
            levels,
            // P, R/W, U/S, A; of a page D as well. Spec: Intel SDM volume 3A, 4.5.4 "Linear-Address Translation with 4-Level Paging and 5-Level Paging", Tables 4-15 to 4-20.
            table: |gpa| gpa | 0x27,
            page: |gpa, writable| gpa | if writable { 0x67 } else { 0x65 },
            says: |dialect, root| GuestTable::X86 {
                root,
                levels: dialect.levels,
                pat: 0x0007_0406_0007_0406,
                write_protect: true,
                extended_accessed: false,
            },
        };
        let four = dialect("x86, 4 levels", 4);
        core::iter::once(four).chain((x86.levels == 5).then(|| dialect("x86, 5 levels", 5))).collect()
    }

    /// Spec: VT-d 5.10, 7.1.3 "Fault Conditions and Remapping Hardware Behavior for Various Requests", Table 30: SFS.5 to SFS.7 for tables of the guest's, SSS.2 for its
    /// pages, SGN.5 for what is above all that the second stage could say.
    fn lying() -> &'static [&'static str] {
        &["SFS.5", "SFS.6", "SFS.7", "SSS.2", "SGN.5"]
    }

    fn cases<B: Bed>() -> Vec<Case<B, Self>> {
        super::vtd_cases::all()
    }
}
