//! Core's own events, for whoever listens.

use portcullis_hal::Platform;
use portcullis_types::trace::{Event, Value};

/// Says that `name` happened to the device `dev`, which is the first field of each of core's events.
pub(crate) fn say<P: Platform>(
    platform: &P,
    name: &'static str,
    dev: &str,
    particulars: &[(&'static str, Value<'_>)],
) {
    if !platform.listening() {
        return;
    }
    const MOST: usize = 7;
    let mut fields = [("dev", Value::Str(dev)); MOST];
    let count = particulars.len().min(MOST - 1);
    fields[1..=count].copy_from_slice(&particulars[..count]);
    platform.event(&Event { source: "core", name, fields: &fields[..=count] });
}
