//! The model, seen from outside: registers, memory and requests, with words written by hand from the book.
//!
//! Nothing here uses the model's own decoders: a register's value, a descriptor and a syndrome is a hex literal.

mod banks;
mod broadcast;
mod faults;
mod fuzz;
mod harness;
mod maintenance;
mod programming;
mod stage1;
mod stage2;
mod stall;
mod streams;
mod threads;
