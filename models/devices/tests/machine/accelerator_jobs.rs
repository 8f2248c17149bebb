//! What jobs come to, in both forms of the accelerator.

use std::sync::Arc;

use model_bus::{Fabric, Stores, Translator, Untranslated};
use model_devices::accelerator::{AcceleratorOptions, PlatformAccelerator};
use portcullis_types::{Pa, SourceId};

use crate::accelerator_rig::{
    AccRig, COPY, DEFLATE, DEST, Ended, FILL, Form, INFLATE, JobWords, PASID, READS, SOURCE, STREAM, SUM,
    WRITES, job, pasid, text,
};
use crate::rig::{RAM, range};

const LENGTHS: [usize; 9] = [0, 1, 2, 4095, 4096, 4097, 8191, 70_000, 300_001];

#[test]
fn what_was_deflated_inflates_to_what_it_was_at_every_boundary() {
    for rig in AccRig::both() {
        for len in LENGTHS {
            let bytes = text(len);
            // Neither begins on a page.
            let (source, small, back) = (SOURCE + 4093, DEST + 4090, DEST + 0x100_0001);
            rig.store(source, &bytes);
            let deflate = JobWords {
                op: DEFLATE,
                source,
                source_bytes: len as u64,
                dest: small,
                dest_bytes: 0x10_0000,
                flags: 2,
            };
            let first = rig.run(deflate);
            assert_eq!((first.status, first.consumed), (1, len as u64), "deflate {len}");
            let inflate = JobWords {
                op: INFLATE,
                source: small,
                source_bytes: first.produced,
                dest: back,
                dest_bytes: len as u64,
                flags: 0,
            };
            let second = rig.run(inflate);
            let expected =
                Ended { status: 1, consumed: first.produced, produced: len as u64, sum: first.sum };
            assert_eq!(second, expected, "inflate {len}");
            assert!(rig.load(back, len) == bytes);
        }
    }
}

#[test]
fn an_empty_input_deflates_to_two_bytes() {
    for rig in AccRig::both() {
        assert_eq!(rig.run(job(DEFLATE, 0, 2)), Ended { status: 1, consumed: 0, produced: 2, sum: 0 });
        assert_eq!(rig.load(DEST, 2), [0x03, 0x00]);
    }
}

#[test]
fn copy_fill_and_sum_report_what_they_did() {
    // CRC-32 of "123456789", and of four bytes of ones.
    for rig in AccRig::both() {
        rig.store(SOURCE, b"123456789");
        assert_eq!(rig.run(job(COPY, 9, 9)), Ended { status: 1, consumed: 9, produced: 9, sum: 0xcbf4_3926 });
        assert_eq!(rig.load(DEST, 9), b"123456789");
        assert_eq!(rig.run(job(SUM, 9, 0)), Ended { status: 1, consumed: 9, produced: 0, sum: 0xcbf4_3926 });
        let filled = rig.run(job(FILL | 0xff00, 4, 4));
        assert_eq!(filled, Ended { status: 1, consumed: 0, produced: 4, sum: 0xffff_ffff });
        assert_eq!(rig.load(DEST, 5), [0xff, 0xff, 0xff, 0xff, b'5']);
        let wide = JobWords { dest: DEST + 0xffe, ..job(FILL | 0x5a00, 0x1_0003, 0x2_0000) };
        assert_eq!(rig.run(wide).produced, 0x1_0003);
        assert_eq!(rig.load(DEST + 0xffe, 0x1_0004), [vec![0x5a; 0x1_0003], vec![0]].concat());
        for op in [COPY, SUM, FILL] {
            assert_eq!(rig.run(job(op, 0, 0)), Ended { status: 1, consumed: 0, produced: 0, sum: 0 });
        }
    }
}

#[test]
fn where_there_is_no_room_the_room_is_filled_and_said() {
    for rig in AccRig::both() {
        rig.store(SOURCE, &text(0x5000));
        let copied = rig.run(job(COPY, 0x5000, 0x1801));
        assert_eq!((copied.status, copied.consumed, copied.produced), (4, 0x1801, 0x1801));
        assert!(rig.load(DEST, 0x1802) == [text(0x1801), vec![0]].concat());
        assert_eq!(rig.run(job(FILL, 5, 4)).status, 4);
        assert_eq!(rig.run(job(COPY, 1, 0)), Ended { status: 4, consumed: 0, produced: 0, sum: 0 });
        assert_eq!(rig.run(job(DEFLATE, 0, 1)).status, 4);
        let small = rig.run(job(DEFLATE, 0x5000, 0x5000)).produced;
        assert_eq!(rig.run(job(DEFLATE, 0x5000, small)).status, 1);
        let short = rig.run(job(DEFLATE, 0x5000, small - 1));
        assert_eq!((short.status, short.produced), (4, small - 1));
        rig.run(job(DEFLATE, 0x5000, 0x5000));
        let inflate = JobWords { source: DEST, dest: SOURCE + 0x10_0000, ..job(INFLATE, small, 0x4fff) };
        let short = rig.run(inflate);
        assert_eq!((short.status, short.produced), (4, 0x4fff));
    }
}

