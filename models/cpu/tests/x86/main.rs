//! The x86 CPU model against words typed from the book: translation, rights, flags, TLBs and their shootdown, strict rules.

mod access;
mod bench;
mod flags;
mod registers;
mod strict;
mod tlb;
