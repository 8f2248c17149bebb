//! The lists of mutants, and their agreement with the code.
//!
//! A list is a file in `checks/mutants/`, in a corner of TOML: tables `[[mutant]]`, each with these keys, one to a line:
//!
//! | key | what |
//! |---|---|
//! | `name` | as in the code's `mutant!("name")` |
//! | `wrong` | what is wrong, in a sentence |
//! | `breaks` | the promise that it breaks, written before it is run |
//! | `caught` | the tests that must fail, each as `package name` or `package::target name`; a name may leave out its modules |
//! | `seen` | who shipped the like of it; may be left out |

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The nine promises (ARCHITECTURE.md).
const PROMISES: [&str; 9] = [
    "isolation",
    "reclaim",
    "one-answer",
    "one-owner",
    "reserved",
    "no-reuse",
    "unwind",
    "hitless",
    "no-leak",
];

/// A mutant, as its list has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    pub(crate) wrong: String,
    pub(crate) breaks: String,
    pub(crate) caught: Vec<TestName>,
}

/// A test: `package::target` and the end of its path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TestName {
    /// The package, and the target behind `::` unless that is the library.
    pub(crate) binary: String,
    /// The test's name, with as many of its modules as tell it from others.
    pub(crate) name: String,
}

impl TestName {
    pub(super) fn parse(words: &str) -> Option<Self> {
        let (binary, name) = words.split_once(' ')?;
        let plain = |text: &str| !text.is_empty() && !text.contains(' ');
        (plain(binary) && plain(name)).then(|| Self { binary: binary.into(), name: name.into() })
    }

    /// The package that it is in.
    pub(crate) fn package(&self) -> &str {
        self.binary.split("::").next().unwrap_or_default()
    }

    /// What Cargo is told to build it.
    pub(crate) fn target(&self) -> Vec<&str> {
        self.binary.split_once("::").map_or(vec!["--lib"], |(_, target)| vec!["--test", target])
    }

    /// Whether a test with this full path is meant.
    pub(crate) fn means(&self, path: &str) -> bool {
        path.strip_suffix(self.name.as_str())
            .is_some_and(|before| before.is_empty() || before.ends_with("::"))
    }
}

impl fmt::Display for TestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.binary, self.name)
    }
}

/// All lists of the workspace, in the order of their files' names.
///
/// # Errors
///
/// What cannot be read, or does not make sense, with its file and line.
pub(crate) fn read(root: &Path) -> Result<Vec<Mutant>, String> {
    let folder = root.join("checks/mutants");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        all.extend(parse(&text).map_err(|(line, what)| format!("{}:{line}: {what}", file.display()))?);
    }
    let mut names = BTreeSet::new();
    match all.iter().find(|mutant| !names.insert(&mutant.name)) {
        Some(twice) => Err(format!("`{}` stands in checks/mutants twice", twice.name)),
        None => Ok(all),
    }
}

/// The mutants of one file; or the line that makes no sense, and why.
fn parse(text: &str) -> Result<Vec<Mutant>, (usize, String)> {
    let mut mutants: Vec<(usize, Mutant)> = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[mutant]]" {
            mutants.push((number, Mutant::default()));
            continue;
        }
        let wrong = |what: &str| (number, what.to_owned());
        let (key, value) =
            line.split_once(" = ").ok_or_else(|| wrong("neither [[mutant]] nor `key = value`"))?;
        let (_, mutant) = mutants.last_mut().ok_or_else(|| wrong("a key before the first [[mutant]]"))?;
        let text = || string(value).ok_or_else(|| wrong("not a plain string"));
        match key {
            "name" => mutant.name = text()?,
            "wrong" => mutant.wrong = text()?,
            "breaks" => mutant.breaks = text()?,
            "seen" => drop(text()?),
            "caught" => {
                mutant.caught = tests(value).ok_or_else(|| wrong("not [\"package::target test\", …]"))?
            }
            _ => return Err(wrong("an unknown key")),
        }
    }
    let is_whole = |(number, mutant): (usize, Mutant)| match mutant.lacks() {
        Some(what) => Err((number, what)),
        None => Ok(mutant),
    };
    mutants.into_iter().map(is_whole).collect()
}

