//! Who stands between devices and their IOMMU, and watches: every access that is let through, every answer, every request and response.
//!
//! A [`Judge`] passes everything on as it is. What it sees it holds against a [`Shadow`], and keeps a list of [`Judge::wrongs`], each beginning with the name of
//! the promise that was broken.
//!
//! | promise | seen where |
//! |---|---|
//! | isolation | each access that is let through, translated or not, and each answer to a translation request |
//! | one-answer | responses against requests, by source and group; stop markers get none |
//!
//! # Locks
//!
//! One, never held while the IOMMU or a device is called.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use model_bus::{
    BusError, Downstream, Invalidation, InvalidationDone, Outcome, PageRequest, PageResponse, Passage,
    Request, Stall, StallState, TranslatedRequest, TranslationAnswer, TranslationRequest, Translator,
};
use portcullis::core::mm::MmId;
use portcullis::types::{AccessKind, Pa, Pasid, SourceId};

use super::shadow::{DeviceIndex, Seen, Shadow};

/// Who watches.
pub struct Judge {
    iommu: Arc<dyn Translator>,
    state: Mutex<State>,
    me: Weak<Self>,
    /// Where frames are only looked at while nobody changes them: on one thread.
    strict: bool,
}

struct State {
    shadow: Shadow,
    sources: BTreeMap<SourceId, DeviceIndex>,
    /// Whether a device wants the PASID back.
    wants_pasid: BTreeMap<DeviceIndex, bool>,
    /// Groups that wait for their response, and the PASID of each.
    open: BTreeMap<(SourceId, u16), Vec<Option<Pasid>>>,
    /// Accesses that are held back.
    stalled: BTreeMap<Stall, (DeviceIndex, Option<Pasid>)>,
    /// Invalidations that devices have not answered, by tag; when each was sent, and about which address space.
    unanswered: BTreeMap<(SourceId, u8), (u64, Option<Pasid>)>,
    sent: u64,
    /// Faults of devices that processes were asked to handle.
    faults: u64,
    /// Whatever is sent during an operation is sent for it: nobody else is at work.
    one_at_a_time: bool,
    downs: Vec<(Arc<Down>, Weak<dyn Downstream>)>,
    wrongs: Vec<String>,
    seen: u64,
    translated: u64,
    /// The last responses, oldest first.
    responses: VecDeque<PageResponse>,
}

/// The way down to devices.
struct Down {
    judge: Weak<Judge>,
    real: Weak<dyn Downstream>,
}

/// After so many wrongs no more are noted.
const MOST: usize = 8;
/// So many responses are remembered.
const REMEMBERED: usize = 64;

