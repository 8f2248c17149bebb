//! ACPI tables, read: the book's own example, tables of every kind, and tables that are broken in every way.

mod book;
mod broken;
mod builder;
mod cover;
mod iort;
mod machine;
mod mcfg;
mod smmus;
