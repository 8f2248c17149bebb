//! The dependency rules of ARCHITECTURE.md, held against what every `Cargo.toml` says.
//!
//! Checked here: each room uses only the rooms it may ([`ROOMS`]), in its tests too; an embedded room ships only outside crates
//! that are on the list ([`EMBEDDABLE`]); every embedded room says `no_std` and forbids unsafe code; the golden words are typed by
//! hand, and take nothing from `spec`, which they are there to judge; every mutant in the code stands in a list, and the other way round; what docs/embedding.md
//! names is there; core and VFIO name no vendor ([`vendors`]).
//!
//! Not here: whether an outside crate really does without std. The `no_std` stage builds it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::metadata::{Dependency, Package, Workspace};
use crate::rooms::{EMBEDDABLE, ROOMS};
use crate::shell::root;
use crate::stage::Passed;
use crate::{mutants, names, vendors};

/// Where the golden words are.
const GOLDEN: &str = "checks/src/golden";

/// Holds the workspace against the rules.
///
/// # Errors
///
/// How many rules are broken; each has been printed on a line of its own.
pub(crate) fn check() -> Result<Passed, String> {
    let workspace = Workspace::read()?;
    let mut broken = broken_arrows(&workspace);
    broken.extend(workspace.embedded().flat_map(|package| broken_attributes(&workspace.room(package))));
    let golden = sources(&root().join(GOLDEN))?;
    broken.extend(golden.iter().filter_map(|file| names_spec(file)));
    let mut embedded = embedded_sources(&workspace)?;
    let (mutants, disagreements) = mutants::check_hooks(&root(), &embedded)?;
    broken.extend(disagreements);
    embedded.extend(sources(&root().join(names::KERNEL))?);
    broken.extend(names::check(&root(), &embedded)?);
    for file in neutral_sources()? {
        broken.extend(vendors::check(&file)?);
    }
    broken.iter().for_each(|line| println!("{line}"));
    let arrows: usize = workspace.packages.iter().map(|package| package.dependencies.len()).sum();
    match broken.len() {
        0 => Ok(Passed::Done(format!(
            "{arrows} arrows, {} files of golden words, {mutants} mutants",
            golden.len()
        ))),
        count => Err(format!("{count} broken")),
    }
}

fn broken_arrows(workspace: &Workspace) -> Vec<String> {
    workspace.packages.iter().flat_map(|package| broken_arrows_of(workspace, package)).collect()
}

fn broken_arrows_of(workspace: &Workspace, package: &Package) -> Vec<String> {
    let folder = workspace.room(package);
    let Some(room) = ROOMS.iter().find(|room| room.folder == folder) else {
        return vec![format!("{folder}: the room is not in the table of xtask/src/rooms.rs")];
    };
    let mut broken = Vec::new();
    for dependency in &package.dependencies {
        match workspace.packages.iter().find(|package| package.name == dependency.name) {
            Some(used) => {
                let used = workspace.room(used);
                if !room.uses.contains(&used.as_str()) {
                    broken.push(format!("{folder}: may not use {used}"));
                }
            }
            None if !may_ship(&folder, dependency) => {
                broken
                    .push(format!("{folder}: `{}` is not on the list of what is embedded", dependency.name));
            }
            None => {}
        }
    }
    broken
}

/// Whether a room may use an outside crate as it does. Tests and hosts may use what they like.
fn may_ship(folder: &str, dependency: &Dependency) -> bool {
    let shipped = folder.starts_with("crates/") && dependency.kind.as_deref() != Some("dev");
    !shipped || EMBEDDABLE.contains(&dependency.name.as_str())
}

