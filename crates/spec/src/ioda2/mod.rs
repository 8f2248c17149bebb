//! IODA2 as POWER8's PCI host bridge, PHB3, has it: registers, the tables behind them, and TVEs. TCEs are `pgtable::tce`'s business.
//!
//! There is no public book. What is here was read in firmware and operating systems that drive the hardware, and in an emulator; each
//! item says where, as `Observed:`. POWER numbers bits from the most significant end: such a number is named once, as *PPC bit*;
//! the code counts from the least.
//!
//! Not here: what is done with any of it (`portcullis-ioda2`).

pub mod registers;
pub mod tables;
