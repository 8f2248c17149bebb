//! `queues`: records of the SMMUv3's event and PRI queues. What is done and what must hold is in `checks/fuzzed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (portcullis_fuzzed::target("queues").expect("it is a target").run)(input);
});
