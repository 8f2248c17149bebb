//! The driver on a block of registers written from the device's page.

mod fake;
mod queues;
mod starting;
