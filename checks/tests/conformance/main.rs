//! One suite over every back end; wrong drivers through it; what operations cost on two of them.

mod cost;
mod models;
mod qemu;
mod vendors;
mod wrong;