impl Mutant {
    fn lacks(&self) -> Option<String> {
        if self.name.is_empty() || self.wrong.is_empty() || self.caught.is_empty() {
            return Some("`name`, `wrong` or `caught` is missing".into());
        }
        let known = PROMISES.contains(&self.breaks.as_str());
        (!known).then(|| format!("`{}` is none of the promises {}", self.breaks, PROMISES.join(", ")))
    }
}

/// A string without escapes.
fn string(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains(['"', '\\'])).then(|| inner.to_owned())
}

fn tests(value: &str) -> Option<Vec<TestName>> {
    let inner = value.strip_prefix('[')?.strip_suffix(']')?;
    inner.split(", ").map(|each| TestName::parse(&string(each)?)).collect()
}

/// Holds the lists against the code: every mutant has its place there, and every place stands in a list. Answers how many there are.
///
/// # Errors
///
/// Lists that cannot be read.
pub(crate) fn check_hooks(
    root: &Path,
    sources: &[std::path::PathBuf],
) -> Result<(usize, Vec<String>), String> {
    let listed: BTreeSet<String> = read(root)?.into_iter().map(|mutant| mutant.name).collect();
    let mut hooks: BTreeMap<String, String> = BTreeMap::new();
    for file in sources {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        for (number, line) in (1..).zip(text.lines()) {
            let place = || format!("{}:{number}", file.strip_prefix(root).unwrap_or(file).display());
            hooks.extend(names_in(line).map(|name| (name.to_owned(), place())));
        }
    }
    let unlisted = hooks.iter().filter(|(name, _)| !listed.contains(*name));
    let unlisted =
        unlisted.map(|(name, place)| format!("{place}: mutant `{name}` stands in no list of checks/mutants"));
    let missing = listed.iter().filter(|name| !hooks.contains_key(*name));
    let missing = missing.map(|name| format!("checks/mutants: mutant `{name}` has no place in crates/*/src"));
    Ok((listed.len(), unlisted.chain(missing).collect()))
}

/// The mutants that a line of code asks for.
fn names_in(line: &str) -> impl Iterator<Item = &str> {
    let code = if line.trim_start().starts_with("//") { "" } else { line };
    code.split("mutant!(\"").skip(1).filter_map(|rest| Some(rest.split_once("\")")?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "\
# A comment.
[[mutant]]
name = \"leaf\"
wrong = \"A leaf is lost.\"
breaks = \"isolation\"
caught = [\"a-package::target some_test\", \"a-package module::other\"]
seen = \"nobody\"
";

    #[test]
    fn a_list_says_what_its_keys_say() {
        let [mutant] = &parse(ONE).unwrap()[..] else { panic!("one") };
        assert_eq!((mutant.name.as_str(), mutant.breaks.as_str()), ("leaf", "isolation"));
        assert_eq!(mutant.caught[0].to_string(), "a-package::target some_test");
        assert_eq!(mutant.caught[1].package(), "a-package");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_line() {
        let broken = |from: &str, to: &str| parse(&ONE.replace(from, to)).unwrap_err();
        assert_eq!(broken("isolation", "courtesy").0, 2);
        assert_eq!(broken("wrong = ", "worng = ").0, 4);
        assert_eq!(broken("[\"a-package::target some_test\"", "\"").0, 6);
        assert_eq!(broken("a-package::target some_test", "a-package::target").0, 6);
        assert_eq!(broken("name = \"leaf\"", "").0, 2);
        assert_eq!(broken("[[mutant]]", "").0, 3);
    }

    #[test]
    fn a_name_may_leave_out_its_modules_but_not_a_part_of_a_word() {
        let test = TestName { binary: "p".into(), name: "is_so".into() };
        assert!(test.means("tests::deep::is_so") && test.means("is_so"));
        assert!(!test.means("tests::this_so") && !test.means("it_is_so"));
    }

    #[test]
    fn places_in_the_code_are_found_and_those_in_comments_are_not() {
        let names: Vec<_> = names_in(r#"if mutant!("a") || !mutant!("b-c") {"#).collect();
        assert_eq!(names, ["a", "b-c"]);
        assert_eq!(names_in(r#"    // if mutant!("a")"#).count(), 0);
    }
}
