//! Where a run's events go: to the terminal as they happen (`-v`), to a file as JSON lines (`--trace`), both, or nowhere.
//!
//! The file is written beside its place, under another name, and takes its place when it is complete; a run that is
//! killed leaves what was there before. What is no file, such as a pipe or a terminal, is written to as it is.

use core::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_lab::MachineChoice;
use portcullis_types::trace::{Event, Sink, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::args::RunOptions;
use crate::failure::Failure;
use crate::output::visible;

/// The events of a command.
pub(crate) struct Events {
    target: Option<Arc<Target>>,
}

impl Events {
    /// Opens what `options` ask for. The file may not be one that the run reads: its input, its machine's device tree.
    pub(crate) fn open(options: &RunOptions, input: Option<&Path>) -> Result<Self, Failure> {
        let tree = match &options.machine {
            Some(MachineChoice::Dtb(path)) => Some(path.as_path()),
            _ => None,
        };
        let read: Vec<&Path> = input.into_iter().chain(tree).collect();
        let file = options.trace.as_deref().map(|path| TraceFile::create(path, &read)).transpose()?;
        if file.is_none() && !options.verbose {
            return Ok(Self { target: None });
        }
        Ok(Self { target: Some(Arc::new(Target { live: options.verbose, file: Mutex::new(file) })) })
    }

    /// The sink for a run; none if nobody wants to know.
    pub(crate) fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.target.as_ref().map(|target| target.clone() as Arc<dyn Sink>)
    }

    /// Completes the file and puts it in its place.
    pub(crate) fn close(self) -> Result<(), Failure> {
        let file = self.target.and_then(|target| target.lock().take());
        file.map_or(Ok(()), TraceFile::finish)
    }
}

/// Takes events.
struct Target {
    live: bool,
    file: Mutex<Option<TraceFile>>,
}

impl Target {
    fn lock(&self) -> MutexGuard<'_, Option<TraceFile>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Target {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        if self.live {
            // That nobody reads it is no reason to stop the run.
            let _ = writeln!(io::stderr().lock(), "{}", visible(&Live(event).to_string()));
        }
        if let Some(file) = self.lock().as_mut() {
            file.add(event);
        }
    }
}

/// The steps of a process that is shared with a device, which people know by these very lines.
///
/// Observed: trace points of Linux 5.7 with the series of SVA for SMMUv3.
const STEPS: [&str; 6] = [
    "smmu_bind_alloc",
    "dev_fault",
    "dev_page_response",
    "smmu_mm_invalidate",
    "smmu_mm_release",
    "smmu_unbind_free",
];

/// An event as `-v` shows it: after who says it, but for the [`STEPS`], which stand alone.
struct Live<'a>(&'a Event<'a>);

impl fmt::Display for Live<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(event) = self;
        if STEPS.contains(&event.name) { write!(f, "{event}") } else { write!(f, "{} {event}", event.source) }
    }
}

/// A file of JSON lines that is not yet in its place.
struct TraceFile {
    place: PathBuf,
    /// What is to be renamed, or removed if it never gets complete; none if the lines go to the place itself.
    draft: Option<PathBuf>,
    out: BufWriter<File>,
    count: u64,
    /// The first write that failed; nothing is written after it.
    error: Option<io::Error>,
}

impl TraceFile {
    fn create(place: &Path, read: &[&Path]) -> Result<Self, Failure> {
        // Where a link leads, if there is something: a link is kept, not replaced.
        let real = fs::canonicalize(place).unwrap_or_else(|_| place.to_owned());
        if read.iter().any(|read| fs::canonicalize(read).is_ok_and(|read| read == real)) {
            let place = place.display();
            return Err(Failure::Usage(format!(
                "--trace {place}: is a file to be read; choose another for the trace"
            )));
        }
        if is_written_to(&real) {
            let place = place.display();
            return Err(Failure::Usage(format!(
                "--trace {place}: is where results or events go; choose another for the trace"
            )));
        }
        let special = fs::metadata(&real).is_ok_and(|known| !known.is_file());
        let opened = if special {
            File::options().write(true).open(&real).map(|file| (file, None))
        } else {
            create_draft(&real).map(|(file, draft)| (file, Some(draft)))
        };
        let (file, draft) = opened.map_err(|error| unwritable(place, error))?;
        Ok(Self { place: real, draft, out: BufWriter::new(file), count: 0, error: None })
    }

    fn add(&mut self, event: &Event<'_>) {
        if self.error.is_some() {
            return;
        }
        let line = Line { seq: self.count, event };
        let written = serde_json::to_writer(&mut self.out, &line).map_err(io::Error::from);
        self.error = written.and_then(|()| self.out.write_all(b"\n")).err();
        self.count += 1;
    }

    fn finish(mut self) -> Result<(), Failure> {
        let complete = self.error.take().map_or_else(|| self.out.flush(), Err);
        let placed = complete.and_then(|()| match &self.draft {
            Some(draft) => fs::rename(draft, &self.place),
            None => Ok(()),
        });
        placed.map_err(|error| unwritable(&self.place, error))?;
        self.draft = None;
        Ok(())
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // Half a trace is worth less than none: it looks whole.
            let _ = fs::remove_file(draft);
        }
    }
}

