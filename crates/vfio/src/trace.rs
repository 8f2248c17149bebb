//! VFIO's events, for whoever listens.

use portcullis_hal::Platform;
use portcullis_types::trace::{Event, Value};

pub(crate) fn say<P: Platform>(platform: &P, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
    if platform.listening() {
        platform.event(&Event { source: "vfio", name, fields });
    }
}