impl Judge {
    /// A judge in front of `iommu`.
    pub fn new(iommu: Arc<dyn Translator>, shadow: Shadow, strict: bool) -> Arc<Self> {
        let state = State {
            shadow,
            sources: BTreeMap::new(),
            wants_pasid: BTreeMap::new(),
            open: BTreeMap::new(),
            stalled: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            sent: 0,
            faults: 0,
            one_at_a_time: false,
            downs: Vec::new(),
            wrongs: Vec::new(),
            seen: 0,
            translated: 0,
            responses: VecDeque::new(),
        };
        Arc::new_cyclic(|me| Self { iommu, state: Mutex::new(state), me: me.clone(), strict })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it of a device.
    pub fn know(&self, device: DeviceIndex, sources: &[SourceId]) {
        let mut state = self.state();
        state.sources.extend(sources.iter().map(|&source| (source, device)));
    }

    /// Whether a device is told by responses in which address space they are: only while it shares, and if it wants to be.
    pub fn wants_pasid(&self, device: DeviceIndex, wants: bool) {
        self.state().wants_pasid.insert(device, wants);
    }

    /// Looks at, or changes, what is known of processes.
    pub fn shadow<T>(&self, work: impl FnOnce(&mut Shadow) -> T) -> T {
        work(&mut self.state().shadow)
    }

    /// Notes what somebody else has seen.
    pub fn note(&self, wrong: impl Into<String>) {
        let mut state = self.state();
        if state.wrongs.len() < MOST {
            state.wrongs.push(wrong.into());
        }
    }

    /// What was wrong so far, oldest first, at most 8.
    pub fn wrongs(&self) -> Vec<String> {
        self.state().wrongs.clone()
    }

    /// How many accesses were let through, and how many of them by translated addresses.
    pub fn seen(&self) -> (u64, u64) {
        let state = self.state();
        (state.seen, state.translated)
    }

    /// The code of the last response to a group; none if there was none, or it was long ago.
    pub fn response(&self, source: SourceId, group: u16) -> Option<u8> {
        let state = self.state();
        let is_it = |one: &&PageResponse| (one.source, one.group) == (source, group);
        state.responses.iter().rev().find(is_it).map(|one| one.code)
    }

    /// What still waits for an answer in an address space of a device; with none, in any. Asked only when the device does not wait for any more.
    pub fn pending(&self, device: DeviceIndex, pasid: Option<Pasid>) -> Vec<String> {
        let of_it = |(of, space): &(DeviceIndex, Option<Pasid>)| {
            *of == device && (pasid.is_none() || *space == pasid)
        };
        let held: Vec<Stall> =
            self.state().stalled.iter().filter(|(_, whose)| of_it(whose)).map(|(stall, _)| *stall).collect();
        let held = held.into_iter().filter(|&stall| self.stalled(stall) == StallState::Waiting);
        let held: Vec<String> = held.map(|stall| format!("{stall:?}")).collect();
        let state = self.state();
        let is_it = |of: Option<&DeviceIndex>, in_space: Option<Pasid>| {
            of == Some(&device) && (pasid.is_none() || in_space == pasid)
        };
        let groups = state.open.iter().flat_map(|(key, spaces)| spaces.iter().map(move |space| (key, space)));
        let groups = groups
            .filter(|((source, _), space)| is_it(state.sources.get(source), **space))
            .map(|((source, group), space)| format!("group {group} of {source}, {space:?}"));
        groups.chain(held).collect()
    }

    /// The groups of a device that wait for their response in an address space.
    pub fn waiting(&self, device: DeviceIndex, pasid: Pasid) -> Vec<u16> {
        let state = self.state();
        let of_it = state.open.iter().filter(|((source, _), spaces)| {
            state.sources.get(source) == Some(&device) && spaces.contains(&Some(pasid))
        });
        of_it.map(|((_, group), _)| *group).collect()
    }

    /// A device was reset, or its requests were given up: nothing of it is waited for any more.
    pub fn forget_requests(&self, device: DeviceIndex) {
        let State { open, sources, .. } = &mut *self.state();
        open.retain(|(source, _), _| sources.get(source) != Some(&device));
    }

    /// Whether everything happens on one thread.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// An operation on a process has returned: what hardware did not confirm to have forgotten has gone to no other use.
    pub fn look_at_frames(&self) {
        let mut state = self.state();
        if let Some(frame) = state.shadow.freed_in_doubt().first() {
            state.accuse(format!("reclaim: {frame} went to another use, and hardware never confirmed"));
        }
    }

    /// From now on one operation is under way at a time: whatever is sent meanwhile is sent for it.
    pub fn one_at_a_time(&self) {
        self.state().one_at_a_time = true;
    }

    /// How many invalidations were sent to devices so far.
    pub fn invalidations(&self) -> u64 {
        self.state().sent
    }

    /// A process is asked to handle a device's fault.
    pub(super) fn fault_began(&self) {
        self.state().faults += 1;
    }

    /// How many faults of devices processes were asked to handle so far: each may have brought a page in, and tables.
    pub fn faults(&self) -> u64 {
        self.state().faults
    }

    /// An operation on a process has returned and says that all is forgotten: devices have answered whatever they were sent about it since the operation began. What others
    /// had them sent meanwhile, for a domain of the kernel's or another process, is not this operation's to wait for; where there are no others, everything is. An operation on
    /// one device alone says nothing of what others were sent.
    pub fn confirmed_since(&self, sent: u64, mm: MmId, alone: Option<DeviceIndex>) {
        let mut state = self.state();
        let State { unanswered, sources, shadow, one_at_a_time, .. } = &*state;
        let is_its = |source: &SourceId, pasid: Option<Pasid>| {
            if *one_at_a_time {
                return true;
            }
            if alone.is_some_and(|device| sources.get(source) != Some(&device)) {
                return false;
            }
            let bond = sources.get(source).zip(pasid);
            bond.is_some_and(|(&device, pasid)| shadow.means(device, pasid) == Some(mm))
        };
        let owed = unanswered
            .iter()
            .find(|((source, _), (when, pasid))| *when >= sent && is_its(source, *pasid))
            .map(|(key, _)| *key);
        if let Some((source, tag)) = owed {
            state.accuse(format!(
                "reclaim: all is said to be forgotten, and {source} has not answered invalidation {tag}"
            ));
        }
    }

    fn judge_access(&self, request: &Request, pa: Pa) {
        let mut state = self.state();
        state.seen += 1;
        let (Some(pasid), Some(&device)) = (request.pasid, state.sources.get(&request.source)) else {
            return;
        };
        let write = request.access.kind == AccessKind::Write;
        let seen = Seen { device, pasid, va: request.iova.get(), pa, write };
        if let Err(why) = state.judged(self.strict, |shadow| shadow.judge(&seen)) {
            state.accuse(format!("isolation: {seen:x?}: {why}"));
        }
    }

    fn judge_translated(&self, request: &TranslatedRequest, pa: Pa) {
        let mut state = self.state();
        (state.seen, state.translated) = (state.seen + 1, state.translated + 1);
        let (Some(pasid), Some(&device)) = (request.pasid, state.sources.get(&request.source)) else {
            return;
        };
        let write = request.access.kind == AccessKind::Write;
        let judged = state.judged(self.strict, |shadow| shadow.judge_translated(device, pasid, pa, write));
        if let Err(why) = judged {
            state.accuse(format!(
                "isolation: device {device}, {pasid:?}, translated {pa:x?}, write {write}: {why}"
            ));
        }
    }

    fn respond(&self, message: &PageResponse) {
        let mut state = self.state();
        if state.responses.len() == REMEMBERED {
            state.responses.pop_front();
        }
        state.responses.push_back(*message);
        let Some(&device) = state.sources.get(&message.source) else { return };
        let wants = state.wants_pasid.get(&device).copied().unwrap_or(false);
        let waiting = state.open.entry((message.source, message.group)).or_default();
        // Of several with one index, which only a device that lies has, any.
        let fits =
            |space: &Option<Pasid>| if wants && message.code <= 1 { *space == message.pasid } else { true };
        match waiting.iter().position(fits) {
            Some(place) => drop(waiting.remove(place)),
            None if waiting.is_empty() => {
                state.accuse(format!("one-answer: nobody waits for {message:?}"));
            }
            None => {
                let waiting = waiting.clone();
                state.accuse(format!("one-answer: {message:?} lacks the PASID: {waiting:?}"));
            }
        }
    }
}

impl State {
    fn accuse(&mut self, wrong: String) {
        if self.wrongs.len() < MOST {
            self.wrongs.push(wrong);
        }
    }

