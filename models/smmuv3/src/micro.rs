//! The shortest way to a cached translation: one look, for a page that was just used.
//!
//! It holds nothing of its own: an entry counts only while nothing has been removed or changed since it was made (its
//! generation), so that it never knows more than the caches do.

use portcullis_types::{Access, AccessKind};

use crate::descriptor::Rights;
use crate::event::Asked;
use crate::translate::{Grant, overridden};

const SLOTS: usize = 4096;

#[derive(Clone, Copy, Default)]
struct Slot {
    page: u64,
    /// Stream in the upper half; substream plus one, or 0, in the lower.
    who: u64,
    output: u64,
    generation: u32,
    /// A bit for each kind of access, before overrides.
    allowed: u8,
    translated: bool,
}

/// What a look found.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) output: u64,
    /// Not a bypassed stream.
    pub(crate) translated: bool,
}

pub(crate) struct Micro {
    /// [`SLOTS`] of them. Made where they stay: passed over the stack they would make each caller probe 128 KiB of it.
    slots: Box<[Slot]>,
    generation: u32,
}

fn who(stream: u32, substream: Option<u32>) -> u64 {
    u64::from(stream) << 32 | substream.map_or(0, |ssid| u64::from(ssid) + 1)
}

fn place(page: u64, who: u64) -> usize {
    let mixed = (page ^ who.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 52) as usize % SLOTS
}

fn access_bit(access: Access) -> u8 {
    Rights::needed(access.kind, access.privileged).0
}

impl Micro {
    pub(crate) fn new() -> Self {
        Self { slots: vec![Slot::default(); SLOTS].into_boxed_slice(), generation: 1 }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            *self = Self::new();
        }
    }

    /// Where the access goes, if a translation that allows it is known.
    pub(crate) fn find(
        &self,
        stream: u32,
        substream: Option<u32>,
        address: u64,
        access: Access,
    ) -> Option<Found> {
        let (page, who) = (address >> 12, who(stream, substream));
        let slot = &self.slots[place(page, who)];
        let known = slot.generation == self.generation && slot.page == page && slot.who == who;
        (known && slot.allowed & access_bit(access) != 0)
            .then_some(Found { output: slot.output | address & 0xfff, translated: slot.translated })
    }

    /// Keeps where a page goes.
    pub(crate) fn keep(&mut self, asked: &Asked, grant: &Grant) {
        let rights = match &grant.translation {
            None => Rights::ALL,
            Some(translation) => {
                let of = |stage: Option<(_, Rights)>| stage.map_or(Rights::ALL, |(_, rights)| rights);
                Rights(of(translation.stage1).0 & of(translation.stage2).0)
            }
        };
        let mut allowed = 0;
        for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
            for privileged in [false, true] {
                let made = overridden(&Asked { kind, privileged, ..*asked }, &grant.overrides);
                if rights.allow(Rights::needed(made.kind, made.privileged)) {
                    allowed |= access_bit(Access { kind, privileged });
                }
            }
        }
        let (page, who) = (asked.address >> 12, who(asked.stream, asked.substream));
        self.slots[place(page, who)] = Slot {
            page,
            who,
            output: grant.output & !0xfff,
            generation: self.generation,
            allowed,
            translated: grant.translation.is_some(),
        };
    }
}
