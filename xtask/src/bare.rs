//! The build of everything under `crates/` for a target that has no std.
//!
//! There are three ways. The first that this machine can go is gone, and the summary says which:
//!
//! 1. `aarch64-unknown-none`, where the toolchain has a core library for it (`rustup target add aarch64-unknown-none`).
//! 2. The same target with a core library built from its sources, where a toolchain that is new enough has them (`rustup component
//!    add rust-src`; Debian's `rustc-web`, `cargo-web` and `rust-web-src`). Only libraries are built, so no linker is needed.
//! 3. A freestanding program for this host (`xtask/freestanding`): no std, no C library, no start-up code.
//!
//! Nothing is installed for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::metadata::Workspace;
use crate::shell::{self, cargo, program, root};
use crate::stage::Passed;

pub(crate) const BARE_TARGET: &str = "aarch64-unknown-none";

/// Builds without std, and says in which way.
///
/// # Errors
///
/// Something does not build, or no way can be gone on this machine.
pub(crate) fn check() -> Result<Passed, String> {
    let workspace = Workspace::read()?;
    let packages: Vec<String> = workspace.embedded().map(|package| package.name.clone()).collect();
    let count = packages.len();
    if sysroot(&mut program("rustc")).is_some_and(|sysroot| has_core(&sysroot)) {
        shell::run(cargo().args(["build", "--target", BARE_TARGET]).args(selected(&packages)))?;
        return Ok(Passed::Done(format!("{count} crates for {BARE_TARGET}")));
    }
    if let Some(toolchain) = Toolchain::with_sources() {
        // Another compiler than that of the other stages: in a folder of its own, neither throws out the other's work.
        let mut command = toolchain.build_with_core();
        command.env("CARGO_TARGET_DIR", Path::new(&workspace.target_directory).join("bare"));
        shell::run(command.args(selected(&packages)))?;
        return Ok(Passed::Done(format!(
            "{count} crates for {BARE_TARGET}, its core library built from source"
        )));
    }
    let how = freestanding(&workspace, &packages)?;
    Ok(Passed::Done(format!("{count} crates in {how}: no core library for {BARE_TARGET} here")))
}

fn selected(packages: &[String]) -> impl Iterator<Item = String> + '_ {
    packages.iter().flat_map(|package| ["--package".to_owned(), package.clone()])
}

/// Where a compiler keeps its libraries; none if there is no such compiler.
pub(crate) fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).output().ok().filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

pub(crate) fn has_core(sysroot: &Path) -> bool {
    let libraries = sysroot.join("lib/rustlib").join(BARE_TARGET).join("lib");
    std::fs::read_dir(libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// A compiler that has the sources of the core library with it.
pub(crate) struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
}

impl Toolchain {
    /// The ordinary toolchain or the distribution's, whichever has the sources and is new enough for us.
    pub(crate) fn with_sources() -> Option<Self> {
        let ordinary = Self { cargo: PathBuf::from(cargo().get_program()), rustc: PathBuf::from("rustc") };
        let distribution = Self { cargo: "/usr/bin/cargo".into(), rustc: "/usr/bin/rustc".into() };
        [ordinary, distribution]
            .into_iter()
            .find(|toolchain| toolchain.has_sources() && toolchain.is_new_enough())
    }

    fn is_new_enough(&self) -> bool {
        let output = program(&self.rustc).arg("--version").output();
        let said = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
        let has = said.as_deref().and_then(|said| version(said.strip_prefix("rustc ")?));
        has.is_some_and(|has| Some(has) >= version(env!("CARGO_PKG_RUST_VERSION")))
    }

    fn has_sources(&self) -> bool {
        sysroot(&mut program(&self.rustc))
            .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file())
    }

    /// Whether it has a linker for a target without an operating system.
    pub(crate) fn has_linker(&self) -> bool {
        let libraries = sysroot(&mut program(&self.rustc)).map(|sysroot| sysroot.join("lib/rustlib"));
        let hosts = libraries.and_then(|libraries| std::fs::read_dir(libraries).ok());
        hosts.is_some_and(|hosts| hosts.flatten().any(|host| host.path().join("bin/rust-lld").is_file()))
    }

    /// Building the core library is not yet a stable feature of Cargo, hence the switch; nothing else unstable is used.
    pub(crate) fn build_with_core(&self) -> Command {
        let mut command = program(&self.cargo);
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &self.rustc).args([
            "build",
            "-Zbuild-std=core,alloc",
            "--target",
            BARE_TARGET,
        ]);
        command
    }
}