    fn judged(&self, strict: bool, judge: impl FnOnce(&Shadow) -> Result<(), String>) -> Result<(), String> {
        if strict { judge(&self.shadow) } else { Ok(()) }
    }
}

impl Translator for Judge {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        let outcome = self.iommu.access(request, &mut |passage| {
            self.judge_access(request, passage.pa);
            commit(passage)
        });
        if let Outcome::Stalled(stall) = outcome {
            let mut state = self.state();
            if let Some(&device) = state.sources.get(&request.source) {
                state.stalled.insert(stall, (device, request.pasid));
            }
        }
        outcome
    }

    fn stalled(&self, stall: Stall) -> StallState {
        let became = self.iommu.stalled(stall);
        if became != StallState::Waiting {
            self.state().stalled.remove(&stall);
        }
        became
    }

    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        let answer = self.iommu.translate(request);
        let (TranslationAnswer::Translated(given), Some(pasid)) = (answer, request.pasid) else {
            return answer;
        };
        let mut state = self.state();
        let Some(&device) = state.sources.get(&request.source) else { return answer };
        if !given.read && !given.write {
            return answer;
        }
        let size = 1u64 << given.size_lg2;
        for write in [false, true] {
            if if write { !given.write } else { !given.read } {
                continue;
            }
            let offset = request.iova.get() - given.first.get();
            let pa = Pa::new(given.pa.get() + offset);
            let seen = Seen { device, pasid, va: request.iova.get(), pa, write };
            if let Err(why) = state.judged(self.strict, |shadow| shadow.judge(&seen)) {
                state.accuse(format!("isolation: answered to a translation request: {seen:x?}: {why}"));
            }
        }
        state.shadow.answered(device, pasid, given.first.get(), given.pa, size.min(1 << 24));
        answer
    }

    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        self.iommu.access_translated(request, &mut |passage| {
            self.judge_translated(request, passage.pa);
            commit(passage)
        })
    }

    fn request_page(&self, request: &PageRequest) {
        let marker = request.last && !request.read && !request.write && request.pasid.is_some();
        if request.last && !marker {
            self.state().open.entry((request.source, request.group)).or_default().push(request.pasid);
        }
        self.iommu.request_page(request);
    }

    fn invalidation_done(&self, done: &InvalidationDone) {
        self.state()
            .unanswered
            .retain(|(source, tag), _| *source != done.source || done.tags >> tag & 1 == 0);
        self.iommu.invalidation_done(done);
    }

    fn connect(&self, downstream: Weak<dyn Downstream>) {
        let down = Arc::new(Down { judge: self.me.clone(), real: downstream.clone() });
        let as_seen: Arc<dyn Downstream> = down.clone();
        self.state().downs.push((down, downstream));
        self.iommu.connect(Arc::downgrade(&as_seen));
    }
}

