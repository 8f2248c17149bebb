//! The CPU model against words typed from the book: translation, permissions, updates, TLBs, broadcasts.

mod access;
mod bench;
mod broadcast;
mod registers;
mod tlb;
mod update;
