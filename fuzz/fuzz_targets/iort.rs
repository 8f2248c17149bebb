//! `iort`: ACPI's IORT. What is done and what must hold is in `checks/fuzzed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (portcullis_fuzzed::target("iort").expect("it is a target").run)(input);
});
