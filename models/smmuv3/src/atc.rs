//! Invalidations of ATCs: CMD_ATC_INV, the ITags under way, and what becomes of those that nobody answers.
//!
//! A tag belongs to an invalidation from when its message is made until its completion comes, or it comes back as an Unsupported Request:
//! that is an end without a guarantee, and no error. One that takes longer than the policy's time is given up when a CMD_SYNC looks, or a further
//! command needs its tag: the next CMD_SYNC fails, and with it all knowledge of which it was. The tag of one given up is kept out
//! of use until its completion does come, or no other is free; a completion by another function than the one it was sent to is ignored.
//!
//! Spec: SMMUv3 H.a, 4.5.1 "CMD_ATC_INV", 4.7.3 "CMD_SYNC", 3.9.1.4 "ATS Invalidation timeout", 3.9.1.5 "ATS Invalidation errors";
//! PCIe 6.0, 10.3.1 "Invalidate Request": 32 tags.

use model_bus::{Invalidation, InvalidationDone};
use portcullis_types::trace::Value;
use portcullis_types::{Iova, Pasid, SourceId};

use crate::downstream::Outgoing;
use crate::state::{Around, State};
use crate::strict::clause;

/// Which addresses of whose ATC a CMD_ATC_INV names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) stream: u32,
    /// SSV and SubstreamID.
    pub(crate) substream: Option<u32>,
    pub(crate) global: bool,
    /// A multiple of the size.
    pub(crate) first: u64,
    /// 12 to 64.
    pub(crate) size_lg2: u8,
}

/// What an ITag stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    Free,
    UnderWay {
        source: SourceId,
        serial: u64,
        since_ns: u64,
    },
    /// Nobody waits for it any more, but its completion may still come.
    GivenUp {
        source: SourceId,
        since_ns: u64,
    },
}

/// How far the invalidations before a CMD_SYNC are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    UnderWay,
    /// One or more were given up since this was last said.
    Failed,
}

/// The invalidations under way.
#[derive(Debug, Default)]
pub(crate) struct AtcInvalidations {
    slots: [Slot; 32],
    /// Where the search for a free tag begins: tags go round.
    next: usize,
    failed: bool,
}

impl AtcInvalidations {
    /// A tag for the next one: a free one, or else the one that was given up longest ago.
    fn tag(&self) -> Option<usize> {
        let free = (self.next..self.next + 32).map(|tag| tag % 32).find(|&tag| self.slots[tag] == Slot::Free);
        let given_up = || {
            let since = |tag: &usize| match self.slots[*tag] {
                Slot::GivenUp { since_ns, .. } => Some((since_ns, *tag)),
                _ => None,
            };
            (0..32).filter_map(|tag| since(&tag)).min().map(|(_, tag)| tag)
        };
        free.or_else(given_up)
    }

    fn begin(&mut self, tag: usize, source: SourceId, serial: u64, since_ns: u64) {
        self.slots[tag] = Slot::UnderWay { source, serial, since_ns };
        self.next = (tag + 1) % 32;
    }

    /// Takes a completion.
    fn complete(&mut self, done: &InvalidationDone) {
        for (tag, slot) in self.slots.iter_mut().enumerate() {
            let theirs = match *slot {
                Slot::Free => false,
                Slot::UnderWay { source, .. } | Slot::GivenUp { source, .. } => source == done.source,
            };
            if theirs && done.tags >> tag & 1 == 1 {
                *slot = Slot::Free;
            }
        }
    }

    /// Ends one that came back as an Unsupported Request. Answers whether it was still under way.
    fn end(&mut self, tag: u8, serial: u64) -> bool {
        let slot = &mut self.slots[usize::from(tag % 32)];
        let found = matches!(*slot, Slot::UnderWay { serial: theirs, .. } if theirs == serial);
        if found {
            *slot = Slot::Free;
        }
        found
    }

    /// Gives up what began more than `limit_ns` ago. Answers how many.
    fn expire(&mut self, now_ns: u64, limit_ns: u64) -> u64 {
        let mut count = 0;
        for slot in &mut self.slots {
            if let Slot::UnderWay { source, since_ns, .. } = *slot
                && now_ns.saturating_sub(since_ns) > limit_ns
            {
                *slot = Slot::GivenUp { source, since_ns };
                count += 1;
            }
        }
        self.failed |= count != 0;
        count
    }

    fn progress(&mut self) -> Progress {
        if core::mem::take(&mut self.failed) {
            Progress::Failed
        } else if self.slots.iter().any(|slot| matches!(slot, Slot::UnderWay { .. })) {
            Progress::UnderWay
        } else {
            Progress::Done
        }
    }
}

impl State {
    /// How far all invalidations are. A failure is said once.
    pub(crate) fn atc_progress(&mut self, around: Around<'_>) -> Progress {
        self.expire_atc(around);
        self.atc.progress()
    }

    fn expire_atc(&mut self, around: Around<'_>) {
        let limit_ns = around.config.policy.atc_timeout_ns;
        self.counters.atc_timeouts += self.atc.expire(around.fabric.now_ns(), limit_ns);
    }

