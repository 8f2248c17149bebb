//! `cargo xtask kernel`: builds the bare-metal kernel, boots it on QEMU, and holds what it says against what it was given.
//!
//! The kernel (`kernels/aarch64`) is no member of the workspace: its target is another. There are two ways to build it; the first that this machine can go is gone:
//!
//! 1. where the toolchain has a core library for `aarch64-unknown-none` (`rustup target add aarch64-unknown-none`), with that;
//! 2. where a toolchain that is new enough has the sources of one (`rustup component add rust-src`; Debian's `rustc-web`, `cargo-web`, `rust-web-src`, and `lld`,
//!    which [`install`] installs), from those.
//!
//! The disk is made anew each time, with another content, and carries its own digest in its last block (`disk`). The kernel must end with status 0, have said that
//! each of its jobs is done, and have read what was on the disk. It has a limited time.
//!
//! Not here: what the kernel does. That is in its own folder, and in `docs/embedding.md`.

mod disk;
mod elf;
mod sha256;

use core::time::Duration;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use crate::apt;
use crate::bare::{BARE_TARGET, Toolchain, has_core, sysroot};
use crate::shell::{self, answers, cargo, program, root};
use crate::stage::Passed;
use disk::Disk;

/// The kernel's folder.
const FOLDER: &str = "kernels/aarch64";
const NAME: &str = "portcullis-kernel";
const QEMU: &str = "qemu-system-aarch64";
/// What builds the kernel where the toolchain has no core library for it.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];

/// How long the kernel may run. It takes a few seconds; a machine that is busy with other things takes longer.
const TIME_LIMIT: Duration = Duration::from_secs(180);
/// Bars: the image, and the text of core and the IOMMU's driver.
const IMAGE_BAR: u64 = 1 << 20;
const TEXT_BAR: u64 = 200 << 10;
const BARRED: [&str; 2] = ["portcullis_core", "portcullis_smmuv3"];

/// What the kernel must have said, besides the digest: how its lines begin.
const LINES: [&str; 6] = ["kept: ", "job 1: ", "job 2: ", "job 3: ", "job 4: ", "all jobs done"];

/// What is asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    build_only: bool,
    way: Way,
}

/// Which way to build is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Any,
    Installed,
    Source,
}

impl Wish {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut wish = Self { build_only: false, way: Way::Any };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--build-only" => wish.build_only = true,
                "--toolchain" => wish.way = Way::parse(rest.next().map_or("", String::as_str))?,
                other => match other.strip_prefix("--toolchain=") {
                    Some(way) => wish.way = Way::parse(way)?,
                    None => return Err(format!("no such argument: `{other}`")),
                },
            }
        }
        Ok(wish)
    }
}

impl Way {
    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "any" => Ok(Self::Any),
            "installed" => Ok(Self::Installed),
            "source" => Ok(Self::Source),
            other => Err(format!("`--toolchain {other}`: there are `any`, `installed` and `source`")),
        }
    }
}

