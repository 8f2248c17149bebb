//! The SMMUv3 model against words typed by hand: memory, commands and event records.

mod commands;
mod registers;
mod scenes;
mod sharing;
mod stage;
