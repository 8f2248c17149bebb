//! `fdt`: device trees of firmware. What is done and what must hold is in `checks/fuzzed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (portcullis_fuzzed::target("fdt").expect("it is a target").run)(input);
});
