//! Finding a QEMU.

use core::fmt;
use core::time::Duration;
use std::env;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use crate::QemuError;
use crate::raw::dies_with_this_thread;

/// The environment variable that names a Debian tree whose QEMU is used: the only one looked at where it is set.
pub const TREE_VARIABLE: &str = "PORTCULLIS_QEMU_TREE";

/// The folder of a Debian tree, beside the build.
const TREE_FOLDER: &str = "qemu-11";

/// As long as a program may take to say its version. One that is a QEMU takes a moment; a machine that is busy, or a disk that sleeps, some more.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the rest of what it said is waited for, once it has ended: somebody whom it started may have its pipe still.
const GRACE: Duration = Duration::from_millis(500);
/// How much of what it says is read.
const SAID_BYTES: u64 = 4096;

/// What a QEMU's CPUs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Arm, 64 bits.
    Aarch64,
    /// POWER, 64 bits.
    Ppc64,
    /// x86, 64 bits.
    X86_64,
}

impl Arch {
    /// Its QEMU's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Aarch64 => "qemu-system-aarch64",
            Self::Ppc64 => "qemu-system-ppc64",
            Self::X86_64 => "qemu-system-x86_64",
        }
    }

    /// The package of Debian that has it.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Aarch64 => "qemu-system-arm",
            Self::Ppc64 => "qemu-system-ppc",
            Self::X86_64 => "qemu-system-x86",
        }
    }
}

/// A version of QEMU. Ordered as versions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl Version {
    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Reads it from the first line that `--version` prints.
    fn parse(text: &str) -> Option<Self> {
        let numbers = text.strip_prefix("QEMU emulator version ")?;
        let mut parts = numbers.split(|other: char| !other.is_ascii_digit());
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU that was found and said its version.
///
/// Two places are known: the path; and a Debian tree of its own, made for instance with `debootstrap`. The tree is not entered: its QEMU is
/// started through its own dynamic linker with its own libraries, which takes no privilege and leaves paths as they are. It is
/// the one that [`TREE_VARIABLE`] names, or the folder `qemu-11` beside the folder that this program was built into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    arch: Arch,
    /// What to start, and the arguments that come before any other.
    program: PathBuf,
    prefix: Vec<OsString>,
    version: Version,
}

impl Qemu {
    /// The QEMU to use: the tree's where [`TREE_VARIABLE`] names one, else the path's, else that of a tree beside the build.
    ///
    /// # Errors
    ///
    /// [`QemuError::Absent`], or [`QemuError::NotQemu`] for something by that name that is not one.
    pub fn find(arch: Arch) -> Result<Self, QemuError> {
        if let Some(tree) = env::var_os(TREE_VARIABLE).filter(|tree| !tree.is_empty()) {
            return Self::in_tree(arch, Path::new(&tree));
        }
        match Self::on_path(arch) {
            Err(QemuError::Absent { .. }) => Self::beside_the_build(arch),
            other => other,
        }
    }

    /// The newest QEMU of those that [`find`](Self::find) would consider.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn newest(arch: Arch) -> Result<Self, QemuError> {
        let all = Self::all(arch);
        all.into_iter().max_by_key(Self::version).map_or_else(|| Self::find(arch), Ok)
    }

    /// Every QEMU that works: the path's and the tree's.
    pub fn all(arch: Arch) -> Vec<Self> {
        let tree = match env::var_os(TREE_VARIABLE).filter(|tree| !tree.is_empty()) {
            Some(tree) => Self::in_tree(arch, Path::new(&tree)),
            None => Self::beside_the_build(arch),
        };
        [Self::on_path(arch), tree].into_iter().flatten().collect()
    }

    /// The QEMU on the path.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn on_path(arch: Arch) -> Result<Self, QemuError> {
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).map(|folder| folder.join(arch.program())).find(|at| at.is_file());
        Self::at(arch, &found.ok_or(QemuError::Absent { arch })?)
    }

    /// The QEMU in the Debian tree at `tree`.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn in_tree(arch: Arch, tree: &Path) -> Result<Self, QemuError> {
        let program = tree.join("usr/bin").join(arch.program());
        let linker = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"].map(|name| tree.join(name));
        let linker = linker.into_iter().find(|linker| linker.is_file());
        let (true, Some(linker)) = (program.is_file(), linker) else {
            return Err(QemuError::Absent { arch });
        };
        let libraries =
            ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|triple| tree.join("usr/lib").join(triple));
        let libraries = libraries.into_iter().find(|folder| folder.is_dir()).unwrap_or_default();
        let mut prefix = vec![OsString::from("--library-path"), libraries.into(), program.into()];
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            prefix.extend([OsString::from("-L"), tree.join(firmware).into()]);
        }
        Self::asked(arch, linker, prefix, LIMIT)
    }

    /// The QEMU of a tree beside the build: `target/qemu-11` for a program in `target`, however deep.
    fn beside_the_build(arch: Arch) -> Result<Self, QemuError> {
        let own = env::current_exe().unwrap_or_default();
        let tree = own.ancestors().map(|folder| folder.join(TREE_FOLDER)).find(|tree| tree.is_dir());
        Self::in_tree(arch, &tree.ok_or(QemuError::Absent { arch })?)
    }

    /// A program that is said to be a QEMU, after it said its version.
    ///
    /// # Errors
    ///
    /// [`QemuError::NotQemu`], also for one that says nothing for 10 s.
    pub fn at(arch: Arch, program: &Path) -> Result<Self, QemuError> {
        Self::asked(arch, program.to_owned(), Vec::new(), LIMIT)
    }

    /// A QEMU that is a shell script.
    #[cfg(test)]
    pub(crate) fn fake(arch: Arch, script: &str) -> Self {
        let prefix = ["-c", script, "qemu"].map(OsString::from).to_vec();
        Self { arch, program: "/bin/sh".into(), prefix, version: Version::new(0, 0) }
    }

    fn asked(
        arch: Arch,
        program: PathBuf,
        prefix: Vec<OsString>,
        limit: Duration,
    ) -> Result<Self, QemuError> {
        let refuse = |what: String| QemuError::NotQemu { program: program.display().to_string(), what };
        let mut command = Command::new(&program);
        command.args(&prefix).arg("--version");
        let (status, said, errors) = heard(command, limit).map_err(refuse)?;
        let Some(version) = Version::parse(&said) else {
            let line = said.lines().next().unwrap_or_default();
            return Err(refuse(format!("it ended with {status} and said `{line}{}`", errors.trim())));
        };
        Ok(Self { arch, program, prefix, version })
    }

    /// What its CPUs are.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// A command that starts it, its own arguments still to come.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).stdin(Stdio::null());
        command
    }
}

