//! The model, seen from outside: registers, memory and requests, with words written by hand from the book.
//!
//! Nothing here uses the model's own decoders: an STE, a CD, a descriptor, a command or an event record is a hex literal.

mod atc;
mod ats;
mod broadcast;
mod caches;
mod commands;
mod contexts;
mod endpoint;
mod events;
mod fuzz;
mod hardware_update;
mod harness;
mod page_requests;
mod programming;
mod simulation;
mod stage1;
mod stage2;
mod stall;
mod streams;
mod threads;
mod traces;
mod updates;