/// Does what the command line asks for. Exit codes: 0 done, 1 something failed or cannot be done here, 2 no such argument.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let wish = match Wish::parse(arguments) {
        Ok(wish) => wish,
        Err(what) => {
            eprintln!("xtask kernel: {what}");
            return ExitCode::from(2);
        }
    };
    match work(&wish) {
        Ok(Passed::Done(note)) => {
            println!("kernel: {note}");
            ExitCode::SUCCESS
        }
        Ok(Passed::Skipped(why)) | Err(why) => {
            eprintln!("xtask kernel: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Builds and boots the kernel, as a stage of `cargo xtask test`.
///
/// # Errors
///
/// It does not build, or did not do what it should. What this machine lacks is not an error: then the kernel is left out.
pub(crate) fn check() -> Result<Passed, String> {
    shell::run(cargo().args(["fmt", "--check", "--manifest-path"]).arg(folder().join("Cargo.toml")))?;
    work(&Wish { build_only: false, way: Way::Any })
}

/// Installs what builds the kernel, where that can be had: for `--with-qemu`.
///
/// # Errors
///
/// Why not.
pub(crate) fn install() -> Result<(), String> {
    if builder(Way::Any).is_ok() {
        return Ok(());
    }
    apt::install(&PACKAGES)?;
    builder(Way::Any).map(drop)
}

fn work(wish: &Wish) -> Result<Passed, String> {
    let builder = match builder(wish.way) {
        Ok(builder) => builder,
        Err(why) => return Ok(Passed::Skipped(format!("left out: {why}"))),
    };
    let image = build(builder)?;
    if wish.build_only {
        return Ok(Passed::Done(format!("built, {}", image.words)));
    }
    if !answers(program(QEMU).arg("--version")) {
        let why = format!("built, {}; not booted: there is no {QEMU} (Debian: qemu-system-arm)", image.words);
        return Ok(Passed::Skipped(why));
    }
    let took = boot(&image)?;
    Ok(Passed::Done(format!("its jobs are done, in {:.1} s; {}", took.as_secs_f64(), image.words)))
}

/// A command that builds for the kernel's target, without what is to be built.
struct Builder {
    command: Command,
    how: &'static str,
}

/// The first way that can be gone here.
fn builder(way: Way) -> Result<Builder, String> {
    let has_library = sysroot(&mut program("rustc")).is_some_and(|sysroot| has_core(&sysroot));
    if way != Way::Source && has_library {
        let mut command = cargo();
        command.args(["build", "--target", BARE_TARGET]);
        return Ok(Builder { command, how: "with the toolchain's own core library" });
    }
    let instead =
        format!("`rustup target add {BARE_TARGET}`, or on Debian: apt-get install {}", PACKAGES.join(" "));
    if way == Way::Installed {
        return Err(format!("the toolchain has no core library for {BARE_TARGET}: {instead}"));
    }
    let toolchain = Toolchain::with_sources().ok_or_else(|| {
        format!("no core library for {BARE_TARGET} here, nor the sources of one: {instead}")
    })?;
    let mut command = toolchain.build_with_core();
    if !toolchain.has_linker() {
        if !answers(program("ld.lld").arg("--version")) {
            return Err(format!("there is no ld.lld: {instead}"));
        }
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_LINKER", "ld.lld");
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_RUSTFLAGS", "-Clinker-flavor=ld.lld");
    }
    Ok(Builder { command, how: "with a core library built from source" })
}

/// The kernel, as it is loaded.
struct Image {
    path: PathBuf,
    words: String,
}

fn folder() -> PathBuf {
    root().join(FOLDER)
}

/// Where the kernel is built: in a folder of its own, since its compiler may be another.
fn target() -> PathBuf {
    shell::target().join("kernel")
}

fn build(builder: Builder) -> Result<Image, String> {
    let Builder { mut command, how } = builder;
    command.args(["--release", "--locked", "--manifest-path"]).arg(folder().join("Cargo.toml"));
    // Flags for the host are not for the kernel.
    command.env("CARGO_TARGET_DIR", target()).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    shell::run(&mut command)?;
    let path = target().join(BARE_TARGET).join("release").join(NAME);
    let file = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let elf = elf::Elf::read(&file).map_err(|what| format!("{}: {what}", path.display()))?;
    let bytes = elf.image()?;
    let image = path.with_extension("img");
    std::fs::write(&image, &bytes).map_err(|error| format!("{}: {error}", image.display()))?;
    let words = weigh(&elf, bytes.len() as u64, how)?;
    Ok(Image { path: image, words })
}

/// Says how large the kernel is, and holds it against the bars.
fn weigh(elf: &elf::Elf<'_>, image_bytes: u64, how: &str) -> Result<String, String> {
    let by_crate = elf.text_by_crate()?;
    println!("text of the kernel by crate, KiB:");
    for (name, bytes) in &by_crate {
        println!("  {:<24} {:>7.1}", name, *bytes as f64 / 1024.0);
    }
    let sum = |of: &dyn Fn(&str) -> bool| -> u64 {
        by_crate.iter().filter(|(name, _)| of(name)).map(|(_, bytes)| bytes).sum()
    };
    let all = sum(&|name| name.starts_with("portcullis_") && name != "portcullis_kernel");
    let text = sum(&|name| BARRED.contains(&name));
    if image_bytes > IMAGE_BAR {
        return Err(format!("the image has {image_bytes} bytes, and 1 MiB is the bar"));
    }
    if text > TEXT_BAR {
        return Err(format!("core and the SMMU's driver have {text} bytes of text, and 200 KiB is the bar"));
    }
    let (image, text, all) = (image_bytes >> 10, text >> 10, all >> 10);
    Ok(format!(
        "image {image} KiB; text of core and the SMMU's driver {text} KiB, of all of Portcullis {all} KiB; {how}"
    ))
}

/// Boots the kernel. Answers how long it ran.
fn boot(image: &Image) -> Result<Duration, String> {
    let disk = Disk::make(&target().join("disk.img"))?;
    let mut command = machine(&image.path, &disk.path);
    println!("$ {QEMU} -M virt,iommu=smmuv3,gic-version=3,its=on -kernel {} …", image.path.display());
    let start = Instant::now();
    let child = command.spawn().map_err(|error| format!("{QEMU} could not be started: {error}"))?;
    let (said, status) = watch(child)?;
    judge(&said, &disk)?;
    match status {
        Some(0) => Ok(start.elapsed()),
        Some(code) => Err(format!("the kernel ended with status {code}")),
        None => Err(format!("{QEMU} was killed")),
    }
}

/// The machine. It counts instructions as nanoseconds, so that what the kernel measures is the same everywhere.
fn machine(image: &Path, disk: &Path) -> Command {
    let mut command = program(QEMU);
    command
        .args(["-M", "virt,iommu=smmuv3,gic-version=3,its=on", "-cpu", "cortex-a57", "-m", "256"])
        .args(["-accel", "tcg", "-icount", "shift=0,sleep=off"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"])
        .args(["-semihosting-config", "enable=on,target=native", "-kernel"])
        .arg(image)
        .arg("-drive")
        .arg(format!("if=none,id=disk,format=raw,file={}", disk.display()))
        .args(["-device", "nvme,drive=disk,serial=portcullis"])
        .stdout(Stdio::piped());
    command
}

/// Prints what the kernel says as it says it, until it ends or its time is over. Answers that and its status.
fn watch(mut child: Child) -> Result<(Vec<String>, Option<i32>), String> {
    let (sender, lines) = mpsc::channel();
    let output = child.stdout.take().ok_or("its output is not there")?;
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        // That nobody listens any more is fine.
        lines.for_each(|line| drop(sender.send(line)));
    });
    let end = Instant::now() + TIME_LIMIT;
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = line.trim_end().to_owned();
                println!("  {line}");
                said.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                let last = said.last().map_or("nothing", String::as_str);
                return Err(format!(
                    "not done after {} s; the last that it said: {last}",
                    TIME_LIMIT.as_secs()
                ));
            }
        }
    }
    let _ = reader.join();
    let status = child.wait().map_err(|error| format!("{QEMU}: {error}"))?;
    Ok((said, status.code()))
}

