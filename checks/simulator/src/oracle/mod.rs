//! Who watches: a shadow of who may reach which byte, held against every access that a model lets through. It shares no code with what it watches.
//!
//! | file | what |
//! |---|---|
//! | `shadow` | who may reach which byte, since when, until which completed invalidation |
//! | `gate` | stands between devices and their SMMU, and holds each access against the shadow |
//! | `tables` | what the tables in memory say, read anew |
//! | `compare` | whether that is what the shadow says |
//! | `owners` | who has which group |
//! | `vectors` | who may raise which interrupt |
//! | `wrong` | what an objection is |
//! | `broken` | tests: each promise is broken, and somebody objects |

#[cfg(test)]
mod broken;
mod compare;
mod gate;
mod owners;
mod shadow;
pub(crate) mod tables;
mod vectors;
mod wrong;

pub(crate) use gate::Gate;
pub(crate) use owners::{Ledger, Who};
pub(crate) use shadow::{Grant, Seen, Shadow, SpaceId, Token, Way};
pub(crate) use vectors::{Ended, EntryKey, Meaning, Raised, Vectors};
pub(crate) use wrong::Wrong;
