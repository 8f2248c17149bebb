//! The SMMUv3 model against words typed by hand: memory, commands and event records.

mod commands;
mod scenes;
mod stage;
