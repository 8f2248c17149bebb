//! What QEMU does otherwise than the book, and our model as the book says. Short, and each row has a test of its own that shows that QEMU still
//! does so (`tests/known.rs`).
//!
//! A [`Row`] of the first kind is a word of a record that QEMU writes otherwise: its answer is corrected before it is compared. One of the
//! second kind explains a whole answer, in circumstances that are as narrow as we can say them. What is in neither is a failure.
//!
//! Spec: SMMUv3 H.a, as each row says. Observed: QEMU 11.1.

use crate::answer::{Answer, Record};
use crate::case::{Access, Case, Stream};
use crate::descriptor::{ADDRESS, Granule, Kind, Stage, kinds};
use crate::entries::size_bits;
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

const BAD_STREAM: u8 = 0x02;
const STE_FETCH: u8 = 0x03;
const BAD_STE: u8 = 0x04;
const CD_FETCH: u8 = 0x09;
const WALK_ABORT: u8 = 0x0b;
const SIZE: u8 = 0x11;
const ACCESS: u8 = 0x12;
const PERMISSION: u8 = 0x13;

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        name: "repeated records",
        qemu: "records one refused access of more than 4 bytes once for every 4 bytes (or for every 1 or 2 where it is not aligned)",
        clause: "7.3.1 \"Event record merging\": \"one transaction can be matched to one fault event\"",
        remedy: Remedy::Correct(merge_repeats),
    },
    Row {
        name: "offset in IPA",
        qemu: "leaves bits 11:0 of the intermediate address in the record",
        clause: "7.3.13 \"F_TRANSLATION\", IPA[55:12]; 7.3: what is not defined is RES0",
        remedy: Remedy::Correct(drop_offset),
    },
    Row {
        name: "RnW of fetches",
        qemu: "says RnW = 1 where the fetch of a CD or of a stage 1 table is refused, though the device was writing",
        clause: "7.3 \"Event records\": \"RnW: The Read/Write nature of the incoming transaction that led to the event\"",
        remedy: Remedy::Correct(correct_direction),
    },
    Row {
        name: "TTRnW",
        qemu: "leaves TTRnW clear where stage 2 does not let a stage 1 table be read",
        clause: "7.3.16 \"F_PERMISSION\": \"TTRnW is valid when CLASS == TT ... 1 Translation table descriptor Read\"",
        remedy: Remedy::Correct(set_table_read),
    },
    Row {
        name: "stage of table fetches",
        qemu: "says stage 1 where stage 2 refuses the fetch of a stage 1 table below the root, and records it as CD.R says, not STE.S2R",
        clause: "7.3.13 \"F_TRANSLATION\": \"fault occurs at stage 2, S2 == 1 ... If walking stage 1 translation table, CLASS == TT\"",
        remedy: Remedy::Correct(correct_stage),
    },
    Row {
        name: "privilege",
        qemu: "takes every access for privileged where permissions are looked at, and records it as unprivileged",
        clause: "7.3 \"Event records\", PnU; 13.4.1 \"Stage 1 page permissions\"",
        remedy: Remedy::Correct(set_privileged),
    },
    Row {
        name: "place of FetchAddr",
        qemu: "puts the address of a CD that cannot be fetched into the place of InputAddr",
        clause: "7.3.10 \"F_CD_FETCH\", FetchAddr in bits 247:195",
        remedy: Remedy::Correct(move_fetch_address),
    },
    Row {
        name: "size without stage 1",
        qemu: "does not record that an address is beyond the output size where stage 1 is bypassed",
        clause: "7.3.14 \"F_ADDR_SIZE\": \"When stage 1 bypasses translation, this fault occurs when the output address ... is outside\"",
        remedy: Remedy::Explain(size_without_stage1),
    },
    Row {
        name: "roots at once",
        qemu: "translates both TTB0 and TTB1 through stage 2 when it fetches the CD, and refuses every access if one of them is refused",
        clause: "3.3.3 \"Configuration and Translation lookup\"; 7.3.13 \"F_TRANSLATION\": \"CLASS == TT, IPA is the stage 1 translation table descriptor address\"",
        remedy: Remedy::Explain(roots_at_once),
    },
    Row {
        name: "record of table fetches",
        qemu: "lets CD.R say whether a fault of stage 2 in the fetch of a table is recorded",
        clause: "5.2 \"STE, Stream Table Entry\", S2R",
        remedy: Remedy::Explain(record_of_table_fetches),
    },
    Row {
        name: "tables side by side",
        qemu: "does not find the second and later ones of several stage 2 tables side by side at the root",
        clause: "Arm DDI 0487, D8.2.2 \"Concatenated translation tables\"",
        remedy: Remedy::Explain(tables_side_by_side),
    },
    Row {
        name: "tables in pieces",
        qemu: "translates only the first byte of a stage 1 table that is larger than a page of stage 2",
        clause: "3.4 \"Address sizes\"; 7.3.13 \"F_TRANSLATION\": \"IPA is the stage 1 translation table descriptor address\"",
        remedy: Remedy::Explain(tables_in_pieces),
    },
    Row {
        name: "misplaced blocks",
        qemu: "takes a block at a level that has none for one",
        clause: "Arm DDI 0487, D8.3.1 \"VMSAv8-64 descriptor formats\": reserved, treated as invalid",
        remedy: Remedy::Explain(misplaced_block),
    },
    Row {
        name: "size of tables",
        qemu: "does not look whether a table descriptor's address is beyond the output size, and goes there",
        clause: "7.3.14 \"F_ADDR_SIZE\": \"an intermediate or leaf translation table descriptor outputs an address outside\"",
        remedy: Remedy::Explain(size_of_tables),
    },
    Row {
        name: "size after rights",
        qemu: "looks at a leaf's output address after its access flag and permissions",
        clause: "Arm DDI 0487, D8.15.6 \"MMU fault priority\": an Address size fault goes before an Access flag and a Permission fault",
        remedy: Remedy::Explain(size_after_rights),
    },
    Row {
        name: "limits on the way",
        qemu: "refuses a write at a table with APTable[1] without looking at what is below it",
        clause: "Arm DDI 0487, D8.15.6 \"MMU fault priority\": a Permission fault is of the last level and comes last",
        remedy: Remedy::Explain(limits_on_the_way),
    },
    Row {
        name: "S1STALLD of stage 2",
        qemu: "calls an entry bad for S1STALLD, though its stage 1 is off",
        clause: "5.2 \"STE, Stream Table Entry\", S1STALLD: IGNORED where Config does not enable stage 1",
        remedy: Remedy::Explain(stall_disable_of_stage2),
    },
    Row {
        name: "address of table descriptors",
        qemu: "gives the address of the table where it should give that of the descriptor that stage 2 does not let it read",
        clause: "7.3.13 \"F_TRANSLATION\": \"CLASS == TT, IPA is the stage 1 translation table descriptor address\"",
        remedy: Remedy::Correct(find_descriptor),
    },
    Row {
        name: "S2T0SZ against S2PS",
        qemu: "calls an entry bad whose stage 2 takes in more bits than S2PS lets out",
        clause: "5.2 \"STE, Stream Table Entry\", S2T0SZ: \"the minimum valid value for this field is MAX(16, 64-IAS)\", and IAS is OAS",
        remedy: Remedy::Explain(input_against_output),
    },
    Row {
        name: "S2SL0 against S2T0SZ",
        qemu: "does not look whether stage 2 takes in too few bits for the level at which it begins",
        clause: "5.2.2 \"Validity of STE\", STEWalkConfigInconsistentAA64(); Arm DDI 0487, AArch64.S2InconsistentSL",
        remedy: Remedy::Explain(start_against_input),
    },
    Row {
        name: "spans",
        qemu: "takes a second-level stream table of span S for one of 2^S entries, does not look for spans that are reserved or too large, and calls \
               an id behind its end C_BAD_STE",
        clause: "7.3.3 \"C_BAD_STREAMID\": \"L1STD.Span == Reserved\", \"Span > SPLIT + 1\", \"StreamID[SPLIT - 1:0] >= 2^(Span-1)\"",
        remedy: Remedy::Explain(spans),
    },
    Row {
        name: "aborts behind table fetches",
        qemu: "says stage 1, and gives the address of the table, where stage 2's own walk for a stage 1 table meets nothing",
        clause: "7.3.12 \"F_WALK_EABT\": \"Translation of an IPA for Stage 1 descriptor fetch - S2 == 1 ... and S2 descriptor fetch PA\"",
        remedy: Remedy::Correct(find_abort),
    },
    Row {
        name: "FetchAddr beyond the output size",
        qemu: "gives all bits of the address of an STE that cannot be fetched",
        clause: "7.3.4 \"F_STE_FETCH\": \"FetchAddr bits [55:OAS] are RES0 if OAS is smaller than 56\"",
        remedy: Remedy::Correct(cut_fetch_address),
    },
    Row {
        name: "RECINVSID",
        qemu: "records C_BAD_STREAMID though CR2.RECINVSID is 0",
        clause: "7.3.3 \"C_BAD_STREAMID\": \"Recorded when SMMU_(*_)CR2.RECINVSID == 1\"",
        remedy: Remedy::Explain(record_of_bad_streams),
    },
    Row {
        name: "S1ContextPtr beyond the output size",
        qemu: "does not look whether S1ContextPtr is in range, and tries to fetch the CD",
        clause: "5.2.2 \"Validity of STE\": S1ContextPtr out of range",
        remedy: Remedy::Explain(context_pointer),
    },
    Row {
        name: "S1CDMax",
        qemu: "calls an entry bad for S1CDMax, though there are no substreams, or no stage 1",
        clause: "5.2 \"STE, Stream Table Entry\", S1CDMax: RES0 where SMMU_IDR1.SSIDSIZE is 0, and IGNORED where stage 1 is off",
        remedy: Remedy::Explain(contexts_max),
    },
    Row {
        name: "S2HA and S2HD",
        qemu: "does not look at S2HA and S2HD, though it has no hardware updates",
        clause: "5.2.2 \"Validity of STE\": S2HA or S2HD set where SMMU_IDR0.HTTU does not have it",
        remedy: Remedy::Explain(hardware_updates),
    },
    Row {
        name: "S2PTW",
        qemu: "does not know S2PTW",
        clause: "5.2 \"STE, Stream Table Entry\", S2PTW: \"CD fetch or stage 1 table walk to Device-mapped stage 2 address: stage 2 Permission fault\"",
        remedy: Remedy::Explain(protected_walk),
    },
    Row {
        name: "PAN",
        qemu: "does not know PAN",
        clause: "5.4 \"CD, Context Descriptor\", PAN",
        remedy: Remedy::Explain(privileged_access_never),
    },
    Row {
        name: "TBI1",
        qemu: "takes TBI0 for TBI1",
        clause: "5.4 \"CD, Context Descriptor\", TBI0, TBI1",
        remedy: Remedy::Explain(other_top_byte),
    },
    Row {
        name: "IPS above 5",
        qemu: "ends where a CD says IPS 6 or 7",
        clause: "5.4 \"CD, Context Descriptor\", IPS: the effective size is capped by OAS",
        remedy: Remedy::Avoid,
    },
    Row {
        name: "S2AA64",
        qemu: "ends where an entry says S2AA64 0",
        clause: "5.2.2 \"Validity of STE\": S2AA64 selects a table format that is not there",
        remedy: Remedy::Avoid,
    },
    Row {
        name: "back to one level",
        qemu: "goes on with a two-level stream table when STRTAB_BASE_CFG.FMT is set to linear again",
        clause: "6.3.25 \"SMMU_STRTAB_BASE_CFG\", FMT",
        remedy: Remedy::Avoid,
    },
];

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

