//! What becomes of a device's requests when there were more than their queue holds: the first request of a group for a page that is not to be had, and so many others that the queue
//! overflows; when all that is served, a new group of the same number for a page that is.

use std::sync::Arc;

use portcullis::core::mm::ProcessMemory;
use portcullis::types::{Iova, SourceId};
use portcullis_lab::tamper::Tamper;
use portcullis_lab::trace;

use super::plan::Plan;
use super::rig::Rig;
use super::tables::look_up;
use super::watched::Watched;
use super::work::{bind, unbind};

/// The first device, 0000:00:01.0.
const SOURCE: SourceId = SourceId(8);
/// The group, and an address that no process has.
const GROUP: u16 = 0x20;
const NOWHERE: Iova = Iova::new(0x6000_0000);

/// What came of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// The code that it was answered with; none if it was not.
    pub code: Option<u8>,
    /// The page is there.
    pub present: bool,
}

/// Lets the queue overflow by `requests` requests.
///
/// # Panics
///
/// If the rig cannot be set up, or the queue does not overflow.
pub fn after_an_overflow(plan: Plan, requests: u16, tamper: Option<Arc<dyn Tamper>>) -> Came {
    let rig = Rig::with(plan, tamper, trace::shared(None)).expect("the plan can be had");
    let process = Watched::new(&rig.kernel, &rig.judge).expect("there is memory");
    let page = process.map_zeroes(0x1000).expect("a new process has room");
    let bond = bind(&rig, &process, 0).expect("the device shares");
    let ask = |iova, group, last| rig.accels[0].forge(Some(bond.pasid()), iova, group, last);
    ask(NOWHERE, GROUP, false);
    (0..requests).for_each(|group| ask(NOWHERE, GROUP + 1 + group, true));
    rig.step(64);
    assert!(rig.iommu.counted().automatic > 0, "it overflows");
    rig.serve();
    rig.step(64);
    ask(page.first(), GROUP, true);
    rig.step(16);
    rig.serve();
    rig.step(16);
    let code = rig.judge.response(SOURCE, GROUP);
    let present = look_up(&rig.bus, &process.process().table(), page.first().get()).is_some();
    unbind(&rig, 0, &bond).expect("nothing is under way");
    process.exit();
    Came { code, present }
}