/// Whether the kernel said what it must have.
fn judge(said: &[String], disk: &Disk) -> Result<(), String> {
    let fails = |line: &&String| line.contains("FAILED") || line.starts_with("smmu error");
    if let Some(failed) = said.iter().find(fails) {
        return Err(format!("the kernel says: {failed}"));
    }
    if let Some(missing) = LINES.into_iter().find(|start| !said.iter().any(|line| line.starts_with(start))) {
        return Err(format!("the kernel did not say `{missing}…`"));
    }
    if !said.iter().any(|line| line.ends_with(&format!("sha256 {}", disk.sha256))) {
        return Err(format!("the kernel did not read what was on the disk: sha256 {}", disk.sha256));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk { path: PathBuf::new(), sha256: "00ff".into() }
    }

    fn said(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    const ALL: [&str; 6] = [
        "kept: a table",
        "job 1: read, sha256 00ff",
        "job 2: blocked",
        "job 3: shared",
        "job 4: released",
        "all jobs done",
    ];

    #[test]
    fn arguments_say_what_is_wished_for() {
        let parse = |words: &[&str]| Wish::parse(&said(words));
        assert_eq!(parse(&[]), Ok(Wish { build_only: false, way: Way::Any }));
        let wish = Wish { build_only: true, way: Way::Source };
        assert_eq!(parse(&["--build-only", "--toolchain", "source"]).as_ref(), Ok(&wish));
        assert_eq!(parse(&["--toolchain=source", "--build-only"]).as_ref(), Ok(&wish));
        assert!(parse(&["--toolchain"]).unwrap_err().contains("installed"));
        assert!(parse(&["--fast"]).unwrap_err().contains("--fast"));
    }

    #[test]
    fn a_kernel_that_said_everything_is_believed() {
        assert_eq!(judge(&said(&ALL), &disk()), Ok(()));
    }

    #[test]
    fn a_job_that_is_missing_another_digest_or_a_failure_is_not_believed() {
        for missing in ALL {
            let mut lines = said(&ALL);
            lines.retain(|line| line != missing);
            assert!(judge(&lines, &disk()).is_err(), "without {missing}");
        }
        let other = Disk { sha256: "00fe".into(), ..disk() };
        assert!(judge(&said(&ALL), &other).unwrap_err().contains("00fe"));
        let mut lines = said(&ALL);
        lines.push("FAILED: for a reason".into());
        assert!(judge(&lines, &disk()).unwrap_err().contains("for a reason"));
    }
}
