//! The golden tables against themselves: a mask and the bit range that was read with it must agree, and a
//! structure's fields and reserved bits must make it up with no bit left over and none used twice.

use portcullis_checks::golden::smmuv3::{CD, COMMANDS, EVENTS, L1CD, L1STD, PRI_REQUEST, REGISTERS, STE};
use portcullis_checks::golden::{Field, Table, ioda2, vmsa, vtd};

fn mask_of(field: &Field) -> u64 {
    (field.lsb..=field.msb).fold(0, |mask, bit| mask | 1 << (bit % 64))
}

fn assert_masks_fit_ranges(name: &str, fields: &[Field]) {
    for field in fields {
        assert_eq!(field.msb / 64, field.lsb / 64, "{name}.{} spans two words", field.name);
        assert_eq!(field.ones, mask_of(field), "{name}.{}", field.name);
    }
}

fn used(fields: &[Field], words: usize) -> Vec<u64> {
    let mut used = vec![0; words];
    for field in fields {
        assert_eq!(used[field.word()] & field.ones, 0, "{} overlaps", field.name);
        used[field.word()] |= field.ones;
    }
    used
}

fn whole(table: &Table) {
    whole_but(table, 0);
}

/// The same of a structure of which these bits of the first word are neither.
fn whole_but(table: &Table, neither: u64) {
    assert_masks_fit_ranges(table.name, table.fields);
    for (word, (used, res0)) in used(table.fields, table.res0.len()).iter().zip(table.res0).enumerate() {
        let neither = if word == 0 { neither } else { 0 };
        assert_eq!(used & res0, 0, "{} word {word}: bits used twice", table.name);
        assert_eq!(used | res0, !neither, "{} word {word}: bits unaccounted for", table.name);
    }
}

#[test]
fn fields_and_reserved_bits_make_up_each_structure() {
    [&STE, &CD, &L1STD, &L1CD, &PRI_REQUEST].into_iter().for_each(whole);
    REGISTERS.iter().for_each(|register| whole(&register.table));
    ioda2::TABLES.iter().for_each(whole);
    vtd::TABLES.iter().for_each(whole);
    // Type[6:4].
    vtd::DESCRIPTORS.iter().for_each(|table| whole_but(table, 0xe00));
    vtd::NARROW_REGISTERS.iter().for_each(|table| whole_but(table, 0xffff_ffff_0000_0000));
}

#[test]
fn no_field_of_a_command_or_record_overlaps_another() {
    for (table, words) in COMMANDS.iter().map(|table| (table, 2)).chain(EVENTS.iter().map(|table| (table, 4)))
    {
        assert_masks_fit_ranges(table.name, table.fields);
        used(table.fields, words);
    }
}

#[test]
fn masks_of_descriptor_fields_fit_their_ranges() {
    for fields in [vmsa::STAGE_1_LEAF, vmsa::STAGE_2_LEAF, vmsa::STAGE_1_TABLE] {
        assert_masks_fit_ranges("descriptor", fields);
        used(fields, 1);
    }
}

#[test]
fn no_two_registers_overlap() {
    for (i, a) in REGISTERS.iter().enumerate() {
        for b in &REGISTERS[i + 1..] {
            let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
            assert!(apart, "{} and {}", a.table.name, b.table.name);
        }
    }
}