impl fmt::Display for Qemu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU {}", self.version)
    }
}

/// Runs a command to its end, which is to come within `limit`. Answers how it ended, and the beginning of what it said on standard output and on standard error.
fn heard(mut command: Command, limit: Duration) -> Result<(ExitStatus, String, String), String> {
    dies_with_this_thread(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let (said, errors) = (beginning(child.stdout.take()), beginning(child.stderr.take()));
    let deadline = Instant::now() + limit;
    let why = loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let rest = |pipe: Receiver<String>| pipe.recv_timeout(GRACE).unwrap_or_default();
                return Ok((status, rest(said), rest(errors)));
            }
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Ok(None) => break format!("it did not say its version within {:.1} s", limit.as_secs_f64()),
            Err(error) => break error.to_string(),
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    Err(why)
}

/// The beginning of what comes through a pipe, once there is no more of it. It is read meanwhile, so that who says it is not kept waiting.
fn beginning(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error was said all the same.
        let _ = pipe.map(|pipe| pipe.take(SAID_BYTES).read_to_end(&mut bytes));
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_line_that_qemu_prints() {
        let debian =
            Version::parse("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright");
        assert_eq!(debian, Some(Version::new(7, 2)));
        assert_eq!(Version::parse("QEMU emulator version 11.1.3"), Some(Version::new(11, 1)));
        assert_eq!(Version::parse("QEMU emulator version x"), None);
        assert_eq!(Version::parse("ls (GNU coreutils) 9.1"), None);
        assert!(Version::new(11, 1) > Version::new(7, 2));
    }

    #[test]
    fn a_program_that_is_no_qemu_is_refused_with_what_it_said() {
        let error = Qemu::at(Arch::Aarch64, Path::new("/bin/echo")).unwrap_err();
        assert!(
            error.to_string().starts_with("/bin/echo is not a QEMU: it ended with exit status: 0"),
            "{error}"
        );
        let error = Qemu::at(Arch::Aarch64, Path::new("/no/such/qemu")).unwrap_err();
        assert!(matches!(error, QemuError::NotQemu { .. }), "{error}");
    }

    #[test]
    fn a_program_that_says_nothing_is_not_waited_for_for_ever() {
        let asked = |script: &str, limit| {
            let prefix = ["-c", script].map(OsString::from).to_vec();
            Qemu::asked(Arch::Aarch64, "/bin/sh".into(), prefix, limit)
        };
        let silent = asked("exec sleep 60", Duration::from_millis(200));
        let what = "it did not say its version within 0.2 s".to_owned();
        assert_eq!(silent, Err(QemuError::NotQemu { program: "/bin/sh".into(), what }));
        // One that says something without end, and one whose pipe somebody else keeps open.
        for (script, end) in [("exec yes", "signal: 13 (SIGPIPE)"), ("sleep 5 & exit 3", "exit status: 3")] {
            let error = asked(script, LIMIT).unwrap_err().to_string();
            assert!(error.contains(&format!("it ended with {end}")), "{error}");
        }
        let qemu = asked("echo QEMU emulator version 7.2.22", LIMIT).unwrap();
        assert_eq!(qemu.version(), Version::new(7, 2));
    }

    #[test]
    fn an_absent_qemu_is_one_line_that_names_its_package() {
        let error = Qemu::in_tree(Arch::Ppc64, Path::new("/no/such/tree")).unwrap_err();
        assert_eq!(error, QemuError::Absent { arch: Arch::Ppc64 });
        let text = error.to_string();
        assert!(text.contains("qemu-system-ppc64") && text.contains("package qemu-system-ppc,"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
