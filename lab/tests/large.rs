//! A large file costs time, not memory.

use std::fs;
use std::io::Write;

use portcullis::core::domain::FlushMode;
use portcullis_lab::input::Input;
use portcullis_lab::machine::builtin;
use portcullis_lab::trace;
use portcullis_lab::workload::dma::{Job, run};

/// A file that goes away with its owner.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn of_megabytes(count: u32) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-large-{}", std::process::id()));
        let mut file = fs::File::create(&path).unwrap();
        for megabyte in 0..count {
            let bytes: Vec<u8> =
                (0..1u32 << 18).flat_map(|word| (word ^ megabyte << 20).to_le_bytes()).collect();
            file.write_all(&bytes).unwrap();
        }
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_of_32_mib_takes_no_more_tables_than_one_of_2() {
    let measure = |megabytes: u32| {
        let file = Scratch::of_megabytes(megabytes);
        let input = Input::File(file.0.clone()).open().unwrap();
        let spec = builtin::find("arm").unwrap();
        let sink = trace::shared(None);
        let mode = FlushMode::Strict;
        let job =
            Job { spec, device_tree: None, input: &input, seed: 3, mode, sink, tamper: None, progress: None };
        run(&job).unwrap().counters
    };
    let (small, large) = (measure(2), measure(32));
    assert!(large.device_wrote_bytes >= 32 << 20);
    assert_eq!(large.table_bytes, small.table_bytes);
    assert!(
        large.memory_bytes <= small.memory_bytes + (1 << 20),
        "{} and {}",
        small.memory_bytes,
        large.memory_bytes
    );
}
