//! VFIO from a process: numbers and bytes in, numbers and bytes out. Requests and structures are by hand, from the interface's
//! header, and not from `spec`; but for the table of all requests.
#![expect(
    clippy::cast_possible_truncation,
    reason = "test numbers are small, and cut on purpose where they are not"
)]

mod attach;
mod container;
mod death;
mod device;
mod dirty;
mod faults;
mod fuzz;
mod group;
mod info;
mod interrupts;
mod map;
mod spapr;
mod support;
mod table;
mod threads;
mod unmap;