#[test]
fn what_is_no_deflate_stream_is_said_to_be_none() {
    for rig in AccRig::both() {
        rig.store(SOURCE, &[0x07; 100]);
        assert_eq!(rig.run(job(INFLATE, 100, 100)).status, 7);
        assert_eq!(rig.run(job(INFLATE, 0, 100)).status, 7);
        // A stored block that ends before its bytes do.
        rig.store(SOURCE, &[0x01, 0x03, 0x00, 0xfc, 0xff, b'a', b'b', b'c', 9, 9]);
        assert_eq!(rig.run(job(INFLATE, 7, 100)).status, 7);
        let whole = rig.run(job(INFLATE, 10, 100));
        assert_eq!(whole, Ended { status: 1, consumed: 8, produced: 3, sum: 0x3524_41c2 });
    }
}

#[test]
fn a_job_that_makes_no_sense_is_answered_and_touches_nothing() {
    for rig in AccRig::both() {
        let before = rig.counts();
        let wraps = JobWords { source: u64::MAX, ..job(COPY, 2, 2) };
        let dest_wraps = JobWords { dest: u64::MAX - 3, ..job(FILL, 1, 5) };
        for nonsense in [job(0, 1, 1), job(6, 1, 1), job(0x101, 1, 1), job(0x1_0004, 1, 1), wraps, dest_wraps]
        {
            let ended = rig.run(nonsense);
            assert_eq!(ended, Ended { status: 5, consumed: 0, produced: 0, sum: 0 }, "{nonsense:?}");
        }
        assert_eq!(rig.counts().jobs[5] - before.jobs[5], 6);
        assert_eq!(rig.state(0), 1);
    }
}

#[test]
fn the_head_follows_the_jobs_around_the_ring() {
    for rig in AccRig::both() {
        for round in 1..=50u64 {
            let entry = rig.submit(0, job(FILL, round, 64));
            rig.settle();
            assert_eq!((rig.ended(entry).produced, rig.head(0)), (round, round % 32));
        }
        // A queue full of jobs at once.
        let entries: Vec<u64> = (0..16).map(|_| rig.submit(0, job(SUM, 1, 0))).collect();
        rig.settle();
        assert!(entries.iter().all(|&entry| rig.ended(entry).status == 1));
        assert_eq!(rig.head(0), 66 % 32);
    }
}

#[test]
fn an_entry_is_read_once_whatever_a_process_scribbles_on_it() {
    for rig in AccRig::both() {
        rig.store(SOURCE, &text(0x8000));
        let entry = rig.submit(0, job(COPY, 0x8000, 0x8000));
        let (bus, at) = (rig.bus.clone(), Pa::new(crate::accelerator_rig::pa_of(entry)));
        // From inside the fetch of the entry.
        *rig.mmu.in_access.lock().unwrap() =
            Some(Box::new(move || bus.cpu().write(at, &[0xee; 64]).unwrap()));
        rig.settle();
        assert_eq!((rig.ended(entry).status, rig.ended(entry).produced), (1, 0x8000));
        assert_eq!(rig.load(entry, 40), [0xee; 40]);
        assert!(rig.load(DEST, 0x8000) == text(0x8000));
    }
}

