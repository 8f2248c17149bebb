//! I/O page faults that can be put right: from a device's page request to the one response that it gets.
//!
//! A [`PageRequester`] is a device that asks for pages; a driver [`report`](PageRequester::report)s its requests. A [`FaultQueue`] holds
//! the groups of several requesters until workers of the embedder's come for them ([`FaultQueue::work`]). A [`PageRequestHandler`] brings
//! the pages in, one for each PASID of a device: for a process, an [`MmHandler`]. A [`Responder`] takes the answer back to the device; what it has no room for, an
//! [`Unsent`] keeps for it.
//!
//! ```text
//!  driver ─ report ─► partials ─ last one ─► ready groups ─ work ─► handler ─► responder
//!                        │                       │                                ▲
//!                        └─ overflow: discarded  └─ device removed: Invalid ──────┘
//! ```
//!
//! # Groups
//!
//! A request without the last flag is kept until the last one of its group comes. The group is what came with the same source and tag,
//! in the order in which it came. Its requests are handled in that order, until one fails; groups are handled in no order, each by one
//! worker at a time. Devices take turns: one with many groups does not keep the others waiting.
//!
//! # One answer
//!
//! Each last request gets exactly one response, and no other request gets any: promise `one-answer`. Who takes a group out of the
//! lists of its requester, under the requester's lock, has the right and the duty to answer it. Requests that can never get anywhere
//! (no handler, no memory, beyond the [`Limits`]) are answered from within `report`.
//!
//! # Locks
//!
//! One for each requester; one for the ring of requesters with ready groups, taken with a requester's held; one for a queue's list of
//! members, taken before a requester's. No lock is held while a handler or a responder runs. `report` may be called in interrupt context;
//! the others where handlers may sleep.
//!
//! Not here: hardware's queues and commands (a driver's), the process (`mm`).

mod handler;
mod queue;
mod request;
mod requester;
mod state;
mod unsent;

pub use handler::{Handled, MmHandler, PageRequestHandler, SetHandlerError};
pub use queue::{AddRequesterError, FaultQueue, RemoveRequesterError};
pub use request::{GroupTag, PageRequest, PageResponse, Responder, ResponseCode};
pub use requester::{Counts, FlushTimeout, PageRequester, Reported};
pub use state::Limits;
pub use unsent::Unsent;