fn is_walk(record: &Record) -> bool {
    record[0] & 0xff >= u64::from(WALK_ABORT)
}

fn stage2(record: &Record) -> bool {
    is_walk(record) && record[1] >> 39 & 1 == 1
}

/// CLASS: 0 CD, 1 TT, 2 IN.
fn class(record: &Record) -> u64 {
    record[1] >> 40 & 3
}

/// Only of an access of more than four bytes, or one that is not aligned, and only records that differ in addresses within it.
fn merge_repeats(context: &Context<'_>, answer: &mut Answer) -> bool {
    let Some(&first) = answer.records.first() else { return false };
    let within = |record: &Record| {
        let advance = record[2].wrapping_sub(first[2]);
        let ipa = record[3].wrapping_sub(first[3]);
        record[..2] == first[..2] && advance < context.access.len.into() && (ipa == 0 || ipa == advance)
    };
    let repeats = answer.records.len() > 1 && context.access.len > 4 && answer.records.iter().all(within);
    if repeats {
        answer.records.truncate(1);
    }
    repeats
}

fn drop_offset(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if stage2(record) && record[0] & 0xff != u64::from(WALK_ABORT) {
            record[3] &= !0xfff;
        }
    })
}

fn correct_direction(context: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if stage2(record) && class(record) < 2 && context.access.write {
            record[1] &= !(1 << 35);
        }
    })
}

