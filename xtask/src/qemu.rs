//! QEMU for the tests that want it: found, or installed where that was asked for.
//!
//! `--with-qemu` (or `=7`) installs Debian's own packages if none is there; `--with-qemu=11` makes a Debian 13 tree beside the build,
//! `target/qemu-11`, whose QEMU is newer. Both take root and a network. What cannot be had is said with its reason, and the next best is
//! used: the tree, the path's QEMU, none.
//!
//! Not here: how a test finds it. That is `portcullis-qemu`, which reads the variables that are set here.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{INSTALL, install, need_root, within, without_questions};
use crate::kernel;
use crate::shell::{self, answers, cargo, program, target};
use crate::stage::Passed;

/// Which QEMU is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// What is there.
    Found,
    /// Debian's own, installed if need be.
    Packages,
    /// The tree, made if need be; Debian's own besides, or instead.
    Tree,
}

impl Wish {
    /// What a flag says; none if it is not one of these flags.
    ///
    /// # Errors
    ///
    /// It is, with a version that is not known.
    pub(crate) fn from_flag(flag: &str) -> Option<Result<Self, String>> {
        let version = flag.strip_prefix("--with-qemu")?;
        Some(match version {
            "" | "=7" => Ok(Self::Packages),
            "=11" => Ok(Self::Tree),
            other => Err(format!(
                "`--with-qemu{other}`: there are `--with-qemu`, `--with-qemu=7` and `--with-qemu=11`"
            )),
        })
    }
}

/// The QEMUs that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Whether there is one on the path.
    on_path: bool,
    /// The tree, if its QEMU runs.
    tree: Option<PathBuf>,
}

const PROGRAM: &str = "qemu-system-aarch64";
const PACKAGES: [&str; 3] = ["qemu-system-arm", "qemu-system-ppc", "qemu-system-x86"];
const SUITE: &str = "trixie";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Tests whose path has this run on QEMU.
pub(crate) const TESTS: &str = "on_qemu::";
/// Says to tests where the tree is, and whether they must find a QEMU (`portcullis_qemu::TREE_VARIABLE`, `testing::TESTS_VARIABLE`).
const TREE_VARIABLE: &str = "PORTCULLIS_QEMU_TREE";
const TESTS_VARIABLE: &str = "PORTCULLIS_QEMU";

/// Longer than any run of the tests takes, in seconds.
const TESTS_LIMIT: &str = "1500";

/// Looks for QEMUs, and installs what is wished for and missing. Prints why it could not.
pub(crate) fn prepare(wish: Wish) -> Found {
    let mut found = look();
    if wish == Wish::Tree && found.tree.is_none() {
        println!("== making a Debian tree with QEMU in {}", tree().display());
        match make_tree(&tree()) {
            Ok(()) => found = look(),
            Err(why) => println!("no tree with QEMU 11: {why}"),
        }
    }
    if wish != Wish::Found
        && let Err(why) = kernel::install()
    {
        println!("nothing that builds the bare-metal kernel: {why}");
    }
    if wish != Wish::Found && !found.on_path {
        println!("== installing {}", PACKAGES.join(", "));
        match install(&PACKAGES) {
            Ok(()) => found = look(),
            Err(why) => println!("no QEMU of this Debian's: {why}"),
        }
    }
    found
}

fn look() -> Found {
    let on_path = answers(program(PROGRAM).arg("--version"));
    let tree = Some(tree()).filter(|tree| runs(tree));
    Found { on_path, tree }
}

/// Where the tree is: what the variable says, or beside the build.
fn tree() -> PathBuf {
    let named = std::env::var_os(TREE_VARIABLE).filter(|name| !name.is_empty());
    named.map_or_else(|| target().join("qemu-11"), PathBuf::from)
}

/// Whether the QEMU of the tree runs, as the tests will start it: through the tree's own dynamic linker.
fn runs(tree: &Path) -> bool {
    let linker = tree.join("lib64/ld-linux-x86-64.so.2");
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let qemu = tree.join("usr/bin").join(PROGRAM);
    answers(program(linker).arg("--library-path").args([libraries, qemu]).arg("--version"))
}

