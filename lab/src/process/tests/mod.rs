//! What a process's memory promises, each promise looked at from outside: by the CPU model, by a listener, by the heap.
#![expect(clippy::cast_possible_truncation, reason = "hosts have 64 bits, and test data is of any bytes")]

mod bench;
mod ends;
mod failure;
mod huge;
mod maps;
mod marks;
mod order;
mod pins;
mod random;
mod stock;
mod x86;
