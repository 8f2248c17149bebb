//! Tables that processes and devices share, with the shipped driver on the models: parts 1, 5 to 8, 11, 13, 14, 18, 19.

use std::io;
use std::sync::Arc;

use model_cpu::CpuFeatures;
use portcullis::accel::{Algorithm, Status};
use portcullis::core::mm::ProcessMemory;
use portcullis::types::{Iova, IovaRange, Perms, SizeLg2};
use portcullis_checks::sva::before::Model;
use portcullis_checks::sva::plan::{Plan, accelerator};
use portcullis_checks::sva::rig::Rig;
use portcullis_checks::sva::tables::look_up;
use portcullis_checks::sva::watched::Watched;
use portcullis_checks::sva::work::{Client, bind, job, text, unbind};
use portcullis_lab::process::{Backing, Mapping, Source};
use portcullis_lab::trace::Memory;

const RIGHT: [String; 0] = [];

fn process(rig: &Rig) -> Watched {
    Watched::new(&rig.kernel, &rig.judge).unwrap()
}

/// Zeroes, where the kernel likes: near the top of what a process can have.
fn high(process: &Watched, len_bytes: u64) -> IovaRange {
    let mapping = Mapping { at: None, len_bytes, perms: Perms::READ_WRITE, source: Source::Anonymous };
    process.map(&mapping).unwrap()
}

/// A device copies 5 pages of a process's, high up, and what it wrote is what the process reads. Answers where.
fn copies(rig: &Rig, device: usize) -> (IovaRange, IovaRange) {
    let process = process(rig);
    let len = 5 * rig.kernel.page_bytes() - 77;
    let (source, dest) = (high(&process, len), high(&process, len));
    let bytes = text(9, len);
    process.write(source.first(), &bytes).unwrap();
    let mut client = Client::open(rig, &process, device).unwrap();
    let outcome = client.run(rig, job(Algorithm::Copy, source.first(), len, dest.first(), len)).unwrap();
    assert_eq!((outcome.status, outcome.produced), (Status::Done, len));
    assert_eq!(process.read(dest.first(), bytes.len()).unwrap(), bytes);
    let moved = rig.accels[device].moved(client.pasid);
    assert!(moved.read_bytes >= len && moved.written_bytes >= len, "through the IOMMU: {moved:?}");
    client.close(rig).unwrap();
    process.exit();
    (source, dest)
}

#[test]
fn part_11_devices_walk_processes_tables_of_every_granule_and_52_bits() {
    let wide = |page| Plan { page, ..Plan::new(2).large() };
    let five = |seed| {
        let mut plan = Plan::x86(seed);
        let cpus = plan.pc.iter_mut().flat_map(|pc| &mut pc.cpus);
        cpus.for_each(|cpu| cpu.five_levels = true);
        plan
    };
    let plans = [
        (Plan::new(1), 48),
        (Plan::new(1).pages_of(SizeLg2::KIB_16), 48),
        (Plan::new(1).pages_of(SizeLg2::KIB_64), 48),
        (wide(SizeLg2::KIB_4), 52),
        (wide(SizeLg2::KIB_16), 52),
        (wide(SizeLg2::KIB_64), 52),
        // Of x86's, the lower half.
        (Plan::x86(1), 47),
        (five(1), 56),
    ];
    for (plan, bits) in plans {
        let page = plan.page;
        let rig = Rig::new(plan).unwrap();
        for device in 0..rig.accels.len() {
            let (source, _) = copies(&rig, device);
            // Within 1/128 of the end of what so many bits can say.
            assert_eq!(source.first().get() >> (bits - 7), 0x7f, "{page:?}, {bits} bits: {source:?}");
        }
        assert_eq!(rig.finish(), RIGHT, "{page:?}, {bits} bits");
    }
}

