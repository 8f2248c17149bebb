//! Our PHB3 takes a case.

use std::sync::Arc;

use model_bus::{Mmio, Request, Width};
use model_ioda2::{Cause, Config, Outlook, Phb3, Policy};
use portcullis_types::trace::Silence;
use portcullis_types::{Access as Kind, Iova, Pa, SourceId};

use super::{Access, Case, RAM_MIB, RTT, is_data, is_nowhere};
use crate::plain::Plain;

/// Registers. Observed: skiboot include/phb3-regs.h.
pub(super) const RTT_BAR: u64 = 0x168;
pub(super) const PHB3_CONFIG: u64 = 0x160;
pub(super) const IODA_ADDR: u64 = 0x220;
pub(super) const IODA_DATA0: u64 = 0x228;
pub(super) const RTC_INVALIDATE: u64 = 0x208;
pub(super) const TCE_KILL: u64 = 0x210;
const CONTROL: u64 = 0x810;
/// The top bit: enabled, or all.
pub(super) const TOP: u64 = 1 << 63;
/// CONTROL: window 0 may bypass below 4 GiB.
const BYPASS_32: u64 = 1 << 52;

/// The stores that both bridges get.
pub(super) fn program(case: &Case) -> Vec<(u64, u64)> {
    let mut stores = vec![(RTT_BAR, RTT | TOP), (RTC_INVALIDATE, TOP)];
    for index in 0..512 {
        let tve = case.tves.get(&index).copied().unwrap_or(0);
        // The table of TVEs is number 9.
        stores.extend([(IODA_ADDR, 9 << 48 | u64::from(index)), (IODA_DATA0, tve)]);
    }
    stores.push((TCE_KILL, TOP));
    stores
}

/// What the model says of an access.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Where it goes, if anything answers there.
    pub reached: Option<u64>,
    /// Why it is refused.
    pub cause: Option<Cause>,
    /// It would reach what no device may reach here.
    pub out_of_bounds: bool,
}

/// Our bridge, and memory.
pub struct Ours {
    memory: Arc<Plain>,
    phb: Phb3,
}

impl Ours {
    /// A bridge out of reset.
    pub fn new() -> Self {
        let memory = Arc::new(Plain::new(RAM_MIB));
        let config = Config { policy: Policy::eager(), ..Config::new(Pa::new(0xf000_0000)) };
        let phb = Phb3::new(config, memory.clone(), 1, Arc::new(Silence));
        Self { memory, phb }
    }

    /// Runs a case.
    pub fn run(&mut self, case: &Case) -> Vec<Verdict> {
        let put = |at: u64, bytes: &[u8]| self.memory.put(at, bytes);
        case.words.iter().for_each(|(&at, word)| put(at, &word.to_be_bytes()));
        case.pes.iter().for_each(|(&rid, pe)| put(RTT + 2 * u64::from(rid), &pe.to_be_bytes()));
        self.store(PHB3_CONFIG, 0);
        self.store(CONTROL, if case.low_bypass { BYPASS_32 } else { 0 });
        program(case).into_iter().for_each(|(register, value)| self.store(register, value));
        let verdicts = case.accesses.iter().map(|access| self.judge(access)).collect();
        case.words.keys().for_each(|&at| put(at, &[0; 8]));
        let _ = self.phb.take_unpredictable();
        verdicts
    }

    fn store(&self, register: u64, value: u64) {
        self.phb.write(register, Width::Bits64, value);
    }

    fn judge(&self, access: &Access) -> Verdict {
        let request = Request {
            source: SourceId(access.requester.into()),
            pasid: None,
            iova: Iova::new(access.address),
            len_bytes: access.len,
            access: if access.write { Kind::WRITE } else { Kind::READ },
        };
        let len = access.len.into();
        match self.phb.outlook(&request) {
            Outlook::Allowed(at) => {
                let at = at.get();
                let reached = is_data(at, len).then_some(at);
                Verdict { reached, cause: None, out_of_bounds: reached.is_none() && !is_nowhere(at, len) }
            }
            Outlook::Refused(cause) => Verdict { reached: None, cause: Some(cause), out_of_bounds: false },
            Outlook::Message => Verdict { reached: None, cause: None, out_of_bounds: true },
        }
    }
}

impl Default for Ours {
    fn default() -> Self {
        Self::new()
    }
}