/// Changes the first record. Answers whether that made a difference.
fn change(answer: &mut Answer, with: impl Fn(&mut Record)) -> bool {
    let Some(first) = answer.records.first_mut() else { return false };
    let before = *first;
    with(first);
    *first != before
}

fn set_table_read(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if record[0] & 0xff == u64::from(PERMISSION) && class(record) == 1 {
            record[1] |= 1 << 44;
        }
    })
}

fn correct_stage(context: &Context<'_>, answer: &mut Answer) -> bool {
    let nested = context.config() == 7;
    change(answer, |record| {
        // Of stage 1 itself, only a fetch that meets nothing is of CLASS TT.
        if nested && is_walk(record) && class(record) == 1 && record[0] & 0xff != u64::from(WALK_ABORT) {
            record[1] |= 1 << 39;
        }
    })
}

fn set_privileged(context: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if context.case.privileged && is_walk(record) {
            record[1] |= 1 << 33;
        }
    })
}

fn move_fetch_address(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if record[0] & 0xff == u64::from(CD_FETCH) && record[3] == 0 {
            record.swap(2, 3);
        }
    })
}

fn silent(answer: &Answer) -> bool {
    answer.reached.is_none() && answer.records.is_empty()
}

/// Whether the first record is a fault of stage 2 in a fetch of a stage 1 table.
fn refuses_table(answer: &Answer) -> bool {
    answer.records.first().is_some_and(|record| stage2(record) && class(record) == 1)
}

