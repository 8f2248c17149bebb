//! Machines by name or from a device tree, and how to draw one.

use std::path::PathBuf;

use crate::error::RunError;
use crate::machine::{MachineSpec, builtin, from_dtb, tables_of};
use crate::tree;

pub use crate::machine::builtin::{DEFAULT, WITH_ACPI};
pub use crate::tree::MachineTree;

/// Which machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineChoice {
    /// A built-in one.
    Name(String),
    /// One that a flattened device tree describes.
    Dtb(PathBuf),
    /// QEMU's `virt`, for `spapr` its `powernv8`: hardware that is no model of ours. Only [`run`](crate::run()) can do with it.
    Qemu,
    /// QEMU's `q35`, a PC with VT-d.
    QemuX86,
}

/// A built-in machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineInfo {
    /// Its name.
    pub name: String,
    /// What is special about it.
    pub summary: String,
}

/// The built-in machines, the default first.
pub fn list() -> Vec<MachineInfo> {
    builtin::all()
        .into_iter()
        .map(|machine| MachineInfo { name: machine.name, summary: machine.summary })
        .collect()
}

/// Whether there is a built-in machine of this name, which may end with [`WITH_ACPI`].
pub fn exists(name: &str) -> bool {
    builtin::find(name).is_some()
}

/// The machine's parts, and its device tree if that came from a file.
///
/// # Errors
///
/// [`RunError::BadInput`]: the file is missing, unreadable or broken. [`RunError::Refused`]: no such machine, or the lab has no models for
/// what the tree describes.
pub fn choose(choice: &MachineChoice) -> Result<(MachineSpec, Option<Vec<u8>>), RunError> {
    match choice {
        MachineChoice::Name(name) => match builtin::find(name) {
            Some(spec) => Ok((spec, None)),
            None => Err(RunError::refused(name, "there is no such machine", "see `portcullis machines`")),
        },
        MachineChoice::Qemu | MachineChoice::QemuX86 => {
            let hint = "see `portcullis machines`";
            Err(RunError::refused("QEMU", "its machine is not made of models that could be shown", hint))
        }
        MachineChoice::Dtb(path) => {
            let (spec, tree) = from_dtb::read(path)?;
            Ok((spec, Some(tree)))
        }
    }
}

/// The machine as discovery sees it, drawn as a tree. It is booted for that.
///
/// # Errors
///
/// As for [`choose`], and as for booting.
pub fn tree(choice: &MachineChoice) -> Result<MachineTree, RunError> {
    let (spec, device_tree) = choose(choice)?;
    let device_tree = tables_of(&spec, device_tree.as_deref())?;
    tree::of(spec, &device_tree)
}
