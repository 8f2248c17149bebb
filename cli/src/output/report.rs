//! A report as a table for people, or as a line of JSON for scripts.

use portcullis_lab::Report;
use portcullis_lab::report::{SpaprCounters, SvaCounters, VfioCounters};
use portcullis_types::PageSizes;

use super::{columns, grouped, listed, visible};
use crate::failure::Failure;

/// How many digits of a digest people get to see.
const DIGEST_DIGITS: usize = 16;

/// The report as a table.
pub(crate) fn table(report: &Report) -> String {
    let counters = &report.counters;
    let digest = report.digest.get(..DIGEST_DIGITS).unwrap_or(&report.digest);
    let killed = counters.sva.is_some_and(|sva| sva.killed);
    let verdict = match (killed, report.equal) {
        _ if counters.vfio.is_some_and(|vfio| vfio.killed) => {
            "equal, as the kernel read it after the process was killed"
        }
        (true, _) => "not compared: the process was killed, as it was to be",
        (false, true) => "equal",
        (false, false) => "DIFFERENT",
    };
    // QEMU's disk does not count its bytes.
    let counted = report.not_shown.is_empty();
    let device = match counted {
        true => format!(
            "{} bytes written by the device, {} read",
            grouped(counters.device_wrote_bytes),
            grouped(counters.device_read_bytes)
        ),
        false => "all of it; QEMU's disk does not count its bytes".into(),
    };
    let mut rows = vec![
        row("machine", format!("{} (seed {})", report.machine, report.seed)),
        row("workload", report.workload.to_string()),
        row("input", visible(&report.input)),
        row("bytes", grouped(report.bytes)),
        row("digest", format!("{verdict} (sha256 {digest}…)")),
        row("through the IOMMU", device),
    ];
    match &counters.sva {
        Some(sva) => rows.extend(sharing(sva)),
        None => rows.extend([row("maps", grouped(counters.maps)), row("unmaps", grouped(counters.unmaps))]),
    }
    rows.extend(counters.vfio.iter().flat_map(|vfio| handing_over(vfio, counted)));
    rows.extend(counters.spapr.iter().flat_map(own_windows));
    // Not every IOMMU has a queue of commands.
    let queued = |name, count| (counters.commands > 0).then(|| row(name, grouped(count)));
    rows.extend(queued("commands", counters.commands));
    rows.push(row("invalidations", grouped(counters.invalidations)));
    rows.extend(queued("syncs", counters.syncs));
    if counters.sva.is_none() {
        rows.push(row("interrupts", grouped(counters.interrupts)));
        rows.push(row("faults", grouped(counters.faults)));
    }
    rows.extend([
        row(
            "probes blocked",
            format!("{} of {}", grouped(counters.probes_blocked), grouped(counters.probes)),
        ),
        row("registers", format!("{} accesses", grouped(counters.register_accesses))),
        row("table memory", format!("{} bytes at most", grouped(counters.table_bytes))),
        row("time", format!("{:.3} s", report.elapsed().as_secs_f64())),
    ]);
    rows.extend(report.not_shown.iter().map(|what| row("not shown", (*what).into())));
    columns(&rows)
}

/// What sharing a process's memory took.
fn sharing(sva: &SvaCounters) -> Vec<[String; 2]> {
    let SvaCounters { device, pasid, .. } = sva;
    let by_pasid = format!(
        "{} bytes written, {} read, of them {} of output",
        grouped(sva.pasid_wrote_bytes),
        grouped(sva.pasid_read_bytes),
        grouped(sva.output_bytes)
    );
    let answers = format!(
        "{} success, {} invalid, {} failure",
        grouped(sva.responses_success),
        grouped(sva.responses_invalid),
        grouped(sva.responses_failure)
    );
    vec![
        row("accelerator", format!("{device}, PASID {pasid}")),
        row("with the PASID", by_pasid),
        row("page requests", grouped(sva.page_requests)),
        row("answers", answers),
        row("retries", grouped(sva.retries)),
        row("stalls", grouped(sva.stalls)),
        row(
            "forgotten",
            format!(
                "{} invalidations of the TLB, {} of devices' own",
                grouped(sva.tlb_invalidations),
                grouped(sva.atc_invalidations)
            ),
        ),
    ]
}

/// What handing a device to user space took. Whether the device's bytes were counted is said.
fn handing_over(vfio: &VfioCounters, counted: bool) -> Vec<[String; 2]> {
    let registers = if vfio.mapped_registers { "mapped" } else { "through the device's file" };
    let to_user = || row("to the user", format!("{} bytes written by the device", grouped(vfio.user_bytes)));
    let mut rows = vec![
        row("user space", format!("group {}, registers {registers}", vfio.group)),
        row("system calls", format!("{}, of them {} ioctls", grouped(vfio.calls), grouped(vfio.ioctls))),
        row("the user's maps", format!("{}, {} unmapped", grouped(vfio.maps), grouped(vfio.unmaps))),
        row("pinned pages", format!("{} at most", grouped(vfio.most_pinned_pages))),
    ];
    rows.extend(counted.then(to_user));
    rows.extend([
        row("event files", format!("{} signals", grouped(vfio.signals))),
        row(
            "refused",
            format!(
                "{} claims and drivers, {} maps: all that were tried",
                grouped(vfio.claims_refused),
                grouped(vfio.maps_refused)
            ),
        ),
    ]);
    rows
}

/// What a user did who makes his own windows.
fn own_windows(spapr: &SpaprCounters) -> Vec<[String; 2]> {
    let mut rows = vec![row("container", format!("spapr_tce, version {}", spapr.version))];
    if spapr.version == 1 {
        rows.push(row("windows", "the default one".into()));
    } else {
        rows.push(row("windows", grouped(spapr.windows)));
    }
    if spapr.reads > 0 {
        let pages: Vec<String> =
            PageSizes::from_bits(spapr.read_page_sizes).iter().map(|size| size.to_string()).collect();
        rows.push(row("read through", format!("windows of pages of {}", listed(&pages, "and"))));
    }
    // A user who is killed has tried nothing out before.
    if spapr.reached > 0 {
        rows.extend([
            row(
                "shapes",
                format!(
                    "{}; {} with a level too many refused",
                    grouped(spapr.shapes),
                    grouped(spapr.levels_refused)
                ),
            ),
            row("reached", format!("{} pages at the ends of windows", grouped(spapr.reached))),
            row("sharing", format!("{} groups", grouped(spapr.groups))),
        ]);
    }
    // Counted by models alone.
    if spapr.kills > 0 {
        rows.extend([
            row("freezes", format!("{}, all by accesses that were tried", grouped(spapr.freezes))),
            row("TCE kills", grouped(spapr.kills)),
        ]);
    }
    rows
}

fn row(name: &str, value: String) -> [String; 2] {
    [name.to_owned(), value]
}

/// The report as one line of JSON.
pub(crate) fn json(report: &Report) -> Result<String, Failure> {
    serde_json::to_string(report).map(|line| line + "\n").map_err(|error| Failure::Output(error.into()))
}
