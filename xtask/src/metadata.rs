//! What `cargo metadata` says of the workspace: packages, where they lie, what they depend on.

use std::path::Path;

use serde::Deserialize;

use crate::shell;

/// The workspace. Only its own packages, not those that they depend on.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// The members.
    pub(crate) packages: Vec<Package>,
    /// Where Cargo builds.
    pub(crate) target_directory: String,
    workspace_root: String,
}

/// A member.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Where its `Cargo.toml` lies.
    pub(crate) manifest_path: String,
    /// What its `Cargo.toml` names.
    pub(crate) dependencies: Vec<Dependency>,
}

/// A line under `[dependencies]`, `[dev-dependencies]` or `[build-dependencies]`.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package it names.
    pub(crate) name: String,
    /// `dev`, `build`, or none for an ordinary one.
    pub(crate) kind: Option<String>,
}

impl Workspace {
    /// Asks Cargo. Nothing is fetched or resolved for it.
    ///
    /// # Errors
    ///
    /// Cargo failed, or wrote something else than we know.
    pub(crate) fn read() -> Result<Self, String> {
        let json = shell::output(shell::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
        serde_json::from_str(&json).map_err(|error| format!("cargo metadata is not as expected: {error}"))
    }

    /// The room of a package: its folder, from the root of the workspace, with `/` between.
    pub(crate) fn room(&self, package: &Package) -> String {
        let folder = Path::new(&package.manifest_path).parent().unwrap_or(Path::new(""));
        let inside = folder.strip_prefix(&self.workspace_root).unwrap_or(folder);
        inside.to_string_lossy().replace('\\', "/")
    }

    /// The packages under `crates/`: what a kernel embeds.
    pub(crate) fn embedded(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.room(package).starts_with("crates/"))
    }
}
