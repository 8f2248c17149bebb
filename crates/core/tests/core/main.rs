//! Core from the outside, on an IOMMU that remembers what it was not told to forget and whose every call can be made to fail.
#![expect(clippy::cast_possible_truncation, reason = "test addresses and numbers are small")]

mod bus;
mod dma;
mod domain;
mod domain_runs;
mod fault;
mod group;
mod group_history;
mod history;
mod msi;
mod nested;
mod owner;
mod owner_faults;
mod owner_orders;
mod owner_table;
mod owner_threads;
mod sg;
mod support;
mod sva;
