//! Commands that are not what the driver queued.
//!
//! A [`Commands`] looks at what stands in the queue between the last write of the register that gives commands to hardware and the one that is about to be made, and changes it
//! there. A command is left out by putting in its place one that does nothing: the numbers of slots stay what they are. Which queue it is, its parameter says: a [`CommandQueue`], or
//! [`descriptors`](super::descriptors)'s.

use std::sync::{Mutex, PoisonError};

use model_bus::Width;
use portcullis::types::Pa;
use portcullis_lab::tamper::{Barrier, Hands, Tamper};

use super::view::{View, low_half, offset, register};

/// A command's two words.
pub type Words = [u64; 2];

/// A CMD_SYNC that signals nobody. Spec: SMMUv3 H.a, 4.7.3 "CMD_SYNC", CS = SIG_NONE.
pub const NOTHING: Words = [0x46, 0];

/// A queue by which hardware is told what to do, learnt from what is written to registers.
pub trait Queue: Default + Send + Sync {
    /// A command that does nothing.
    const NOTHING: Words;

    /// A register is about to be written: the slots that hardware gets by that, by their first words.
    fn written(&self, at: Pa, value: u64) -> Vec<Pa>;
}

/// The command queue of an SMMUv3.
#[derive(Debug, Default)]
pub struct CommandQueue {
    view: View,
    prod: Mutex<u32>,
}

impl Queue for CommandQueue {
    const NOTHING: Words = NOTHING;

    fn written(&self, at: Pa, value: u64) -> Vec<Pa> {
        self.view.register_written(at, value);
        if register(at) != Some(offset::CMDQ_PROD) {
            return Vec::new();
        }
        let mut old = self.prod.lock().unwrap_or_else(PoisonError::into_inner);
        let prod = low_half(value);
        self.view.slots(core::mem::replace(&mut *old, prod), prod)
    }
}

/// Opcodes. Spec: SMMUv3 H.a, 4.1.1 "Command opcodes".
pub mod op {
    /// CMD_CFGI_STE.
    pub const CFGI_STE: u64 = 0x03;
    /// CMD_CFGI_ALL, CMD_CFGI_STE_RANGE.
    pub const CFGI_ALL: u64 = 0x04;
    /// CMD_TLBI_NH_ASID.
    pub const TLBI_NH_ASID: u64 = 0x11;
    /// CMD_TLBI_NH_VA.
    pub const TLBI_NH_VA: u64 = 0x12;
    /// CMD_TLBI_S12_VMALL.
    pub const TLBI_S12_VMALL: u64 = 0x28;
    /// CMD_TLBI_S2_IPA.
    pub const TLBI_S2_IPA: u64 = 0x2a;
    /// CMD_TLBI_NSNH_ALL.
    pub const TLBI_NSNH_ALL: u64 = 0x30;
    /// CMD_SYNC.
    pub const SYNC: u64 = 0x46;
}

/// A command's opcode.
pub fn opcode(words: Words) -> u64 {
    words[0] & 0xff
}

/// Whether a command makes hardware forget configuration or translations: 0x03 to 0x06 and 0x10 to 0x3f.
pub fn is_invalidation(words: Words) -> bool {
    matches!(opcode(words), 0x03..=0x06 | 0x10..=0x3f)
}

/// Whether a command makes hardware forget addresses of one domain: what an unmap queues.
pub fn is_by_address(words: Words) -> bool {
    matches!(opcode(words), op::TLBI_NH_VA | op::TLBI_S2_IPA)
}

/// Changes the commands of each batch.
pub struct Commands<F, Q = CommandQueue> {
    queue: Q,
    change: F,
}

impl<F: Fn(&mut [Words]) + Send + Sync, Q: Queue> Commands<F, Q> {
    /// `change` gets every batch, from one write of the register to the next.
    pub fn of_queue(change: F) -> Self {
        Self { queue: Q::default(), change }
    }

    fn change(&self, hands: Hands<'_>, slots: &[Pa]) {
        let second = |slot: Pa| Pa::new(slot.get() + 8);
        let mut batch: Vec<Words> =
            slots.iter().map(|&slot| [hands.load(slot), hands.load(second(slot))]).collect();
        (self.change)(&mut batch);
        for (&slot, words) in slots.iter().zip(batch) {
            hands.store(slot, words[0]);
            hands.store(second(slot), words[1]);
            hands.clean(slot, 16);
        }
        hands.barrier(Barrier::Write);
    }
}

impl<F: Fn(&mut [Words]) + Send + Sync> Commands<F> {
    /// Of an SMMUv3: `change` gets every batch.
    pub fn new(change: F) -> Self {
        Self::of_queue(change)
    }
}

impl<F: Fn(&mut [Words]) + Send + Sync, Q: Queue> Tamper for Commands<F, Q> {
    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        let slots = self.queue.written(at, value);
        if !slots.is_empty() {
            self.change(hands, &slots);
        }
        hands.write_register(at, width, value);
    }
}

/// Leaves out every command that `which` picks.
pub fn leaving_out(which: impl Fn(Words) -> bool + Send + Sync) -> impl Tamper {
    leaving_out_of::<CommandQueue>(which)
}

/// The same, of this kind of queue.
pub fn leaving_out_of<Q: Queue>(which: impl Fn(Words) -> bool + Send + Sync) -> impl Tamper {
    changing_in::<Q>(move |words| if which(words) { Q::NOTHING } else { words })
}

/// Changes each command.
pub fn changing(change: impl Fn(Words) -> Words + Send + Sync) -> impl Tamper {
    changing_in::<CommandQueue>(change)
}

/// The same, in this kind of queue.
pub fn changing_in<Q: Queue>(change: impl Fn(Words) -> Words + Send + Sync) -> impl Tamper {
    let each = move |batch: &mut [Words]| batch.iter_mut().for_each(|words| *words = change(*words));
    Commands::<_, Q>::of_queue(each)
}

/// Every invalidation takes the place of the one before it, and the first has none: a driver that goes on before its sync has completed.
pub fn one_late(which: impl Fn(Words) -> bool + Send + Sync) -> impl Tamper {
    one_late_in::<CommandQueue>(which)
}

/// The same, in this kind of queue.
pub fn one_late_in<Q: Queue>(which: impl Fn(Words) -> bool + Send + Sync) -> impl Tamper {
    let before = Mutex::new(Q::NOTHING);
    changing_in::<Q>(move |words| {
        if which(words) {
            core::mem::replace(&mut *before.lock().unwrap_or_else(PoisonError::into_inner), words)
        } else {
            words
        }
    })
}
