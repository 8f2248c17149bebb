//! What ends the kernel with a status other than 0.

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Debug, Display};

/// Something is not as it should be, in words.
pub(crate) struct Wrong(pub(crate) String);

impl Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// For `map_err`: what was being done when an error came.
pub(crate) fn doing<E: Debug>(what: &'static str) -> impl Fn(E) -> Wrong {
    move |error| Wrong(format!("{what}: {error:?}"))
}

/// An error unless `holds`.
macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err($crate::error::Wrong(alloc::format!($($what)*)));
        }
    };
}

pub(crate) use ensure;