    /// Whether a CMD_ATC_INV must wait: all tags are under way.
    pub(crate) fn atc_must_wait(&mut self, around: Around<'_>) -> bool {
        if !self.is_enabled() || self.atc.tag().is_some() {
            return false;
        }
        self.expire_atc(around);
        self.atc.tag().is_none()
    }

    /// CMD_ATC_INV.
    pub(crate) fn invalidate_atc(&mut self, target: &Target, around: Around<'_>) {
        if u32::from(target.size_lg2) < around.config.smallest_unit_lg2() {
            self.notes.record(clause::ATC_SIZE, format!("{target:x?}"));
        }
        // "If SSV == 1, ...: the command has no effect."
        if target.substream.is_some() && around.config.substream_id_bits == 0 {
            self.notes.record(clause::ATS_SUBSTREAM, format!("{target:x?}"));
            return;
        }
        // "IGNORED if SMMUEN is 0". The caller waited for a tag.
        let Some(tag) = self.atc.tag().filter(|_| self.is_enabled()) else { return };
        let serial = self.counters.atc_invalidations;
        self.counters.atc_invalidations += 1;
        let source = SourceId(target.stream);
        self.atc.begin(tag, source, serial, around.fabric.now_ns());
        let message = Invalidation {
            source,
            pasid: target.substream.and_then(Pasid::new),
            // "The Global parameter is IGNORED when SSV == 0."
            global: target.global && target.substream.is_some(),
            first: Iova::new(target.first),
            size_lg2: target.size_lg2,
            tag: u8::try_from(tag).unwrap_or(0),
        };
        let mut fields = vec![("sid", Value::Hex(target.stream.into()))];
        fields.extend(target.substream.map(|ssid| ("ssid", Value::Hex(ssid.into()))));
        fields.extend([
            ("addr", Value::Addr(target.first)),
            ("size_lg2", Value::Dec(target.size_lg2.into())),
            ("tag", Value::Dec(message.tag.into())),
        ]);
        around.trace("atc_invalidate", &fields);
        self.outbox.push(Outgoing::Invalidate(message, serial));
    }

    /// A completion came.
    pub(crate) fn complete_atc(&mut self, done: &InvalidationDone) {
        self.atc.complete(done);
    }

    /// An invalidation came back as an Unsupported Request, or found nobody.
    pub(crate) fn end_atc(&mut self, tag: u8, serial: u64) {
        self.counters.atc_unsupported += u64::from(self.atc.end(tag, serial));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: SourceId = SourceId(7);

    fn full() -> AtcInvalidations {
        let mut atc = AtcInvalidations::default();
        (0..32).for_each(|n| atc.begin(usize::try_from(n).unwrap(), WHO, n, n));
        atc
    }

    #[test]
    fn tags_go_round_and_none_is_given_twice() {
        let mut atc = AtcInvalidations::default();
        for expected in 0..32 {
            assert_eq!(atc.tag(), Some(expected));
            atc.begin(expected, WHO, 0, 0);
        }
        assert_eq!(atc.tag(), None);
        atc.complete(&InvalidationDone { source: WHO, tags: 1 << 5 | 1 << 31 });
        assert_eq!(atc.tag(), Some(5));
        atc.begin(5, WHO, 0, 0);
        assert_eq!(atc.tag(), Some(31));
        let mut atc = AtcInvalidations::default();
        atc.begin(0, WHO, 0, 0);
        atc.complete(&InvalidationDone { source: WHO, tags: 1 });
        assert_eq!(atc.tag(), Some(1), "not the one just used");
    }

    #[test]
    fn a_tag_that_was_given_up_is_the_last_to_be_used_again() {
        let mut atc = full();
        // Those of 0 to 9 began more than 20 before 30.
        assert_eq!(atc.expire(30, 20), 10);
        atc.complete(&InvalidationDone { source: WHO, tags: 1 << 20 });
        assert_eq!(atc.tag(), Some(20));
        atc.begin(20, WHO, 99, 30);
        assert_eq!(atc.tag(), Some(0), "the oldest");
        // The late completion frees it.
        atc.complete(&InvalidationDone { source: WHO, tags: 1 << 3 });
        assert_eq!(atc.tag(), Some(3));
        assert_eq!(atc.progress(), Progress::Failed);
        assert_eq!(atc.progress(), Progress::UnderWay, "said once");
    }

    #[test]
    fn only_the_one_it_was_sent_to_completes_it_and_only_its_own_serial_ends_it() {
        let mut atc = full();
        atc.complete(&InvalidationDone { source: SourceId(8), tags: u32::MAX });
        assert_eq!(atc.tag(), None);
        assert!(!atc.end(4, 5) && atc.end(4, 4) && !atc.end(4, 4));
        assert_eq!(atc.tag(), Some(4));
        atc.complete(&InvalidationDone { source: WHO, tags: u32::MAX });
        assert_eq!(atc.progress(), Progress::Done);
    }
}