/// Whether standard output or standard error goes to the file at `place`, which a trace would replace under their hands.
fn is_written_to(place: &Path) -> bool {
    let (out, error) = (io::stdout(), io::stderr());
    let streams = [out.as_fd(), error.as_fd()].map(|stream| stream.try_clone_to_owned().map(File::from));
    let Ok(known) = fs::metadata(place) else { return false };
    let same = |stream: &fs::Metadata| (stream.dev(), stream.ino()) == (known.dev(), known.ino());
    let mut streams = streams.into_iter().flatten().filter_map(|stream| stream.metadata().ok());
    known.is_file() && streams.any(|stream| same(&stream))
}

/// How many names are tried for a draft.
const DRAFTS: u32 = 100;

/// Creates a file beside `place` that no other run uses. What has a draft's name already is somebody's who was killed: numbers of processes come again, in a
/// container at each start.
fn create_draft(place: &Path) -> io::Result<(File, PathBuf)> {
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for nth in 0..DRAFTS {
        let draft = draft_of(place, nth);
        match File::create_new(&draft) {
            Ok(file) => return Ok((file, draft)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

fn draft_of(place: &Path, nth: u32) -> PathBuf {
    let mut draft = place.as_os_str().to_owned();
    draft.push(format!(".{}-{nth}.draft", std::process::id()));
    PathBuf::from(draft)
}

fn unwritable(path: &Path, error: io::Error) -> Failure {
    Failure::Unwritable { path: path.display().to_string(), error }
}

/// An event as a line: `{"seq":0,"source":"core","event":"dma_map","fields":{…}}`.
struct Line<'a> {
    seq: u64,
    event: &'a Event<'a>,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("seq", &self.seq)?;
        map.serialize_entry("source", self.event.source)?;
        map.serialize_entry("event", self.event.name)?;
        map.serialize_entry("fields", &Fields(self.event.fields))?;
        map.end()
    }
}

/// The fields in the order in which they were said. Numbers that people read in hexadecimal are strings, as they print: an address has
/// more bits than a JSON number keeps in many a reader.
struct Fields<'a>(&'a [(&'static str, Value<'a>)]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            match value {
                Value::Dec(number) => map.serialize_entry(key, number)?,
                Value::Str(word) => map.serialize_entry(key, word)?,
                Value::Hex(_) | Value::Addr(_) => map.serialize_entry(key, &value.to_string())?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: Event<'_> = Event {
        source: "core",
        name: "dma_map",
        fields: &[("dev", Value::Str("a\"b")), ("iova", Value::Addr(0x1000)), ("len", Value::Dec(4096))],
    };

    #[test]
    fn an_event_is_one_line_of_json_with_its_fields_in_order() {
        let line = serde_json::to_string(&Line { seq: 7, event: &EVENT }).unwrap();
        assert_eq!(
            line,
            r#"{"seq":7,"source":"core","event":"dma_map","fields":{"dev":"a\"b","iova":"0x0000000000001000","len":4096}}"#
        );
    }

    #[test]
    fn steps_of_sharing_stand_alone_and_everything_else_says_who_says_it() {
        assert!(Live(&EVENT).to_string().starts_with("core dma_map: dev="));
        let fields = [("pasid", Value::Dec(1)), ("start", Value::Hex(0x1000)), ("end", Value::Hex(0x3000))];
        let step = Event { source: "smmuv3", name: "smmu_mm_invalidate", fields: &fields };
        assert_eq!(Live(&step).to_string(), "smmu_mm_invalidate: pasid=1 start=0x1000 end=0x3000");
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("portcullis-events-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_trace_takes_its_place_only_when_it_is_complete() {
        let folder = folder("complete");
        let place = folder.join("trace");
        let mut file = TraceFile::create(&place, &[]).unwrap();
        file.add(&EVENT);
        assert!(!place.exists());
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap().lines().count(), 1);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "the draft is gone");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_draft_that_a_killed_run_has_left_is_in_nobodys_way() {
        let folder = folder("left");
        let place = folder.join("trace");
        fs::write(draft_of(&place, 0), "half").unwrap();
        TraceFile::create(&place, &[]).unwrap().finish().unwrap();
        assert!(place.exists());
        assert_eq!(fs::read_to_string(draft_of(&place, 0)).unwrap(), "half", "it may be somebody's yet");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_no_file_is_written_to_and_not_replaced() {
        let null = Path::new("/dev/null");
        let mut file = TraceFile::create(null, &[]).unwrap();
        file.add(&EVENT);
        file.finish().unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
    }

    #[test]
    fn a_trace_may_not_replace_the_file_that_is_read() {
        let folder = folder("same");
        let file = folder.join("file");
        fs::write(&file, "data").unwrap();
        let refused = TraceFile::create(&folder.join("./file"), &[&file]);
        assert!(matches!(refused, Err(Failure::Usage(_))));
        assert_eq!(fs::read_to_string(&file).unwrap(), "data");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_trace_that_is_given_up_leaves_nothing() {
        let folder = folder("dropped");
        drop(TraceFile::create(&folder.join("trace"), &[]).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }
}