/// What an embedded room's `lib.rs` does not say and should.
fn broken_attributes(folder: &str) -> Vec<String> {
    let path = root().join(folder).join("src/lib.rs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return vec![format!("{}: {error}", path.display())],
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    ["#![no_std]", "#![forbid(unsafe_code)]"]
        .into_iter()
        .filter(|attribute| !lines.contains(attribute))
        .map(|attribute| format!("{folder}/src/lib.rs: `{attribute}` is missing"))
        .collect()
}

/// The Rust sources of what is embedded.
fn embedded_sources(workspace: &Workspace) -> Result<Vec<PathBuf>, String> {
    let mut all = Vec::new();
    for package in workspace.embedded() {
        all.extend(sources(&root().join(workspace.room(package)).join("src"))?);
    }
    Ok(all)
}

/// The Rust sources of what knows no vendor, their tests included.
fn neutral_sources() -> Result<Vec<PathBuf>, String> {
    let mut all = Vec::new();
    for room in vendors::ROOMS {
        all.extend(sources(&root().join(room))?);
    }
    Ok(all)
}

/// The Rust sources under `folder`.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// A complaint if golden words are taken from `spec`: a misread bit would cancel out.
fn names_spec(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let at = text.lines().position(imports_spec)?;
    Some(format!("{}:{}: golden words may not use `spec`", file.display(), at + 1))
}

fn imports_spec(line: &str) -> bool {
    let code = line.trim_start();
    !code.starts_with("//") && (code.contains("portcullis_spec") || code.contains("portcullis::spec"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(name: &str, kind: Option<&str>) -> Dependency {
        Dependency { name: name.into(), kind: kind.map(str::to_owned) }
    }

    /// A workspace of a few packages, `(folder, name, what it depends on)`.
    fn workspace(packages: &[(&str, &str, &[&str])]) -> Workspace {
        let package = |&(folder, name, uses): &(&str, &str, &[&str])| {
            serde_json::json!({
                "name": name,
                "manifest_path": format!("/w/{folder}/Cargo.toml"),
                "dependencies": uses.iter().map(|name| serde_json::json!({ "name": name, "kind": null }))
                    .collect::<Vec<_>>(),
            })
        };
        let packages: Vec<_> = packages.iter().map(package).collect();
        serde_json::from_value(serde_json::json!({
            "packages": packages, "target_directory": "/w/target", "workspace_root": "/w",
        }))
        .unwrap()
    }

    #[test]
    fn a_model_that_uses_a_driver_is_named() {
        let workspace =
            workspace(&[("crates/smmuv3", "driver", &[]), ("models/smmuv3", "model", &["driver", "serde"])]);
        assert_eq!(broken_arrows(&workspace), ["models/smmuv3: may not use crates/smmuv3"]);
    }

    #[test]
    fn core_that_uses_a_vendor_layout_is_named() {
        let workspace = workspace(&[("crates/spec", "spec", &[]), ("crates/core", "core", &["spec"])]);
        assert_eq!(broken_arrows(&workspace), ["crates/core: may not use crates/spec"]);
    }

    #[test]
    fn a_driver_that_uses_its_sibling_is_named() {
        let workspace = workspace(&[("crates/smmuv3", "smmuv3", &["nvme"]), ("crates/nvme", "nvme", &[])]);
        assert_eq!(broken_arrows(&workspace), ["crates/smmuv3: may not use crates/nvme"]);
    }

    #[test]
    fn a_room_without_a_line_in_the_table_is_named() {
        let broken = broken_arrows(&workspace(&[("crates/attic", "attic", &[])]));
        assert_eq!(broken, ["crates/attic: the room is not in the table of xtask/src/rooms.rs"]);
    }

    #[test]
    fn what_is_embedded_ships_only_listed_crates_but_tests_with_any() {
        assert!(!may_ship("crates/core", &dependency("serde", None)));
        assert!(!may_ship("crates/core", &dependency("cc", Some("build"))));
        assert!(may_ship("crates/core", &dependency("proptest", Some("dev"))));
        assert!(may_ship("crates/core", &dependency("bitflags", None)));
        assert!(may_ship("lab", &dependency("sha2", None)));
    }

    #[test]
    fn an_import_of_spec_is_seen_and_a_comment_about_it_is_not() {
        assert!(imports_spec("use portcullis_spec::smmuv3;"));
        assert!(imports_spec("    portcullis::spec::smmuv3::Ste"));
        assert!(!imports_spec("// not from portcullis_spec"));
    }
}
