//! What the suite has to know of a vendor.

use std::sync::Arc;

use portcullis::core::iommu::{Iommu, SyncError};
use portcullis::core::nested::GuestTables;

use super::guest::Dialect;
use super::suite::Case;
use crate::conformance::bed::Bed;
use crate::conformance::via::{Via, ViaRegisters};

/// Why an access is refused, in words that no book has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is mapped there.
    NotMapped,
    /// Something is, and does not allow this.
    Forbidden,
    /// The address is above all that the table could say.
    TooHigh,
    /// The source is blocked.
    Blocked,
    /// The source is nobody's.
    Unknown,
}

/// A vendor, its driver and its book.
pub trait Vendor: Sized + Send + Sync + 'static {
    /// The driver on a bed.
    type Driver<B: Bed>: Iommu<Via<B::Platform>> + 'static;
    /// How the driver is set up.
    type Config;
    /// A kind of table, among those that there are.
    type Setting: Copy + Send + Sync;

    /// Every kind of table, by a name for people.
    fn settings() -> Vec<(&'static str, Self::Setting)>;

    /// Why a bed does not have a kind of table; none if it does.
    fn missing<B: Bed>(bed: &B, setting: Self::Setting) -> Option<String>;

    /// The configuration for a bed and a kind of table.
    fn config<B: Bed>(bed: &B, setting: Self::Setting) -> Self::Config;

    /// Brings the driver up.
    ///
    /// # Errors
    ///
    /// It refused.
    fn probe<B: Bed>(
        via: Arc<Via<B::Platform>>,
        registers: ViaRegisters<B::Registers>,
        config: Self::Config,
    ) -> Result<Arc<Self::Driver<B>>, String>;

    /// Turns the hardware off.
    ///
    /// # Errors
    ///
    /// It did not confirm.
    fn teardown<B: Bed>(driver: &Self::Driver<B>) -> Result<(), SyncError>;

    /// What the book may call a refusal of a write or a read.
    fn names(setting: Self::Setting, refusal: Refusal, write: bool) -> &'static [&'static str];

    /// Whether a page can be made that is written and not read.
    fn writes_alone<B: Bed>(bed: &B, setting: Self::Setting) -> bool;

    /// How many faults of one source are kept until somebody takes them.
    fn records<B: Bed>(bed: &B) -> usize;

    /// How many bits of an address a fault record has.
    fn recorded_bits<B: Bed>(_bed: &B) -> u8 {
        64
    }

    /// Why no address can be above what a table says; none if one can.
    fn carries_no_more<B: Bed>(_bed: &B, _setting: Self::Setting) -> Option<String> {
        None
    }

    /// Why no guest's table can be nested; none if one can.
    fn nests_nothing<B: Bed>(bed: &B, setting: Self::Setting) -> Option<String>;

    /// In which ways a guest can write tables that this driver says it walks.
    fn dialects(walks: &GuestTables) -> Vec<Dialect>;

    /// What the book may call it when a guest's table leads where the parent maps nothing, or lies there itself.
    fn lying() -> &'static [&'static str];

    /// What else its book promises.
    fn cases<B: Bed>() -> Vec<Case<B, Self>>;
}