fn size_without_stage1(context: &Context<'_>, theirs: &Answer) -> bool {
    matches!(context.config(), 4 | 6)
        && context.ours_fault() == Some(SIZE)
        && context.access.address >> 44 != 0
        && silent(theirs)
}

fn roots_at_once(context: &Context<'_>, theirs: &Answer) -> bool {
    context.ours.roots_barred && (refuses_table(theirs) || silent(theirs))
}

fn record_of_table_fetches(context: &Context<'_>, theirs: &Answer) -> bool {
    let Some(stream) = context.stream() else { return false };
    let recorded = stream.cd.is_some_and(|cd| cd[0] >> 45 & 1 == 1);
    let stage2_recorded = stream.ste[2] >> 58 & 1 == 1;
    let ours = &context.ours.answer;
    match (recorded, stage2_recorded) {
        (false, true) => refuses_table(ours) && silent(theirs),
        (true, false) => silent(ours) && refuses_table(theirs),
        _ => false,
    }
}

fn tables_side_by_side(context: &Context<'_>, _: &Answer) -> bool {
    let Some(fields) = Stage2Fields::of(context) else { return false };
    let lg2 = fields.input_bits.saturating_sub(fields.granule.shift(fields.start)) + 3;
    let root = fields.root >> lg2 << lg2;
    let second = root + (8 << fields.granule.stride());
    context.ours.walked.iter().any(|&(at, _)| at >= second && at < root + (1 << lg2))
}