#[test]
fn every_byte_of_a_job_carries_the_queues_pasid() {
    for rig in AccRig::both() {
        rig.store(SOURCE, &text(5000));
        rig.run(job(COPY, 5000, 5000));
        // An entry of 64 bytes and 24 bytes of report.
        let moved = match &rig.form {
            Form::Pcie(device) => device.moved(pasid().unwrap()),
            Form::Platform(device) => device.moved(pasid().unwrap()),
        };
        assert_eq!((moved.read_bytes, moved.written_bytes), (5064, 5024));
        let traffic = match &rig.form {
            Form::Pcie(device) => device.traffic(),
            Form::Platform(device) => device.traffic(),
        };
        assert_eq!((traffic.read_bytes, traffic.written_bytes, traffic.failed), (5064, 5024, 0));
        let table = rig.mmu.table();
        assert!(table.untranslated.iter().all(|request| request.pasid == pasid()));
        assert!(table.translated.iter().all(|request| request.pasid == pasid() && request.source == STREAM));
        match rig.form {
            Form::Pcie(_) => assert!(table.untranslated.is_empty() && !table.translated.is_empty()),
            Form::Platform(_) => {
                let right = |request: &model_bus::Request| {
                    let write = request.access == portcullis_types::Access::WRITE;
                    request.source == if write { WRITES } else { READS }
                };
                assert!(!table.untranslated.is_empty() && table.untranslated.iter().all(right));
            }
        }
    }
}

#[test]
fn a_queue_without_a_valid_pasid_sends_none() {
    for rig in AccRig::both() {
        rig.start(1, None);
        let entry = rig.submit(1, job(SUM, 9, 0));
        rig.settle();
        assert_eq!(rig.ended(entry).status, 1);
        let table = rig.mmu.table();
        let mut pasids = table.untranslated.iter().map(|request| request.pasid);
        let mut translated = table.translated.iter().map(|request| request.pasid);
        assert!(pasids.all(|pasid| pasid.is_none()) && translated.all(|pasid| pasid.is_none()));
    }
}

#[test]
fn a_pasid_with_too_many_bits_goes_nowhere() {
    let options = AcceleratorOptions { pasid_bits: 3, ..AcceleratorOptions::default() };
    for rig in [AccRig::pcie(&options), AccRig::platform(&options)] {
        rig.mmu.table().open = true;
        rig.start(0, Some(8));
        rig.submit(0, job(SUM, 1, 0));
        rig.settle();
        assert_eq!((rig.state(0), rig.error(0)), (3, AccRig::ring(0) | 1));
        let table = rig.mmu.table();
        assert!(
            table.untranslated.is_empty() && table.translated.is_empty() && table.translations.is_empty()
        );
        drop(table);
        rig.start(1, Some(PASID));
        let entry = rig.submit(1, job(SUM, 1, 0));
        rig.settle();
        assert_eq!(rig.ended(entry).status, 1);
    }
}

#[test]
fn without_an_iommu_addresses_are_physical() {
    let mut options = model_bus::BusOptions::new(range(RAM, 0x40_0000), 3);
    options.stores = Stores::Direct;
    let bus = model_bus::Bus::new(&options);
    let (translator, fabric): (Arc<dyn Translator>, Arc<dyn Fabric>) = (Arc::new(Untranslated), bus.clone());
    let sink = Arc::new(portcullis_types::trace::Silence);
    let sources = [SourceId(1), SourceId(2)];
    let device =
        PlatformAccelerator::new(&AcceleratorOptions::default(), sources, &translator, &fabric, sink);
    device.connect(&bus, Pa::new(0x0a00_0000)).unwrap();
    bus.add_clocked(device.clone());
    let set = |at: u64, value| {
        bus.write_register(Pa::new(0x0a00_0000 + at), model_bus::Width::Bits64, value).unwrap();
    };
    let mut entry = vec![0; 64];
    entry[..4].copy_from_slice(&0x2a04u32.to_le_bytes());
    entry[16..24].copy_from_slice(&3u64.to_le_bytes());
    entry[24..32].copy_from_slice(&(RAM + 0x2000).to_le_bytes());
    entry[32..40].copy_from_slice(&3u64.to_le_bytes());
    bus.cpu().write(Pa::new(RAM), &entry).unwrap();
    set(0x10, 1);
    set(0x1008, RAM);
    set(0x1010, 1);
    set(0x1018, 1);
    set(0x8000, 1);
    assert!(bus.settle(1000));
    let mut bytes = [0; 4];
    bus.cpu().read(Pa::new(RAM + 0x2000), &mut bytes).unwrap();
    assert_eq!(bytes, [0x2a, 0x2a, 0x2a, 0]);
    assert_eq!(device.counts().jobs[1], 1);
    bus.dismantle();
}

#[test]
fn what_happens_is_said() {
    let [rig, _] = AccRig::both();
    rig.run(job(SUM, 9, 0));
    assert!(rig.ear.heard("model.accelerator job: queue=0 pasid=7 op=sum"));
    assert!(rig.ear.heard("model.accelerator job_done: queue=0 pasid=7 status=1 consumed=9 produced=0"));
}
