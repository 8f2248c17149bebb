//! A report as a table for people, or as a line of JSON for scripts.

use portcullis_lab::Report;

use super::{columns, grouped};
use crate::failure::Failure;

/// How many digits of a digest people get to see.
const DIGEST_DIGITS: usize = 16;

/// The report as a table.
pub(crate) fn table(report: &Report) -> String {
    let counters = &report.counters;
    let row = |name: &str, value: String| [name.to_owned(), value];
    let digest = report.digest.get(..DIGEST_DIGITS).unwrap_or(&report.digest);
    let verdict = if report.equal { "equal" } else { "DIFFERENT" };
    columns(&[
        row("machine", format!("{} (seed {})", report.machine, report.seed)),
        row("workload", report.workload.to_string()),
        row("input", report.input.clone()),
        row("bytes", grouped(report.bytes)),
        row("digest", format!("{verdict} (sha256 {digest}…)")),
        row(
            "through the IOMMU",
            format!(
                "{} bytes written by the device, {} read",
                grouped(counters.device_wrote_bytes),
                grouped(counters.device_read_bytes)
            ),
        ),
        row("maps", grouped(counters.maps)),
        row("unmaps", grouped(counters.unmaps)),
        row("commands", grouped(counters.commands)),
        row("invalidations", grouped(counters.invalidations)),
        row("syncs", grouped(counters.syncs)),
        row("interrupts", grouped(counters.interrupts)),
        row("faults", grouped(counters.faults)),
        row(
            "probes blocked",
            format!("{} of {}", grouped(counters.probes_blocked), grouped(counters.probes)),
        ),
        row("table memory", format!("{} bytes at most", grouped(counters.table_bytes))),
        row("time", format!("{:.3} s", report.elapsed().as_secs_f64())),
    ])
}

/// The report as one line of JSON.
pub(crate) fn json(report: &Report) -> Result<String, Failure> {
    serde_json::to_string(report).map(|line| line + "\n").map_err(|error| Failure::Output(error.into()))
}
