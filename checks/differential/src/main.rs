//! `cargo xtask differential`: our SMMUv3, PHB3 and VT-d against QEMU's, for as long as is wanted.

use std::process::ExitCode;
use std::time::Instant;

use portcullis_differential::run::{self, Options};
use portcullis_differential::vtd::Stage;
use portcullis_differential::{phb3, vtd};

const USAGE: &str = "\
differential [phb3 | vtd | vtd-first | vtd-interrupts] [--seed N] [--accesses N] [--least N]

  phb3           PHB3's TVEs and TCE walks instead of SMMUv3
  vtd            VT-d's entries and second-stage tables instead of SMMUv3
  vtd-first      the same with first-stage tables
  vtd-interrupts messages that VT-d remaps
  --seed N       what decides everything (1)
  --accesses N   how many accesses must agree (100000)
  --least N      how many of each kind of descriptor, fault and configuration there must be among them (200)";

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let is_other = |word: &&String| ["phb3", "vtd", "vtd-first", "vtd-interrupts"].contains(&word.as_str());
    let other = words.first().filter(is_other).cloned();
    if other.is_some() {
        words.remove(0);
    }
    let (options, least) = match arguments(&words) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("differential: {what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let outcome = match other.as_deref() {
        Some("phb3") => phb3::run(options).map(|tally| (tally.to_string(), Vec::new())),
        Some("vtd-first") => vtd::run(Stage::First, options).map(|tally| (tally.to_string(), Vec::new())),
        Some("vtd-interrupts") => vtd::interrupts::run(options).map(|tally| (tally.to_string(), Vec::new())),
        Some(_) => vtd::run(Stage::Second, options).map(|tally| (tally.to_string(), Vec::new())),
        None => run::run(options).map(|tally| (tally.to_string(), tally.short(least))),
    };
    match outcome {
        Ok((tally, short)) => {
            println!("seed {:#x}, {:.1} s\n{tally}", options.seed, start.elapsed().as_secs_f64());
            short.iter().for_each(|cell| println!("fewer than {least}: {cell}"));
            if short.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            eprintln!("differential: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(words: &[String]) -> Result<(Options, u64), String> {
    let mut options = Options { seed: 1, accesses: 100_000 };
    let mut least = 200;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let place = match word.as_str() {
            "--seed" => &mut options.seed,
            "--accesses" => &mut options.accesses,
            "--least" => &mut least,
            other => return Err(format!("what is `{other}`?")),
        };
        let value = words.next().ok_or_else(|| format!("{word} wants a number"))?;
        *place = number(value).ok_or_else(|| format!("`{value}` is no number"))?;
    }
    Ok((options, least))
}

fn number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}
