//! The model, seen from outside: registers, memory and requests, with words written by hand.
//!
//! Nothing here uses the model's own decoders: a TVE, a TCE, an IVE or a word of the PEST is a hex literal.

mod bus;
mod caches;
mod freezes;
mod fuzz;
mod harness;
mod messages;
mod outbound;
mod programming;
mod threads;
mod walks;
mod windows;
