//! A difference that nothing explains, in words: all that is needed to look into it.

use core::fmt::Write;

use crate::answer::Answer;
use crate::known::Context;
use crate::streams::Form;

/// Says what was asked, what both answered, and what lies in memory on the way.
pub fn difference(context: &Context<'_>, form: Form, theirs: &Answer, others: usize) -> String {
    let (case, access) = (context.case, context.access);
    let mut text = String::new();
    let mut say = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    say(format!("seed {:#x}, case {}, {form:?} stream table", case.seed, case.number));
    say(format!(
        "STRTAB_BASE {:#x}, STRTAB_BASE_CFG {:#x}, CR2 {:#x}",
        case.setup.table_base, case.setup.table_config, case.setup.cr2
    ));
    say(format!(
        "stream {:#x} {} {} bytes at {:#x}{}{}",
        access.stream,
        if access.write { "writes" } else { "reads" },
        access.len,
        access.address,
        if access.flush { ", nothing cached" } else { "" },
        if case.privileged { ", privileged to our model" } else { "" },
    ));
    if others > 0 {
        say(format!("after {others} other accesses; alone it makes no difference"));
    }
    if let Some(stream) = context.stream() {
        say(format!("STE {}", words(&stream.ste)));
        stream.cd.iter().for_each(|cd| say(format!("CD  {}", words(cd))));
    }
    for step in context.steps() {
        let table = step.table;
        say(format!(
            "stage {:?}, {}, level {}, at {:#x}: {:#018x}",
            table.stage,
            table.granule.name(),
            table.level,
            step.at,
            step.raw
        ));
    }
    say(format!("our model: {}", context.ours.answer));
    say(format!("QEMU:      {theirs}"));
    text
}

fn words(words: &[u64; 8]) -> String {
    words.map(|word| format!("{word:016x}")).join(" ")
}
