//! What QEMU does otherwise than the book, and our model as the book says. Short, and each row has a test of its own that shows that QEMU still
//! does so (`tests/known.rs`).
//!
//! A [`Row`] of the first kind is a word of a record that QEMU writes otherwise: its answer is corrected before it is compared. One of the
//! second kind explains a whole answer, in circumstances that are as narrow as we can say them. What is in neither is a failure.
//!
//! Spec: SMMUv3 H.a, as each row says. Observed: QEMU 11.1.

mod correct;
mod explain;
mod record;
mod rows;

pub use rows::ROWS;

use crate::answer::Answer;
use crate::case::{Access, Case, Stream};
use crate::descriptor::{Kind, kinds};
use crate::image::Table;
use crate::ours::Verdict;

/// One access, and all that is known of it.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The case.
    pub case: &'a Case,
    /// The access.
    pub access: &'a Access,
    /// What our model says.
    pub ours: &'a Verdict,
}

/// A translation table descriptor that a walk went through.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// In which table.
    pub table: Table,
    /// Where.
    pub at: u64,
    /// What it says.
    pub raw: u64,
}

impl Context<'_> {
    /// What the device was told.
    pub fn stream(&self) -> Option<&Stream> {
        self.case.stream(self.access.stream)
    }

    /// Config of its entry.
    fn config(&self) -> u64 {
        self.stream().map_or(0, |stream| stream.ste[0] >> 1 & 7)
    }

    /// The descriptors that our model went through.
    pub fn steps(&self) -> Vec<Step> {
        let step = |&(at, raw): &(u64, u64)| Some(Step { table: self.case.image.table_of(at)?, at, raw });
        self.ours.walked.iter().filter_map(step).collect()
    }

    /// Whether our model went through a descriptor that is of this kind.
    fn met(&self, kind: Kind) -> bool {
        let of = |step: &Step| kinds(step.table.stage, step.table.granule, step.table.level, step.raw);
        self.steps().iter().any(|step| of(step).contains(&kind))
    }

    /// Whether the first level of the stream table has no entry for the id, and QEMU may think otherwise.
    fn stream_is_bad(&self) -> bool {
        let Some(split) = self.case.setup.split() else { return false };
        // The first word that is read is the first level's.
        let Some(&(_, first)) = self.ours.walked.first() else { return false };
        let span = first & 0x1f;
        let lower = u64::from(self.access.stream) & ((1 << split) - 1);
        span > 11 || span > u64::from(split) + 1 || span != 0 && lower >> (span - 1) != 0
    }

    fn ours_fault(&self) -> Option<u8> {
        self.ours.answer.fault()
    }
}

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// A word for it.
    pub name: &'static str,
    /// What QEMU does.
    pub qemu: &'static str,
    /// The clause that decides.
    pub clause: &'static str,
    /// How it is dealt with.
    pub remedy: Remedy,
}

/// How a row is dealt with.
#[derive(Clone, Copy)]
pub enum Remedy {
    /// Corrects QEMU's answer. Answers whether there was something to correct.
    Correct(fn(&Context<'_>, &mut Answer) -> bool),
    /// Says whether a corrected answer of QEMU is explained.
    Explain(fn(&Context<'_>, &Answer) -> bool),
    /// The generator does not draw it.
    Avoid,
}

/// What becomes of QEMU's answer, with the rows that had something to say.
pub fn corrected(context: &Context<'_>, theirs: &Answer) -> (Answer, Vec<&'static str>) {
    let mut answer = theirs.clone();
    let mut used = Vec::new();
    for row in ROWS {
        if let Remedy::Correct(correct) = row.remedy
            && correct(context, &mut answer)
        {
            used.push(row.name);
        }
    }
    (answer, used)
}

/// The row that explains an answer that is not ours.
pub fn explanation(context: &Context<'_>, corrected: &Answer) -> Option<&'static str> {
    ROWS.iter().find_map(|row| match row.remedy {
        Remedy::Explain(explains) => explains(context, corrected).then_some(row.name),
        _ => None,
    })
}
