//! What a workload works on: a file of the caller's, or the built-in sample.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::RunError;

/// What a workload works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Bytes that come with the lab, the same in every run.
    Sample,
}

/// How many bytes the sample has: some megabytes, and an end that fills neither a page nor a block.
pub const SAMPLE_BYTES: usize = (3 << 20) + 1234;

/// An input that has been opened and measured.
#[derive(Debug)]
pub enum Opened {
    /// A file, and what it holds.
    File(PathBuf, Measure),
    /// The sample.
    Sample(Vec<u8>, Measure),
}

/// Length and digest of an input, as the host reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// How many bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub digest: String,
}

impl Input {
    /// Opens the input and reads it once, in pieces.
    ///
    /// # Errors
    ///
    /// [`RunError::BadInput`]: the file is missing, unreadable, or no regular file, or holds another number of bytes than its size says.
    pub fn open(&self) -> Result<Opened, RunError> {
        match self {
            Self::File(path) => measure_file(path).map(|measure| Opened::File(path.clone(), measure)),
            Self::Sample => Ok(Opened::beginning_of_sample(SAMPLE_BYTES)),
        }
    }
}

impl Opened {
    /// The first bytes of the sample: `len_bytes` of them, or all there are.
    pub fn beginning_of_sample(len_bytes: usize) -> Self {
        let mut bytes = sample();
        bytes.truncate(len_bytes);
        let measure = Measure { bytes: bytes.len() as u64, digest: hex(&Sha256::digest(&bytes)) };
        Self::Sample(bytes, measure)
    }

    /// Length and digest.
    pub fn measure(&self) -> &Measure {
        match self {
            Self::File(_, measure) | Self::Sample(_, measure) => measure,
        }
    }

    /// What to call it in a report.
    pub fn name(&self) -> String {
        match self {
            Self::File(path, _) => path.display().to_string(),
            Self::Sample(..) => "built-in sample".into(),
        }
    }
}

fn measure_file(path: &Path) -> Result<Measure, RunError> {
    let refuse = |what: String| {
        RunError::bad_input(path.display(), what, "give the path of a regular file that you may read")
    };
    let unreadable = |error: io::Error| refuse(format!("cannot be read ({error})"));
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(refuse(if meta.is_dir() {
            "is a directory".into()
        } else {
            "is not a regular file".into()
        }));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    // One that grows is not read to an end that may never come.
    while bytes <= meta.len() {
        let count = file.read(&mut piece).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
        bytes += count as u64;
    }
    // What the kernel makes up as it is read, such as a file in /proc, has no size that a disk could have.
    if bytes != meta.len() {
        return Err(refuse(format!("does not hold the {} bytes that its size says", meta.len())));
    }
    Ok(Measure { bytes, digest: hex(&hash.finalize()) })
}

/// The sample's bytes: no block of it is like another, so that a block that went astray is noticed.
fn sample() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(SAMPLE_BYTES + 8);
    while bytes.len() < SAMPLE_BYTES {
        // xorshift64. Source: Marsaglia, "Xorshift RNGs", 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(SAMPLE_BYTES);
    bytes
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_and_a_directory_are_bad_input() {
        for path in ["/nonexistent/portcullis", "/"] {
            let error = Input::File(path.into()).open().unwrap_err();
            assert!(matches!(&error, RunError::BadInput(trouble) if trouble.at == path), "{error:?}");
        }
    }

    #[test]
    fn a_file_that_holds_another_number_of_bytes_than_its_size_says_is_bad_input() {
        let made_up = "/proc/self/status";
        if Path::new(made_up).is_file() {
            let error = Input::File(made_up.into()).open().unwrap_err();
            let says = |trouble: &crate::error::Trouble| trouble.what.contains("the 0 bytes that its size");
            assert!(matches!(&error, RunError::BadInput(trouble) if says(trouble)), "{error:?}");
        }
    }

    #[test]
    fn the_digest_is_sha_256() {
        // FIPS 180-2, B.1: "abc".
        assert_eq!(hex(&Sha256::digest(b"abc"))[..16], *"ba7816bf8f01cfea");
        let opened = Input::Sample.open().unwrap();
        assert_eq!((opened.measure().bytes, opened.measure().digest.len()), (SAMPLE_BYTES as u64, 64));
    }
}