fn tables_in_pieces(context: &Context<'_>, theirs: &Answer) -> bool {
    let Some(stream) = context.stream() else { return false };
    let Some(pages) = stream.stage2.as_ref().map(|tables| tables.shape.granule.bits()) else { return false };
    let larger = stream.stage1.iter().flatten().any(|tables| tables.shape.granule.bits() > pages);
    let ours = &context.ours.answer;
    let unrecorded = stream.ste[2] >> 58 & 1 == 0 && silent(ours);
    // See "record of table fetches".
    let hidden = silent(theirs) && stream.cd.is_some_and(|cd| cd[0] >> 45 & 1 == 0);
    larger && (refuses_table(theirs) || refuses_table(ours) || unrecorded || hidden)
}

fn misplaced_block(context: &Context<'_>, _: &Answer) -> bool {
    context.met(Kind::MisplacedBlock)
}

fn size_of_tables(context: &Context<'_>, _: &Answer) -> bool {
    let last = context.steps().last().copied();
    // Where nothing is recorded, our model ends at a table for no other reason.
    let size = context.ours_fault() == Some(SIZE) || silent(&context.ours.answer);
    size && last.is_some_and(|step| step.raw & 3 == 3 && step.table.level < 3)
}

fn size_after_rights(context: &Context<'_>, theirs: &Answer) -> bool {
    let same = |ours: &Record, theirs: &Record| {
        ours[1] & !(1 << 44) == theirs[1] & !(1 << 44) && ours[2..] == theirs[2..]
    };
    let (Some(ours), Some(record)) = (context.ours.answer.records.first(), theirs.records.first()) else {
        return false;
    };
    context.ours_fault() == Some(SIZE)
        && matches!(theirs.fault(), Some(ACCESS | PERMISSION))
        && same(ours, record)
}

fn limits_on_the_way(context: &Context<'_>, theirs: &Answer) -> bool {
    let limits = |step: &Step| {
        step.table.stage == Stage::One && step.table.level < 3 && step.raw & 3 == 3 && step.raw >> 62 & 1 == 1
    };
    let refused =
        |record: &Record| record[0] & 0xff == u64::from(PERMISSION) && !stage2(record) && class(record) == 2;
    let unrecorded = words(context).is_some_and(|(_, cd)| cd >> 45 & 1 == 0) && silent(theirs);
    context.access.write
        && (unrecorded || theirs.records.first().is_some_and(refused))
        && context.steps().iter().any(limits)
}

fn stall_disable_of_stage2(context: &Context<'_>, theirs: &Answer) -> bool {
    context.config() == 6
        && context.stream().is_some_and(|stream| stream.ste[1] >> 27 & 1 == 1)
        && theirs.fault() == Some(BAD_STE)
}

fn find_descriptor(context: &Context<'_>, answer: &mut Answer) -> bool {
    let Some(&ours) = context.ours.answer.records.first() else { return false };
    let Some(stream) = context.stream() else { return false };
    let sizes = || stream.stage1.iter().flatten().map(|tables| tables.shape.granule.bits());
    change(answer, |record| {
        let both = [&ours, &*record].into_iter().all(|record| stage2(record) && class(record) == 1);
        if both && sizes().any(|bits| record[3] == ours[3] >> bits << bits) {
            record[3] = ours[3];
        }
    })
}

/// What an entry says of stage 2.
struct Stage2Fields {
    granule: Granule,
    input_bits: u32,
    start: i8,
    root: u64,
    output_bits: u32,
}

impl Stage2Fields {
    /// If stage 2 is on.
    fn of(context: &Context<'_>) -> Option<Self> {
        let [_, _, word, root, ..] = context.stream().filter(|_| context.config() >= 6)?.ste;
        let granule = Granule::ALL.into_iter().find(|any| any.code0() == word >> 46 & 3)?;
        let first = if granule == Granule::Kib4 { 2 } else { 3 };
        Some(Self {
            granule,
            input_bits: 64 - u32::try_from(word >> 32 & 0x3f).ok()?,
            start: first - i8::try_from(word >> 38 & 3).ok()?,
            root: root & 0x000f_ffff_ffff_fff0,
            output_bits: size_bits(word >> 48 & 7),
        })
    }
}

fn input_against_output(context: &Context<'_>, theirs: &Answer) -> bool {
    let more = |fields: Stage2Fields| fields.input_bits > fields.output_bits;
    theirs.fault() == Some(BAD_STE) && Stage2Fields::of(context).is_some_and(more)
}

