//! How a command fails: one line on standard error, and an exit code that says whose turn it is.

use core::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use portcullis_lab::RunError;

use crate::output::visible;

/// A failure: what, where, and what to try.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The lab gave no verified result.
    Run(RunError),
    /// Some workloads failed and were reported already; the code of the first.
    Reported(u8),
    /// The simulator objected, and has shown the trace.
    Broken {
        /// The promise that was broken.
        promise: &'static str,
        /// The seed of the life.
        seed: u64,
    },
    /// The command line asks for what cannot be done.
    Usage(String),
    /// A file named on the command line cannot be written.
    Unwritable {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Standard output cannot be written.
    Output(io::Error),
}

impl Failure {
    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Run(RunError::BadInput(_)) | Self::Unwritable { .. } => 3,
            Self::Run(RunError::Refused(_)) => 4,
            Self::Usage(_) => 2,
            Self::Reported(code) => *code,
            Self::Run(_) | Self::Broken { .. } | Self::Output(_) => 1,
        }
    }

    /// Says it, unless it was said already, and answers how to exit.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Reported(_) => {}
            // Whoever read our output has enough of it, as `head` does.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            failure => say(failure),
        }
        ExitCode::from(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(error) => write!(f, "{error}"),
            Self::Reported(_) => f.write_str("see above"),
            Self::Broken { promise, seed } => {
                write!(
                    f,
                    "{promise} is broken in the life with seed {seed:#x}; its trace is on standard output"
                )
            }
            Self::Usage(what) => f.write_str(what),
            Self::Unwritable { path, error } => {
                write!(f, "{path}: cannot be written: {error}; choose a place that can")
            }
            Self::Output(error) => {
                write!(f, "standard output: cannot be written: {error}; send it to a place that can")
            }
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

/// Prints one line on standard error. That nobody can read it is no reason to fail in another way.
pub(crate) fn say(what: &impl fmt::Display) {
    let line = visible(&one_line(&what.to_string()));
    let _ = writeln!(io::stderr(), "portcullis: {line}");
}

/// What a command line that is not understood comes to, or one that asks for help or the version.
pub(crate) fn of_command_line(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Failure::Output(error).report(),
        };
    }
    Failure::Usage(complaint(&error.render().to_string())).report()
}

/// Clap's message as one line: what is wrong, and its tips, without the usage below them.
fn complaint(message: &str) -> String {
    let paragraphs =
        message.split("\n\n").take_while(|paragraph| !paragraph.trim_start().starts_with("Usage:"));
    let paragraphs = paragraphs.filter(|paragraph| !paragraph.starts_with("For more information"));
    // How to pass an option's name as a value is nobody's question here.
    let what = paragraphs.map(one_line).filter(|one| !one.is_empty() && !one.contains("as a value, use"));
    let what: Vec<String> = what.collect();
    let what = what.join("; ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    format!("{what}; see `portcullis --help`")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_of_clap_becomes_one_line() {
        let message = "error: invalid value 'x' for '[WORKLOAD]'\n  [possible values: dma]\n\n  tip: try 'dma'\n\nUsage: \
                       portcullis run\n\nFor more information, try '--help'.\n";
        assert_eq!(
            complaint(message),
            "invalid value 'x' for '[WORKLOAD]' [possible values: dma]; tip: try 'dma'; see `portcullis --help`"
        );
    }

    #[test]
    fn blame_decides_the_exit_code() {
        let code = |error: RunError| Failure::Run(error).code();
        assert_eq!(code(RunError::bad_input("f", "w", "h")), 3);
        assert_eq!(code(RunError::refused("f", "w", "h")), 4);
        assert_eq!(code(RunError::wrong("f", "w", "h")), 1);
        assert_eq!(Failure::Usage(String::new()).code(), 2);
    }
}
