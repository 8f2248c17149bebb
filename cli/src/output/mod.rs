//! What people and scripts get to see.

pub(crate) mod events;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod tree;

use std::io::{self, Write};

use crate::failure::Failure;

/// Writes `text` to standard output, all of it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.split('\n').map(visible).collect::<Vec<_>>().join("\n").as_bytes())
}

/// `text` on one line, with what a terminal would obey written out: names of files and of what device trees tell are others' to choose.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    shown
}

/// Writes `bytes` to standard output, all of them.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Lines of two columns, the second starting at the same place in each.
pub(crate) fn columns(rows: &[[String; 2]]) -> String {
    let width = rows.iter().map(|[first, _]| first.chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|[first, second]| format!("{first:<width$}  {second}").trim_end().to_owned() + "\n")
        .collect()
}

/// Several, as people say it, with `word` before the last.
pub(crate) fn listed(all: &[String], word: &str) -> String {
    match all.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// A number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(visible("a\u{1b}[2J\r\nä─b"), "a\\u{1b}[2J\\r\\nä─b");
    }

    #[test]
    fn several_are_listed_with_a_word_before_the_last() {
        let all = ["a", "b", "c"].map(str::to_owned);
        let told = |count| listed(&all[..count], "or");
        assert_eq!([0, 1, 2, 3].map(told), ["", "a", "a or b", "a, b or c"]);
    }

    #[test]
    fn the_second_column_begins_at_one_place() {
        let rows = [["a", "one"], ["long", "two"], ["c", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "a     one\nlong  two\nc\n");
    }
}