fn start_against_input(context: &Context<'_>, _: &Answer) -> bool {
    let few = |fields: Stage2Fields| fields.input_bits <= fields.granule.shift(fields.start);
    context.ours_fault() == Some(BAD_STE) && Stage2Fields::of(context).is_some_and(few)
}

fn spans(context: &Context<'_>, _: &Answer) -> bool {
    context.ours_fault() == Some(BAD_STREAM) && context.stream_is_bad()
}

fn find_abort(context: &Context<'_>, answer: &mut Answer) -> bool {
    let Some(&ours) = context.ours.answer.records.first() else { return false };
    let table = |step: &Step| step.table.stage == Stage::One && step.raw & 3 == 3;
    let Some(table) = context.steps().into_iter().rfind(table) else { return false };
    let abort = |record: &Record| record[0] & 0xff == u64::from(WALK_ABORT) && class(record) == 1;
    change(answer, |record| {
        if abort(&ours)
            && stage2(&ours)
            && abort(record)
            && !stage2(record)
            && record[3] == table.raw & ADDRESS
        {
            record[1] |= 1 << 39;
            record[3] = ours[3];
        }
    })
}

fn cut_fetch_address(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if record[0] & 0xff == u64::from(STE_FETCH) {
            record[3] &= (1 << 44) - 1;
        }
    })
}

fn record_of_bad_streams(context: &Context<'_>, theirs: &Answer) -> bool {
    // As with "spans", an id may also be bad in another way, or not at all, to QEMU.
    context.case.setup.cr2 & 2 == 0
        && silent(&context.ours.answer)
        && (theirs.fault() == Some(BAD_STREAM) || context.stream_is_bad())
}

/// The entry's and the descriptor's first words.
fn words(context: &Context<'_>) -> Option<([u64; 8], u64)> {
    context.stream().map(|stream| (stream.ste, stream.cd.map_or(0, |cd| cd[0])))
}

fn context_pointer(context: &Context<'_>, _: &Answer) -> bool {
    let beyond = |(ste, _): ([u64; 8], u64)| ste[0] & 0x000f_f000_0000_0000 != 0;
    context.ours_fault() == Some(BAD_STE) && context.config() & 1 == 1 && words(context).is_some_and(beyond)
}

fn contexts_max(context: &Context<'_>, theirs: &Answer) -> bool {
    theirs.fault() == Some(BAD_STE) && words(context).is_some_and(|(ste, _)| ste[0] >> 59 != 0)
}

fn hardware_updates(context: &Context<'_>, _: &Answer) -> bool {
    let set = |(ste, _): ([u64; 8], u64)| ste[2] >> 55 & 3 != 0;
    context.ours_fault() == Some(BAD_STE) && context.config() >= 6 && words(context).is_some_and(set)
}

fn protected_walk(context: &Context<'_>, _: &Answer) -> bool {
    let Some((ste, _)) = words(context) else { return false };
    let refused =
        |record: &Record| record[0] & 0xff == u64::from(PERMISSION) && stage2(record) && class(record) < 2;
    let ours = &context.ours.answer;
    let unrecorded = ste[2] >> 58 & 1 == 0 && silent(ours);
    context.config() == 7
        && ste[2] >> 54 & 1 == 1
        && (unrecorded || ours.records.first().is_some_and(refused))
}

fn privileged_access_never(context: &Context<'_>, _: &Answer) -> bool {
    let Some((_, cd)) = words(context) else { return false };
    let open = |step: &Step| step.table.stage == Stage::One && step.raw >> 6 & 1 == 1;
    let ours = &context.ours.answer;
    let refused = context.ours_fault() == Some(PERMISSION) || silent(ours);
    context.case.privileged && cd >> 40 & 1 == 1 && refused && context.steps().iter().any(open)
}

fn other_top_byte(context: &Context<'_>, _: &Answer) -> bool {
    let Some((_, cd)) = words(context) else { return false };
    (cd >> 38 ^ cd >> 39) & 1 == 1 && context.access.address >> 55 & 1 == 1
}