/// Major and minor of a version that begins `text`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|other: char| !other.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Links every embedded crate into the freestanding program.
fn freestanding(workspace: &Workspace, packages: &[String]) -> Result<&'static str, String> {
    if !cfg!(target_os = "linux") {
        return Err(format!(
            "no core library for {BARE_TARGET}, and the freestanding program is for Linux hosts: try `rustup target add {BARE_TARGET}`"
        ));
    }
    let folder = Path::new(&workspace.target_directory).join("freestanding");
    let libraries = build_libraries(&folder, packages)?;
    let source = folder.join("main.rs");
    write_source(&source, &libraries)?;
    let mut rustc = program("rustc");
    rustc
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--crate-name=freestanding",
            "-Cpanic=abort",
            "-Copt-level=1",
        ])
        .args([
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-static",
            "-Crelocation-model=static",
        ])
        .arg(format!("-Ldependency={}", folder.join("debug/deps").display()))
        .args(libraries.iter().map(|library| format!("--extern={}={}", library.name, library.path.display())))
        .arg("-o")
        .arg(folder.join("freestanding"))
        .arg(&source);
    shell::run(&mut rustc)?;
    Ok("a freestanding program for this host")
}

/// An embedded crate as the compiler names and finds it.
struct Library {
    name: String,
    path: PathBuf,
}

/// Builds the crates by themselves, so that no other member's needs switch on a feature of something they share.
fn build_libraries(folder: &Path, packages: &[String]) -> Result<Vec<Library>, String> {
    let messages = shell::output(
        cargo()
            .args(["build", "--message-format=json-render-diagnostics", "--target-dir"])
            .arg(folder)
            .args(selected(packages)),
    )?;
    let libraries: Vec<Library> = messages.lines().filter_map(|line| library(line, packages)).collect();
    if libraries.len() == packages.len() {
        Ok(libraries)
    } else {
        Err(format!("Cargo built {} libraries of {} crates", libraries.len(), packages.len()))
    }
}

/// The library that a line of Cargo's messages announces, if it is one of `packages`.
fn library(line: &str, packages: &[String]) -> Option<Library> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?;
    let ours = packages.iter().any(|package| package.replace('-', "_") == name);
    let files = message["filenames"].as_array()?;
    let path = files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".rlib"))?;
    ours.then(|| Library { name: name.to_owned(), path: path.into() })
}

fn write_source(source: &Path, libraries: &[Library]) -> Result<(), String> {
    let template = root().join("xtask/freestanding/main.rs");
    let mut text =
        std::fs::read_to_string(&template).map_err(|error| format!("{}: {error}", template.display()))?;
    libraries.iter().for_each(|library| text.push_str(&format!("extern crate {} as _;\n", library.name)));
    std::fs::write(source, text).map_err(|error| format!("{}: {error}", source.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(version("1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96)));
        assert_eq!(version("1.95"), Some((1, 95)));
        assert!(version("1.100.0") > version("1.95"));
        assert_eq!(version("nightly"), None);
    }

    #[test]
    fn only_the_named_crates_libraries_are_taken_from_cargos_messages() {
        let packages = ["portcullis-core".to_owned()];
        let line = r#"{"reason":"compiler-artifact","target":{"name":"portcullis_core"},"filenames":["/t/libx.rmeta","/t/libx.rlib"]}"#;
        let found = library(line, &packages).unwrap();
        assert_eq!(
            (found.name.as_str(), found.path.as_path()),
            ("portcullis_core", Path::new("/t/libx.rlib"))
        );
        assert!(library(&line.replace("portcullis_core", "bitflags"), &packages).is_none());
        assert!(library("not json", &packages).is_none());
    }
}
