//! The unit's own interrupts: fault, invalidation completion and page request events, with their registers.
//!
//! An event sets IP. If it is not masked, the message goes out at once and IP is 0 again; if it is, it goes out when software clears IM, unless
//! software has seen to its cause before. They are never remapped.
//!
//! Spec: VT-d 5.10, 5.1.6 "Remapping Hardware Event Interrupt Programming", 6.5.2.10 "Hardware Generation of Invalidation Completion Events", 7.3
//! "Non-Recoverable Fault Event", 7.5 "Recoverable Fault Event", 11.4.7.2 to 11.4.7.5.

/// IM of a control register.
const MASK: u32 = 1 << 31;
/// IP of a control register.
const PENDING: u32 = 1 << 30;

/// Which event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Fault,
    Invalidation,
    PageRequest,
}

/// The four registers of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    control: u32,
    data: u32,
    address: u32,
    upper: u32,
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) address: u32,
    pub(crate) upper: u32,
    pub(crate) data: u32,
}

impl Event {
    fn message(&self) -> Message {
        Message { address: self.address, upper: self.upper, data: self.data }
    }

    /// The condition came up. Answers the message to send, if it is not masked.
    pub(crate) fn raise(&mut self) -> Option<Message> {
        self.control |= PENDING;
        self.release()
    }

    fn release(&mut self) -> Option<Message> {
        let goes = self.control & (MASK | PENDING) == PENDING;
        if goes {
            self.control &= !PENDING;
        }
        goes.then(|| self.message())
    }

    /// Software has seen to everything that the event could be about.
    pub(crate) fn serviced(&mut self) {
        self.control &= !PENDING;
    }

    fn read(&self, register: u64) -> u32 {
        match register {
            0 => self.control,
            1 => self.data,
            2 => self.address,
            _ => self.upper,
        }
    }
}

/// The three of them.
#[derive(Clone, Debug)]
pub(crate) struct Events([Event; 3]);

impl Default for Events {
    fn default() -> Self {
        Self([Event { control: MASK, data: 0, address: 0, upper: 0 }; 3])
    }
}

/// Which event's registers are at an offset, and which of the four it is.
fn find(offset: u64) -> Option<(Which, u64)> {
    let bases = [(Which::Fault, 0x38), (Which::Invalidation, 0xa0), (Which::PageRequest, 0xe0)];
    bases.into_iter().find_map(|(which, base)| {
        let within = offset.checked_sub(base)?;
        (within < 16).then_some((which, within / 4))
    })
}

impl Events {
    pub(crate) fn of(&mut self, which: Which) -> &mut Event {
        &mut self.0[which as usize]
    }

    pub(crate) fn read(&self, offset: u64) -> Option<u32> {
        let (which, register) = find(offset)?;
        Some(self.0[which as usize].read(register))
    }

    /// Writes a register, if there is one at `offset`. Answers the bits that should have been zero, and the message that goes out for it.
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> Option<(u32, Option<Message>)> {
        let (which, register) = find(offset)?;
        let event = self.of(which);
        Some(match register {
            0 => {
                event.control = event.control & PENDING | value & MASK;
                // The rest is RsvdP.
                (0, event.release())
            }
            1 => {
                event.data = value & 0xffff;
                (value & !0xffff, None)
            }
            2 => {
                event.address = value & !3;
                (value & 3, None)
            }
            _ => {
                event.upper = value;
                (0, None)
            }
        })
    }
}