#[test]
fn part_1_a_process_has_one_pasid_at_all_its_devices_and_never_0() {
    let mut of_a_pc = Plan::x86(3);
    of_a_pc.pcie.push(accelerator(4));
    for plan in [Plan::new(3), of_a_pc] {
        let rig = Rig::new(plan).unwrap();
        let (one, other) = (process(&rig), process(&rig));
        let bonds = [bind(&rig, &one, 0), bind(&rig, &one, 1), bind(&rig, &other, 0)].map(Result::unwrap);
        let pasids = bonds.each_ref().map(|bond| bond.pasid().get());
        assert!(pasids[0] == pasids[1] && pasids[0] != pasids[2] && !pasids.contains(&0), "{pasids:?}");
        for (device, bond) in [0, 1, 0].into_iter().zip(&bonds) {
            unbind(&rig, device, bond).unwrap();
        }
        drop(bonds);
        [one, other].iter().for_each(Watched::exit);
        assert_eq!(rig.finish(), RIGHT);
    }
}

/// A file's bytes, in memory.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Backing for Bytes {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let first = usize::try_from(offset).map_err(io::Error::other)?;
        into.copy_from_slice(&self.0[first..first + into.len()]);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn part_5_devices_have_files_read_stacks_grow_and_shared_pages_copied() {
    for (plan, device) in [(Plan::new(4), 0), (Plan::new(4), 1), (Plan::x86(4), 0)] {
        let rig = Rig::new(plan).unwrap();
        let parent = process(&rig);
        let bytes = text(1, 0x3000);
        let file = rig.kernel.open(Box::new(Bytes(bytes.clone())));
        let of_file = |source| Mapping { at: None, len_bytes: 0x3000, perms: Perms::READ_WRITE, source };
        let private = parent.map(&of_file(Source::Private { file, offset_bytes: 0 })).unwrap();
        let stack = Mapping {
            at: None,
            len_bytes: 0x1000,
            perms: Perms::READ_WRITE,
            source: Source::Stack { limit_bytes: 0x8000 },
        };
        let stack = parent.map(&stack).unwrap();
        let below = Iova::new(stack.first().get() - 0x3000);
        let mut client = Client::open(&rig, &parent, device).unwrap();
        // Demand paging from a file, and growth downwards.
        let down = client.run(&rig, job(Algorithm::Copy, private.first(), 0x3000, below, 0x3000)).unwrap();
        assert_eq!(down.status, Status::Done);
        assert_eq!(parent.read(below, 0x3000).unwrap(), bytes);
        // Copy on write: the child keeps what was.
        let child = parent.fork().unwrap();
        let fill = client
            .run(&rig, job(Algorithm::Fill(7), private.first(), 0x3000, private.first(), 0x3000))
            .unwrap();
        assert_eq!(fill.status, Status::Done);
        assert_eq!(child.read(private.first(), 0x3000).unwrap(), bytes);
        assert_eq!(parent.read(private.first(), 0x3000).unwrap(), [7; 0x3000]);
        // What an area does not allow, nobody gets.
        parent.protect(private, Perms::READ).unwrap();
        let refused =
            client.run(&rig, job(Algorithm::Fill(8), private.first(), 16, private.first(), 16)).unwrap();
        assert_eq!(refused.status, Status::DestFault);
        client.close(&rig).unwrap();
        parent.exit();
        child.exit();
        assert_eq!(rig.finish(), RIGHT);
    }
}

