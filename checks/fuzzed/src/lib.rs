//! What is fuzzed, and what must hold of it.
//!
//! A [`Target`] takes any bytes and makes them into what an adversary could do: a table of firmware's, a device's configuration space, records in a
//! queue, a program's system calls, anybody's stores to a model's registers. It panics if something does not hold that the code promises; that
//! nothing panics by itself, overflows or hangs is the least of it. Each file says in its header what it holds against the code.
//!
//! | target | adversary | driven | file |
//! |---|---|---|---|
//! | `fdt` | firmware | device trees | `fdt` |
//! | `dmar` | firmware | ACPI's DMAR | `dmar` |
//! | `iort` | firmware | ACPI's IORT, and the machine that it describes | `iort` |
//! | `pci` | devices | enumeration, groups, address services, resets | `pci` |
//! | `queues` | hardware | the SMMUv3 driver's event and PRI queues | `queues` |
//! | `vfio` | a program | system calls, on a whole machine | `vfio` |
//! | `smmuv3` | software and devices | the SMMUv3 model | `smmuv3` |
//! | `smmuv2` | software and devices | the SMMUv2 model | `smmuv2` |
//! | `vtd` | software and devices | the VT-d model | `vtd` |
//! | `phb3` | software and devices | the PHB3 model | `phb3` |
//!
//! The same functions run in two places: under cargo-fuzz, which looks for new inputs (`fuzz/`, `cargo xtask fuzz`), and in this crate's tests, which run
//! the inputs that were found before (`fuzz/corpus`) and some drawn ones.
#![forbid(unsafe_code)]
#![expect(clippy::cast_possible_truncation, reason = "words of an input are cut on purpose")]

mod bytes;
mod dmar;
mod fdt;
mod iort;
mod pci;
mod phb3;
mod queues;
mod smmuv2;
mod smmuv3;
mod unit;
mod vfio;
mod vtd;

/// Something that takes any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its corpus.
    pub name: &'static str,
    /// Runs one input. Panics if something does not hold that should.
    pub run: fn(&[u8]),
    /// How many drawn inputs a test can run in about a second.
    pub drawn: u32,
    /// How long drawn inputs are at most: enough for all that one input can reach.
    pub most_bytes: usize,
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "fdt", run: fdt::run, drawn: 3000, most_bytes: 40 },
    Target { name: "dmar", run: dmar::run, drawn: 10000, most_bytes: 300 },
    Target { name: "iort", run: iort::run, drawn: 3000, most_bytes: 200 },
    Target { name: "pci", run: pci::run, drawn: 3000, most_bytes: 300 },
    Target { name: "queues", run: queues::run, drawn: 1000, most_bytes: 400 },
    Target { name: "vfio", run: vfio::run, drawn: 120, most_bytes: 600 },
    Target { name: "smmuv3", run: smmuv3::run, drawn: 800, most_bytes: 1000 },
    Target { name: "smmuv2", run: smmuv2::run, drawn: 800, most_bytes: 1000 },
    Target { name: "vtd", run: vtd::run, drawn: 2500, most_bytes: 1000 },
    Target { name: "phb3", run: phb3::run, drawn: 1500, most_bytes: 1000 },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
