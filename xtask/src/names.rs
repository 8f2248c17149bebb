//! Names in docs/embedding.md: what stands there in backticks is defined, or is there, so that who follows the page finds it.
//!
//! A file's name is that of a file of the kernel's; a path is one from the root; a name of Rust's (its last part, where it has several) is defined in the kernel or in
//! what is embedded. Anything with a space is a command or an instruction, and not looked at.
//!
//! Not here: whether what the page says of them is true.

use std::fs;
use std::path::{Path, PathBuf};

/// The page.
const PAGE: &str = "docs/embedding.md";
/// The kernel that the page walks through.
pub(crate) const KERNEL: &str = "kernels/aarch64/src";
/// Words that stand in backticks and are not Rust's: a library that is not used, a machine.
const PLAIN: [&str; 2] = ["std", "virt"];
/// What comes before a name where it is defined.
const KEYWORDS: [&str; 8] = ["fn ", "struct ", "enum ", "trait ", "type ", "mod ", "const ", "static "];

/// What is named on the page and is not in `sources`.
///
/// # Errors
///
/// The page or a source cannot be read.
pub(crate) fn check(root: &Path, sources: &[PathBuf]) -> Result<Vec<String>, String> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let page = read(&root.join(PAGE))?;
    let code = sources.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let complaints = quoted(&page).filter(|name| !is_there(root, name, &code));
    Ok(complaints.map(|name| format!("{PAGE}: `{name}` is nowhere")).collect())
}

/// What stands in backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

fn is_there(root: &Path, name: &str, code: &[String]) -> bool {
    if name.contains(' ') || PLAIN.contains(&name) {
        return true;
    }
    if name.ends_with(".rs") {
        return root.join(KERNEL).join(name).is_file();
    }
    if name.contains('/') {
        return root.join(name).exists();
    }
    let last = name.rsplit("::").next().unwrap_or(name);
    code.iter().any(|text| defines(text, last))
}

/// Whether a line of `text` defines `name`.
fn defines(text: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    let after = |line: &str, keyword: &str| {
        line.split_once(keyword).and_then(|(_, rest)| rest.strip_prefix(name)).is_some_and(ends)
    };
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(|line| KEYWORDS.iter().any(|keyword| after(line, keyword)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_seen_and_a_use_or_a_longer_name_is_not() {
        assert!(defines("    pub fn probe(platform: P)", "probe"));
        assert!(defines("pub(crate) struct IrqSpin;", "IrqSpin"));
        assert!(!defines("    pub fn probe_all()", "probe"));
        assert!(!defines("    smmu.probe()", "probe"));
        assert!(!defines("/// fn probe", "probe"));
    }

    #[test]
    fn what_is_in_backticks_is_looked_for_and_the_rest_is_not() {
        let page = "Call `Smmu::probe`, then `cargo run`; see `gone.rs`.";
        assert_eq!(quoted(page).collect::<Vec<_>>(), ["Smmu::probe", "cargo run", "gone.rs"]);
        let code = ["pub fn probe() {}".to_owned()];
        let root = Path::new("/nowhere");
        assert!(is_there(root, "Smmu::probe", &code) && is_there(root, "cargo run", &code));
        assert!(!is_there(root, "gone.rs", &code) && !is_there(root, "Smmu::open", &code));
    }
}
