//! The project's own commands: `cargo xtask test` and its kin.
//!
//! Each command is a file; a check of `test` is a [`stage::Stage`]. Nothing here reads standard input, and nothing is installed that was
//! not asked for (`qemu`).
//!
//! Not here: what is tested. That is in the crates.

mod apt;
mod bare;
mod bench;
mod deny;
mod differential;
mod fuzz;
mod kernel;
mod lives;
mod metadata;
mod mutants;
mod names;
mod qemu;
mod random;
mod rooms;
mod rules;
mod shell;
mod stage;
mod test;
mod vendors;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  test [STAGE...]   every check that CI runs, or only the stages named
      --with-qemu       installs Debian's QEMU for the tests that want one
      --with-qemu=11    makes a Debian tree with QEMU 11 in target/qemu-11, too
  mutants [NAME...] re-made bugs, each of which its tests must catch; all of them, or those named
      --sample N --seed S   N of them, drawn
      --list                says what they are, and runs nothing
      --simulator           asks the simulator instead, which knows none of them
  differential [phb3 | vtd | vtd-first | vtd-interrupts] [--seed N] [--accesses N]
                    our models against QEMU 11's, input by input; what was compared, counted
  kernel            builds the bare-metal kernel and boots it on QEMU
      --build-only      builds it
      --toolchain WAY   `installed`: with the toolchain's own core library; `source`: with one built from source
  fuzz [TARGET...]  looks for inputs that break what fuzzing targets hold; all of them, or those named. Wants cargo-fuzz and a nightly toolchain
      --seconds N           so long for each; 60 if it is not said
      --minimise            makes the corpus in the tree anew of what was found
  bench [ARG...]    the figures, each with its peer in the same run; arguments go to the benches
  stages            the stages of `test`, one to a line";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else {
        eprintln!("xtask: no command\n\n{USAGE}");
        return ExitCode::from(2);
    };
    let asks = rest.iter().any(|word| matches!(word.as_str(), "--help" | "-h"));
    match command.as_str() {
        // What stands behind `bench` is the benches'.
        known if asks && known != "bench" => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        "test" => test::run(rest),
        "mutants" => mutants::run(rest),
        "differential" => differential::run(rest),
        "kernel" => kernel::run(rest),
        "fuzz" => fuzz::run(rest),
        "bench" => bench::run(rest),
        "stages" => test::list(),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        unknown => {
            eprintln!("xtask: no command `{unknown}`\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
