//! QEMU's script for ACPI tables: what a BIOS has to do so that tables point at each other.
//!
//! Three things are asked: to find room for a file, to add where a file lies to a number in another, and to put a sum right. What else a script says is not for tables.
//!
//! Observed: QEMU 7.2 and 11.1, the comments of hw/acpi/bios-linker-loader.c.

use super::{nonsense, text};
use crate::QemuError;

/// Bytes of a command, and of a file's name in it.
const COMMAND_BYTES: usize = 128;
const NAME_BYTES: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// A file that has a place.
struct Placed {
    name: Vec<u8>,
    /// From the area's beginning.
    at: usize,
    len: usize,
}

/// What lies in the area.
struct Area {
    first: u64,
    bytes: Vec<u8>,
    most_bytes: usize,
    files: Vec<Placed>,
}

/// Does what `script` says for an area at `first`. `file` fetches a file by its name.
pub(super) fn run(
    script: &[u8],
    first: u64,
    most_bytes: usize,
    file: impl Fn(&str) -> Result<Vec<u8>, QemuError>,
) -> Result<Vec<u8>, QemuError> {
    let mut area = Area { first, bytes: Vec::new(), most_bytes, files: Vec::new() };
    for command in script.chunks_exact(COMMAND_BYTES) {
        let name = |index: usize| text(&command[4 + index * NAME_BYTES..][..NAME_BYTES]);
        let done = match number(&command[..4]) {
            ALLOCATE => {
                let text = String::from_utf8_lossy(name(0)).into_owned();
                let align = number(&command[60..64]) as usize;
                area.place(name(0), &file(&text)?, align)
            }
            ADD_POINTER => {
                area.add_pointer(name(0), name(1), number(&command[116..120]) as usize, command[120].into())
            }
            ADD_CHECKSUM => {
                let [offset, start, len] = [60, 64, 68].map(|at| number(&command[at..at + 4]) as usize);
                area.add_checksum(name(0), offset, start, len)
            }
            _ => Some(()),
        };
        done.ok_or_else(|| nonsense("etc/table-loader"))?;
    }
    area.bytes.resize(most_bytes, 0);
    Ok(area.bytes)
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

impl Area {
    /// Files end in room for more, which is left out: nothing points there.
    fn place(&mut self, name: &[u8], file: &[u8], align: usize) -> Option<()> {
        let used = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let at = self.bytes.len().checked_next_multiple_of(align.clamp(16, 0x1000))?;
        if at + used > self.most_bytes {
            return None;
        }
        self.bytes.resize(at, 0);
        self.bytes.extend(&file[..used]);
        // A last table whose end is zeroes is longer than what is left of it.
        self.bytes.resize((at + used + 0x40).min(self.most_bytes), 0);
        self.files.push(Placed { name: name.to_vec(), at, len: file.len() });
        Some(())
    }

    fn find(&self, name: &[u8]) -> Option<&Placed> {
        self.files.iter().find(|file| file.name == name)
    }

    /// So many bytes of a file.
    fn part(&mut self, name: &[u8], offset: usize, len: usize) -> Option<&mut [u8]> {
        let file = self.find(name)?;
        let at = file.at.checked_add(offset).filter(|_| offset <= file.len)?;
        self.bytes.get_mut(at..at.checked_add(len)?)
    }

    fn add_pointer(&mut self, to: &[u8], of: &[u8], offset: usize, width: usize) -> Option<()> {
        let at = self.first + self.find(of)?.at as u64;
        let pointer = self.part(to, offset, width).filter(|_| matches!(width, 1 | 2 | 4 | 8))?;
        let mut word = [0; 8];
        word[..width].copy_from_slice(pointer);
        let word = u64::from_le_bytes(word).wrapping_add(at).to_le_bytes();
        pointer.copy_from_slice(&word[..width]);
        Some(())
    }

    fn add_checksum(&mut self, name: &[u8], offset: usize, start: usize, len: usize) -> Option<()> {
        self.part(name, offset, 1)?[0] = 0;
        let sum = self.part(name, start, len)?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        self.part(name, offset, 1)?[0] = sum.wrapping_neg();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(kind: u32, names: &[&str], rest_at: usize, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; COMMAND_BYTES];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        for (index, name) in names.iter().enumerate() {
            bytes[4 + index * NAME_BYTES..][..name.len()].copy_from_slice(name.as_bytes());
        }
        bytes[rest_at..][..rest.len()].copy_from_slice(rest);
        bytes
    }

    fn file(name: &str) -> Result<Vec<u8>, QemuError> {
        match name {
            "a" => Ok(vec![1, 2, 3, 4, 5, 0, 0, 0]),
            "b" => Ok(vec![9; 20]),
            _ => Err(nonsense(name)),
        }
    }

    #[test]
    fn files_get_room_pointers_and_sums() {
        let pointer = [&4u32.to_le_bytes()[..], &[4]].concat();
        let sum = [1u32, 0, 8].map(u32::to_le_bytes).concat();
        let script = [
            command(ALLOCATE, &["a"], 60, &[16, 0, 0, 0, 2]),
            command(ALLOCATE, &["b"], 60, &[64, 0, 0, 0, 2]),
            command(ADD_POINTER, &["a", "b"], 116, &pointer),
            command(ADD_CHECKSUM, &["a"], 60, &sum),
        ];
        let area = run(&script.concat(), 0xe_0000, 0x1000, file).unwrap();
        let b = area.iter().position(|byte| *byte == 9).unwrap();
        assert!(b.is_multiple_of(64) && area.len() == 0x1000);
        let pointer = u32::from_le_bytes(area[4..8].try_into().unwrap());
        assert_eq!(pointer, 0xe_0000 + u32::try_from(b).unwrap() + 5);
        assert_eq!(area[..8].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!((area[0], area[2], area[3]), (1, 3, 4));
    }

    #[test]
    fn a_script_about_what_is_not_there_is_an_error_and_no_panic() {
        let allocate = command(ALLOCATE, &["a"], 60, &[16, 0, 0, 0, 2]);
        assert_eq!(
            run(&command(ALLOCATE, &["nothing"], 60, &[0; 5]), 0xe_0000, 0x1000, file),
            Err(nonsense("nothing"))
        );
        let script = Err(nonsense("etc/table-loader"));
        let wrong = [
            command(ADD_POINTER, &["a", "b"], 116, &[0, 0, 0, 0, 4]),
            command(ADD_POINTER, &["a", "a"], 116, &[0xff, 0xff, 0xff, 0xff, 4]),
            command(ADD_POINTER, &["a", "a"], 116, &[0, 0, 0, 0, 3]),
            command(ADD_CHECKSUM, &["a"], 60, &[0xff; 12]),
        ];
        for command in wrong {
            assert_eq!(run(&[allocate.clone(), command].concat(), 0xe_0000, 0x1000, file), script);
        }
        assert_eq!(run(&allocate, 0xe_0000, 4, file), script, "no room");
        assert!(run(&[7; 300], 0xe_0000, 0x1000, file).is_ok(), "commands that are not known are not heeded");
    }
}
