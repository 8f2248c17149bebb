//! No vendor's name stands in what knows no vendor: the code and the docs of core and of VFIO, their tests included.
//!
//! A name there is the first sign of an assumption: what core needs to know of hardware, its seams say in neutral words. Drivers, and who brings both together, may
//! name whom they like.
//!
//! Left alone: citations (`Spec:`, `Observed:`), since books and other people's functions are called what they are called; the word `arm` in small letters, which a `match` has.
//!
//! Not here: that these rooms cannot use a vendor's crate ([`rules`](crate::rules)).

use std::fs;
use std::path::Path;

/// The rooms that know no vendor.
pub(crate) const ROOMS: [&str; 2] = ["crates/core", "crates/vfio"];

/// What names of vendors' hardware begin with, in small letters.
const BEGINNINGS: [&str; 3] = ["smmu", "phb", "ioda"];
/// Names that are whole words, in small letters.
const WHOLE: [&str; 3] = ["vtd", "intel", "amd"];
/// Names that are only names as they are written here.
const AS_WRITTEN: [&str; 2] = ["Arm", "ARM"];
/// What a citation begins with.
const CITATIONS: [&str; 2] = ["Spec:", "Observed:"];

/// A complaint for each line of a file that names a vendor.
pub(crate) fn check(file: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let named = text.lines().enumerate().filter_map(|(at, line)| Some((at, vendor(line)?)));
    Ok(named
        .map(|(at, name)| format!("{}:{}: names `{name}`, and knows no vendor", file.display(), at + 1))
        .collect())
}

/// The first vendor that a line names.
fn vendor(line: &str) -> Option<&str> {
    let said = line.trim_start().trim_start_matches(['/', '!', '#', '*', ' ']);
    if CITATIONS.iter().any(|citation| said.starts_with(citation)) {
        return None;
    }
    if line.to_ascii_lowercase().contains("vt-d") {
        return Some("VT-d");
    }
    line.split(|character: char| !character.is_ascii_alphanumeric()).find(|word| is_vendor(word))
}

fn is_vendor(word: &str) -> bool {
    let small = word.to_ascii_lowercase();
    BEGINNINGS.iter().any(|beginning| small.starts_with(beginning))
        || WHOLE.contains(&small.as_str())
        || AS_WRITTEN.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_code_and_in_docs_are_found() {
        let found = [
            ("    if iommu.is::<Smmu>() {", Some("Smmu")),
            ("/// As an SMMUv3 does.", Some("SMMUv3")),
            ("use portcullis_smmuv3::Domain;", Some("smmuv3")),
            ("//! What VT-d calls a domain id.", Some("VT-d")),
            ("mod vtd;", Some("vtd")),
            ("// Intel's calls it otherwise.", Some("Intel")),
            ("/// Arm's tables.", Some("Arm")),
            ("const PHB3_WINDOWS: usize = 2;", Some("PHB3")),
            ("/// IODA2 has two.", Some("IODA2")),
        ];
        for (line, name) in found {
            assert_eq!(vendor(line), name, "{line}");
        }
    }

    #[test]
    fn citations_and_words_that_only_look_like_names_are_left_alone() {
        for line in [
            "    /// Spec: Arm ARM DDI 0487, D8.",
            "// Observed: Linux 7.3, arm_smmu_write_entry",
            "        // The other arm of the match.",
            "/// An alarm; what is intelligible.",
        ] {
            assert_eq!(vendor(line), None, "{line}");
        }
    }

    #[test]
    fn a_file_is_complained_about_line_by_line() {
        let file = std::env::temp_dir().join(format!("portcullis-vendors-{}.rs", std::process::id()));
        fs::write(&file, "//! Spec: Intel SDM.\nstruct Smmu;\nfn phb() {}\n").unwrap();
        let complaints = check(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(complaints.len(), 2);
        assert!(complaints[0].contains(":2: names `Smmu`") && complaints[1].contains(":3: names `phb`"));
    }
}
