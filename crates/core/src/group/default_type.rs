//! The default domain of a group: what it is, and changing that, in the words of sysfs.
//!
//! Observed: Linux 7.3, `iommu_group_store_type`: the words, and what may change while drivers are bound.

use alloc::sync::Arc;
use core::fmt;
use core::str::FromStr;

use portcullis_hal::Platform;
use portcullis_types::trace::Value;

use super::{Group, GroupError, State};
use crate::domain::{Domain, DomainType, FlushMode};
use crate::iommu::DomainError;
use crate::trace;

/// In which domain a group is while ordinary drivers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultDomain {
    /// Addresses are physical.
    Identity,
    /// Translated.
    Dma(FlushMode),
}

/// Which default domain somebody wishes for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultType {
    /// This one.
    This(DefaultDomain),
    /// The one that the group was made with.
    Auto,
}

/// The word is none of `identity`, `DMA`, `DMA-FQ`, `auto`. EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord;

impl DefaultDomain {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Dma(FlushMode::Strict) => "DMA",
            Self::Dma(FlushMode::Lazy) => "DMA-FQ",
        }
    }

    const fn domain_type(self) -> DomainType {
        match self {
            Self::Identity => DomainType::Identity,
            Self::Dma(mode) => DomainType::Dma(mode),
        }
    }
}

impl fmt::Display for DefaultDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for DefaultType {
    type Err = UnknownWord;

    /// The word, with or without the end of a line.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let all = [
            DefaultDomain::Identity,
            DefaultDomain::Dma(FlushMode::Strict),
            DefaultDomain::Dma(FlushMode::Lazy),
        ];
        match word.strip_suffix('\n').unwrap_or(word) {
            "auto" => Ok(Self::Auto),
            word => all.into_iter().find(|kind| kind.word() == word).map(Self::This).ok_or(UnknownWord),
        }
    }
}

/// Why the default domain is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DefaultTypeError {
    /// The group is held, so often. EPERM.
    InUse(usize),
    /// The group is in another domain than the default. EBUSY.
    OtherDomain,
    /// PASIDs of the group mean something. EBUSY.
    PasidsInUse,
    /// There is no such domain. The errno of the error.
    Domain(DomainError),
    /// The devices were not attached. The errno of the error.
    Attach(GroupError),
}

impl<P: Platform> Group<P> {
    /// What the default domain is; none if there is none yet.
    pub fn default_type(&self) -> Option<DefaultDomain> {
        self.lock().kind
    }

    /// Makes the default domain another, if nobody holds the group. From DMA to DMA-FQ it goes at any time: the domain stays the same one,
    /// and so do the mappings that drivers have there.
    ///
    /// # Errors
    ///
    /// As [`DefaultTypeError`] says; then the default domain is as before.
    pub fn set_default_type(&self, wanted: DefaultType) -> Result<(), DefaultTypeError> {
        let kind = match wanted {
            DefaultType::This(kind) => kind,
            DefaultType::Auto => self.boot,
        };
        if self.settled(&mut self.lock(), kind)? {
            return Ok(());
        }
        // Made without the lock, because it may take memory; looked at again with it.
        let domain = self.new_default(kind).map_err(DefaultTypeError::Domain)?;
        let mut state = self.lock();
        if self.settled(&mut state, kind)? {
            return Ok(());
        }
        self.move_all(&mut state, &domain).map_err(DefaultTypeError::Attach)?;
        let before = core::mem::replace(&mut state.default, domain);
        state.left.push(before);
        state.stuck = false;
        self.now(&mut state, kind);
        Ok(())
    }

    pub(super) fn new_default(&self, kind: DefaultDomain) -> Result<Arc<Domain<P>>, DomainError> {
        Domain::new(self.platform.clone(), self.iommu.clone(), kind.domain_type())
    }

    /// Whether there is nothing more to do; an error if nothing may be done.
    fn settled(&self, state: &mut State<P>, kind: DefaultDomain) -> Result<bool, DefaultTypeError> {
        if state.kind == Some(kind) {
            return Ok(true);
        }
        let lazier = (DefaultDomain::Dma(FlushMode::Strict), DefaultDomain::Dma(FlushMode::Lazy));
        if state.kind == Some(lazier.0) && kind == lazier.1 && state.default.make_lazy() {
            self.now(state, kind);
            return Ok(true);
        }
        match state.ledger.count() {
            0 if !state.at_rest() => Err(DefaultTypeError::OtherDomain),
            0 if !state.pasids.is_empty() => Err(DefaultTypeError::PasidsInUse),
            0 => Ok(false),
            count => Err(DefaultTypeError::InUse(count)),
        }
    }

    fn now(&self, state: &mut State<P>, kind: DefaultDomain) {
        state.kind = Some(kind);
        let fields = [("group", Value::Dec(self.id.into())), ("type", Value::Str(kind.word()))];
        trace::say(&*self.platform, "default_type", "", &fields);
    }
}