impl Downstream for Down {
    fn invalidate(&self, message: &Invalidation) -> bool {
        let Some(real) = self.real.upgrade() else { return false };
        let key = (message.source, message.tag);
        if let Some(judge) = self.judge.upgrade() {
            // Before it goes out: it may be answered from within.
            let mut state = judge.state();
            let sent = state.sent;
            state.unanswered.insert(key, (sent, message.pasid));
            state.sent += 1;
        }
        let taken = real.invalidate(message);
        if let (false, Some(judge)) = (taken, self.judge.upgrade()) {
            judge.state().unanswered.remove(&key);
        }
        taken
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        if let Some(judge) = self.judge.upgrade() {
            judge.respond(message);
        }
        self.real.upgrade().is_some_and(|real| real.page_response(message))
    }
}

#[cfg(test)]
mod tests {
    use model_bus::{Bus, BusOptions};
    use portcullis::core::mm::ProcessTable;
    use portcullis::types::{Iova, PaRange};

    use super::super::shadow::Answer;
    use super::*;

    /// An IOMMU that answers nobody.
    struct Silent;

    impl Translator for Silent {
        fn access(&self, _: &Request, _: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
            Outcome::Aborted
        }
    }

    #[test]
    fn a_group_waits_in_the_address_space_in_which_it_was_asked_for() {
        let ram = PaRange::new(Pa::new(0x4000_0000), 0x1_0000).expect("RAM does not wrap");
        let judge = Judge::new(Arc::new(Silent), Shadow::new(Bus::new(&BusOptions::new(ram, 1))), true);
        judge.know(3, &[SourceId(8)]);
        let [one, other] = [1, 2].map(|pasid| Pasid::new(pasid).expect("few bits"));
        let asks = PageRequest {
            source: SourceId(8),
            pasid: Some(one),
            privileged: false,
            execute: false,
            iova: Iova::new(0x1000),
            group: 5,
            last: true,
            read: true,
            write: false,
        };
        judge.request_page(&asks);
        judge.request_page(&PageRequest { group: 6, last: false, ..asks });
        assert_eq!(judge.waiting(3, one), [5]);
        assert_eq!((judge.waiting(3, other), judge.waiting(4, one)), (vec![], vec![]));
    }

    #[test]
    fn a_frame_that_is_freed_in_doubt_is_told_before_the_doubt_is_over() {
        let ram = PaRange::new(Pa::new(0x4000_0000), 0x10_0000).expect("RAM does not wrap");
        let bus = Bus::new(&BusOptions::new(ram, 1));
        let heap = bus.cpu().heap();
        let way: Vec<Pa> = (0..5).map(|_| heap.alloc(0x1000, 0x1000).expect("there is room")).collect();
        // The second entry of each of four tables: P, R/W, U/S.
        way.windows(2).for_each(|two| {
            bus.cpu().store64(Pa::new(two[0].get() + 8), two[1].get() | 7).expect("it lies in RAM");
        });
        let (mm, page) = (MmId(1), 0x80_4020_1000);
        let judge = Judge::new(Arc::new(Silent), Shadow::new(bus.clone()), true);
        let table = ProcessTable::X86 { root: way[0], levels: 4, output_bits: 46, pat: 0 };
        let answers = |confirmed| [Answer { listener: 1, first: page, last: page + 0xfff, confirmed }];
        judge.shadow(|shadow| {
            shadow.add(mm, table, 0x1000);
            let window = shadow.open(mm, &[(page, page + 0x1000)]);
            shadow.close(window, &answers(false));
        });
        judge.look_at_frames();
        assert_eq!(judge.wrongs(), [""; 0], "it is kept");
        heap.free(way[4], 0x1000).expect("it is live");
        judge.look_at_frames();
        assert_eq!(judge.wrongs().len(), 1);
    }
}