#[test]
fn part_7_an_asid_that_is_pinned_survives_the_rollover_under_dma() {
    let small = CpuFeatures { asid_bits: 8, ..CpuFeatures::COMMON };
    let mut plan = Plan { cpus: vec![small; 2], ..Plan::new(5) };
    plan.smmu.asid_16_bits = false;
    let rig = Rig::new(plan).unwrap();
    let bound = process(&rig);
    let dest = bound.map_zeroes(0x1000).unwrap();
    let mut client = Client::open(&rig, &bound, 1).unwrap();
    let asid = bound.process().pin_asid().unwrap();
    bound.process().unpin_asid();
    for number in 0..600 {
        // Each runs, and so gets an ASID: there are not enough of them.
        let other = process(&rig);
        let page = other.map_zeroes(0x1000).unwrap();
        other.write(page.first(), &[1]).unwrap();
        if number % 100 == 0 {
            let byte = u8::try_from(number / 100).unwrap();
            let fill = job(Algorithm::Fill(byte), dest.first(), 64, dest.first(), 64);
            assert_eq!(client.run(&rig, fill).unwrap().status, Status::Done);
            assert_eq!(bound.read(dest.first(), 64).unwrap(), [byte; 64]);
        }
        other.exit();
    }
    assert_eq!(bound.process().pin_asid(), Ok(asid));
    bound.process().unpin_asid();
    client.close(&rig).unwrap();
    bound.exit();
    assert_eq!(rig.finish(), RIGHT);
}

