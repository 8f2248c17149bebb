//! Who watches: a shadow of who may reach which byte, held against every access that a model lets through. It shares no code with what it watches.
//!
//! | file | what |
//! |---|---|
//! | `shadow` | who may reach which byte, since when, until which completed invalidation |
//! | `gate` | stands between devices and their SMMU, and holds each access against the shadow |
//! | `owners` | who has which group |
//! | `wrong` | what an objection is |

mod gate;
mod owners;
mod shadow;
mod wrong;

pub(crate) use gate::Gate;
pub(crate) use owners::{Ledger, Who};
pub(crate) use shadow::{Grant, Seen, Shadow, SpaceId, Token, Way};
pub(crate) use wrong::Wrong;
