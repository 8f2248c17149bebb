//! What QEMU's PHB3 lets through and ours does not: each row by hand. If one of these fails, QEMU has learnt it, and the row can go.

use portcullis_differential::phb3::{Access, Case, Cause, DATA, WRITERS};

const TABLE: u64 = 0x0400_0000;

/// PE 1's window 0 is this TVE, and its table's first TCE leads to the data.
fn case(tve: u64, address: u64) -> Case {
    let mut case = Case::default();
    case.pes.insert(WRITERS[0], 1);
    case.tves.insert(2, tve);
    case.words.insert(TABLE, DATA | 3);
    case.accesses.push(Access { requester: WRITERS[0], address, len: 4, write: true });
    case
}

mod on_qemu {
    use portcullis_differential::phb3::{Ours, ROWS, Theirs};

    use super::*;

    /// Ours refuses for this cause, and QEMU lets it through. In `right` both agree.
    #[track_caller]
    fn lets_through(cause: Cause, wrong: &[Case], right: &Case) {
        let Some(mut theirs) = Theirs::for_test() else { return };
        assert!(ROWS.iter().any(|row| row.0 == cause));
        let mut ours = Ours::new();
        let mut both = |case: &Case| {
            let verdicts = ours.run(case);
            let answers = theirs.run(case, &verdicts).unwrap();
            (verdicts[0].cause, verdicts[0].reached, answers[0].unwrap())
        };
        assert_eq!(both(right), (None, Some(DATA), Some(DATA)));
        for (index, case) in wrong.iter().enumerate() {
            let (found, reached, theirs) = both(case);
            assert_eq!((found, reached), (Some(cause), None), "case {index}");
            assert!(theirs.is_some(), "QEMU has learnt case {index}");
        }
    }

    /// One level of 64 KiB, 4K pages: 32 MiB.
    const TVE: u64 = TABLE << 4 | 0x501;

    #[test]
    fn qemu_looks_at_no_bounds() {
        // 32 MiB on, the first page comes again; a bypass window that ends at 16 MiB; one that begins at 0, below 4 GiB.
        let wrong =
            [case(TVE, 32 << 20), case(1 << 16 | 1 << 12, DATA), case(0x4_0000 << 16 | 1 << 12, DATA)];
        lets_through(Cause::OutOfWindow, &wrong, &case(TVE, 0));
    }

    #[test]
    fn qemu_takes_pages_of_sizes_that_phb3_does_not_have() {
        // Pages of 8K.
        let wrong = [case(TVE + 1, 0)];
        lets_through(Cause::TveInvalid, &wrong, &case(TVE, 0));
    }
}