/// The commands that an unmap of a page costs, by name, where hardware has what it needs.
fn unmap_commands(plan: Plan, device: usize) -> Vec<(&'static str, u64)> {
    let rig = Rig::new(plan).unwrap();
    let process = process(&rig);
    let dest = process.map_zeroes(0x1000).unwrap();
    let mut client = Client::open(&rig, &process, device).unwrap();
    let fill = job(Algorithm::Fill(1), dest.first(), 64, dest.first(), 64);
    assert_eq!(client.run(&rig, fill).unwrap().status, Status::Done);
    let before = rig.iommu.smmu().counters().commands;
    process.unmap(dest).unwrap();
    rig.step(4);
    let after = rig.iommu.smmu().counters().commands;
    let more =
        |(&name, &count): (&&'static str, &u64)| (name, count - before.get(name).copied().unwrap_or(0));
    let costs = after.iter().map(more).filter(|(_, count)| *count > 0).collect();
    // The device has it no more, whichever way it was told.
    assert_eq!(client.run(&rig, fill).unwrap().status, Status::DestFault);
    client.close(&rig).unwrap();
    process.exit();
    assert_eq!(rig.finish(), RIGHT);
    costs
}

#[test]
fn part_14_with_broadcasts_only_atcs_are_told_and_without_both() {
    let plan = || Plan::new(6);
    assert_eq!(unmap_commands(plan().broadcasting(), 0), [("CMD_ATC_INV", 1), ("CMD_SYNC", 1)]);
    assert_eq!(unmap_commands(plan().broadcasting(), 1), []);
    let both = [("CMD_ATC_INV", 1), ("CMD_SYNC", 2), ("CMD_TLBI_NH_VA", 1)];
    assert_eq!(unmap_commands(plan(), 0), both);
    assert_eq!(unmap_commands(Plan { listen: false, ..plan().broadcasting() }, 0), both);
    assert_eq!(unmap_commands(plan(), 1), [("CMD_SYNC", 1), ("CMD_TLBI_NH_VA", 1)]);
}

#[test]
fn part_13_under_vhe_entries_are_tagged_and_forgotten_as_those_of_el2() {
    assert_eq!(unmap_commands(Plan::new(7).vhe(), 1), [("CMD_SYNC", 1), ("CMD_TLBI_EL2_VA", 1)]);
    assert_eq!(unmap_commands(Plan::new(7).vhe().broadcasting(), 1), []);
    let rig = Rig::new(Plan::new(7).vhe()).unwrap();
    copies(&rig, 0);
    copies(&rig, 1);
    assert_eq!(rig.finish(), RIGHT);
}

/// How often hardware has made an entry dirty; none if it does not count that.
fn dirty_updates(rig: &Rig) -> Option<u64> {
    match &rig.iommu {
        Model::Smmu(smmu) => Some(smmu.counters().dirty_updates),
        Model::Vtd(_) => None,
    }
}

#[test]
fn part_19_a_device_s_write_marks_a_shared_page_dirty_without_a_fault() {
    for (plan, device) in [(Plan::new(8).marking(), 0), (Plan::new(8).marking(), 1), (Plan::x86(8), 0)] {
        let rig = Rig::new(plan).unwrap();
        let process = process(&rig);
        let file = rig.kernel.open(Box::new(Bytes(vec![3; 0x1000])));
        let source = Source::Shared { file, offset_bytes: 0 };
        let mapping = Mapping { at: None, len_bytes: 0x1000, perms: Perms::READ_WRITE, source };
        let shared = process.map(&mapping).unwrap();
        drop(mapping);
        let leaf = || look_up(&rig.bus, &process.process().table(), shared.first().get()).unwrap();
        let mut client = Client::open(&rig, &process, device).unwrap();
        let sum = job(Algorithm::Sum, shared.first(), 0x1000, shared.first(), 0);
        assert_eq!(client.run(&rig, sum).unwrap().status, Status::Done);
        let clean = leaf();
        assert!(clean.writable && !clean.dirty, "read, and writable as soon as hardware notes it: {clean:?}");
        let (faults, marked) = (rig.iommu.counted().faults, dirty_updates(&rig));
        let before = process.process().usage().faults;
        let fill = job(Algorithm::Fill(9), shared.first(), 16, shared.first(), 16);
        assert_eq!(client.run(&rig, fill).unwrap().status, Status::Done);
        assert!(leaf().dirty, "the IOMMU marked it: no CPU has been there");
        assert_eq!(rig.iommu.counted().faults, faults);
        // The ring's page is the process's own, and was dirty from the start.
        assert_eq!(dirty_updates(&rig), marked.map(|count| count + 1));
        assert_eq!(process.process().usage().faults, before);
        client.close(&rig).unwrap();
        process.exit();
        assert_eq!(rig.finish(), RIGHT);
    }
}

#[test]
fn part_18_what_atcs_are_told_covers_what_went() {
    let sink = Arc::new(Memory::default());
    let mut plan = Plan::new(9).pcie_only();
    plan.pcie = vec![accelerator(1)];
    let rig = Rig::with(plan, None, sink.clone()).unwrap();
    let process = process(&rig);
    let run = process.map_zeroes(0x40_000).unwrap();
    let mut client = Client::open(&rig, &process, 0).unwrap();
    let fill = job(Algorithm::Fill(1), run.first(), 0x4_0000, run.first(), 0x4_0000);
    assert_eq!(client.run(&rig, fill).unwrap().status, Status::Done);
    for (page, count) in [(0, 1), (3, 1), (7, 2), (10, 3), (15, 2), (31, 2), (40, 5), (50, 14)] {
        let gone = IovaRange::new(Iova::new(run.first().get() + 0x1000 * page), 0x1000 * count).unwrap();
        let heard = sink.lines().len();
        process.unmap(gone).unwrap();
        let told: Vec<(u64, u64)> = sink.lines()[heard..].iter().filter_map(|line| atc_span(line)).collect();
        let covered =
            told.iter().any(|&(first, last)| first <= gone.first().get() && gone.last().get() <= last);
        assert!(covered, "{gone:x?} by {told:x?}");
        assert_eq!(told.len(), 1, "one command: {told:x?}");
    }
    client.close(&rig).unwrap();
    process.exit();
    assert_eq!(rig.finish(), RIGHT);
}

/// What an invalidation to an ATC is about, if a line of the trace is one.
fn atc_span(line: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let rest = line.split_once(&format!(" {name}="))?.1;
        rest.split_whitespace().next().map(str::to_owned)
    };
    if !line.contains(" atc_invalidate:") {
        return None;
    }
    let first = u64::from_str_radix(field("addr")?.trim_start_matches("0x"), 16).ok()?;
    let size: u32 = field("size_lg2")?.parse().ok()?;
    let last = if size >= 64 { u64::MAX } else { first + ((1 << size) - 1) };
    assert!(size >= 64 || first & ((1 << size) - 1) == 0, "aligned to its size: {line}");
    Some((first, last))
}
