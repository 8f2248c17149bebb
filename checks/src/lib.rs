//! Checks that stand outside the crates that they judge: golden words, conformance, wrong drivers.
//!
//! [`golden`] holds the books' words, typed by hand; [`conformance`] runs the driver on every back end; [`wrong`] makes right drivers
//! wrong; [`sva`] has processes share their memory with devices, and somebody who watches; [`cost`] counts what operations take. The tests are
//! in `tests/`.

pub mod conformance;
pub mod cost;
pub mod golden;
pub mod sva;
pub mod wrong;