/// Makes the tree under another name first, so that half a tree is never taken for one.
fn make_tree(tree: &Path) -> Result<(), String> {
    need_root()?;
    if !answers(program("debootstrap").arg("--version")) {
        install(&["debootstrap"])?;
    }
    let half = tree.with_extension("half");
    let _ = fs::remove_dir_all(&half);
    let made = fill_tree(&half);
    if made.is_err() {
        let _ = fs::remove_dir_all(&half);
    }
    made?;
    let _ = fs::remove_dir_all(tree);
    fs::rename(&half, tree).map_err(|error| format!("{} stays under another name: {error}", tree.display()))
}

fn fill_tree(tree: &Path) -> Result<(), String> {
    if let Some(parent) = tree.parent() {
        fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    let mut bootstrap = within("debootstrap");
    shell::run(bootstrap.args(["--variant=minbase", SUITE]).arg(tree).arg(MIRROR))?;
    let list = format!("deb {MIRROR} {SUITE} main\ndeb {MIRROR} {SUITE}-backports main\n");
    fs::write(tree.join("etc/apt/sources.list"), list).map_err(|error| error.to_string())?;
    let inside = |words: &[&str]| {
        let mut command = within("chroot");
        shell::run(without_questions(command.arg(tree).arg("apt-get")).args(words))
    };
    inside(&["update"])?;
    let backports = format!("{SUITE}-backports");
    inside(&[&INSTALL[..], &["--target-release", &backports], &PACKAGES].concat())?;
    inside(&["clean"])?;
    if runs(tree) { Ok(()) } else { Err("its QEMU does not run here".into()) }
}

impl Found {
    /// What there is, in words; none if there is nothing.
    fn words(&self) -> Option<String> {
        match (self.on_path, &self.tree) {
            (true, Some(tree)) => Some(format!("the path's QEMU and that of {}", tree.display())),
            (true, None) => Some("the path's QEMU".into()),
            (false, Some(tree)) => Some(format!("the QEMU of {}", tree.display())),
            (false, None) => None,
        }
    }
}

/// Runs the tests that need QEMU, one at a time: they take real time, and a machine that must share its CPU answers late.
///
/// # Errors
///
/// One failed, or all together took too long.
pub(crate) fn tests(found: &Found) -> Result<Passed, String> {
    let Some(words) = found.words() else {
        let why = format!("there is no {PROGRAM}: the tests on QEMU are left out; `--with-qemu` installs it");
        return Ok(Passed::Skipped(why));
    };
    let mut command = program("timeout");
    command.args(["--kill-after=10", TESTS_LIMIT]).arg(cargo().get_program());
    command.env(TESTS_VARIABLE, "require");
    if let Some(tree) = &found.tree {
        command.env(TREE_VARIABLE, tree);
    }
    if answers(cargo().args(["nextest", "--version"])) {
        let filter = format!("test(/{TESTS}/)");
        command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--test-threads=1", "-E", &filter]);
    } else {
        command.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests", TESTS]);
        command.args(["--", "--test-threads=1"]);
    }
    shell::run(&mut command)?;
    Ok(Passed::Done(format!("on {words}")))
}

#[cfg(test)]
mod tests_of_this {
    use super::*;

    #[test]
    fn a_flag_says_which_qemu_is_wished_for() {
        assert_eq!(Wish::from_flag("--with-qemu"), Some(Ok(Wish::Packages)));
        assert_eq!(Wish::from_flag("--with-qemu=7"), Some(Ok(Wish::Packages)));
        assert_eq!(Wish::from_flag("--with-qemu=11"), Some(Ok(Wish::Tree)));
        assert!(Wish::from_flag("--with-qemu=9").unwrap().unwrap_err().contains("--with-qemu=9"));
        assert_eq!(Wish::from_flag("qemu"), None);
    }

    #[test]
    fn without_a_qemu_the_stage_is_skipped_and_says_what_is_left_out() {
        let Ok(Passed::Skipped(why)) = tests(&Found::default()) else { panic!("it ran") };
        assert!(why.contains("qemu-system-aarch64") && why.contains("left out"), "{why}");
    }

    #[test]
    fn a_folder_without_a_qemu_is_no_tree() {
        assert!(!runs(&shell::root()));
    }
}
