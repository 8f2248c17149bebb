//! The model, seen from outside: registers, memory and requests, with words written by hand from the book.
//!
//! Nothing here uses the model's own decoders: an entry, a descriptor or a fault record is a hex literal.

mod ats;
mod caches;
mod draining;
mod faults;
mod fuzz;
mod harness;
mod interrupts;
mod mirror;
mod nested;
mod programming;
mod queue;
mod rules;
mod scalable;
mod sva;
