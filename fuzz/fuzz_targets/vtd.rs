//! `vtd`: the VT-d model. What is done and what must hold is in `checks/fuzzed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (portcullis_fuzzed::target("vtd").expect("it is a target").run)(input);
});
