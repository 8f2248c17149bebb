//! Exceptions: what is saved, who handles what, and what an unexpected one says.
//!
//! Every vector saves all registers of whoever was interrupted, vector registers too, since the compiler uses them, and calls [`exception`] with a number that
//! says where it came from. Interrupts go to `irq`; calls and faults of the process to `process`; anything else ends the kernel with a
//! report.
//!
//! Spec: Arm ARM DDI 0487 M.a, D1.3.1 "Exception entry", D24.2.41 "ESR_EL1".
#![expect(unsafe_code, reason = "the vectors, and what they call")]

use core::arch::global_asm;

use crate::uart::print_now;
use crate::{cpu, irq, power, process};

/// The registers of whoever was interrupted.
#[repr(C, align(16))]
pub(crate) struct Frame {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    pub(crate) sp_el0: u64,
    /// Where it goes on.
    pub(crate) elr: u64,
    pub(crate) spsr: u64,
    _fpsr: u64,
    _fpcr: u64,
    _v: [u128; 32],
}

/// Which vector: the kernel itself with its own stack, then the process. Others are not used.
const KERNEL_SYNC: u64 = 4;
const KERNEL_IRQ: u64 = 5;
const PROCESS_SYNC: u64 = 8;
const PROCESS_IRQ: u64 = 9;

global_asm!(
    r#"
    .macro  vector number
    .balign 128
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    mov     x0, #\number
    b       save_and_handle
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .globl  exception_vectors
exception_vectors:
    vector 0
    vector 1
    vector 2
    vector 3
    vector 4
    vector 5
    vector 6
    vector 7
    vector 8
    vector 9
    vector 10
    vector 11
    vector 12
    vector 13
    vector 14
    vector 15

save_and_handle:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, sp_el0
    stp     x30, x1, [sp, #240]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x1, x2, [sp, #256]
    mrs     x1, fpsr
    mrs     x2, fpcr
    stp     x1, x2, [sp, #272]
    stp     q0, q1, [sp, #288]
    stp     q2, q3, [sp, #320]
    stp     q4, q5, [sp, #352]
    stp     q6, q7, [sp, #384]
    stp     q8, q9, [sp, #416]
    stp     q10, q11, [sp, #448]
    stp     q12, q13, [sp, #480]
    stp     q14, q15, [sp, #512]
    stp     q16, q17, [sp, #544]
    stp     q18, q19, [sp, #576]
    stp     q20, q21, [sp, #608]
    stp     q22, q23, [sp, #640]
    stp     q24, q25, [sp, #672]
    stp     q26, q27, [sp, #704]
    stp     q28, q29, [sp, #736]
    stp     q30, q31, [sp, #768]
    mov     x1, sp
    bl      exception
    ldp     q0, q1, [sp, #288]
    ldp     q2, q3, [sp, #320]
    ldp     q4, q5, [sp, #352]
    ldp     q6, q7, [sp, #384]
    ldp     q8, q9, [sp, #416]
    ldp     q10, q11, [sp, #448]
    ldp     q12, q13, [sp, #480]
    ldp     q14, q15, [sp, #512]
    ldp     q16, q17, [sp, #544]
    ldp     q18, q19, [sp, #576]
    ldp     q20, q21, [sp, #608]
    ldp     q22, q23, [sp, #640]
    ldp     q24, q25, [sp, #672]
    ldp     q26, q27, [sp, #704]
    ldp     q28, q29, [sp, #736]
    ldp     q30, q31, [sp, #768]
    ldp     x1, x2, [sp, #272]
    msr     fpsr, x1
    msr     fpcr, x2
    ldp     x1, x2, [sp, #256]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x30, x1, [sp, #240]
    msr     sp_el0, x1
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp]
    add     sp, sp, #{frame}
    eret
    "#,
    frame = const size_of::<Frame>(),
);

// SAFETY: the name is the one that the vectors call, and no other's.
#[unsafe(no_mangle)]
extern "C" fn exception(from: u64, frame: &mut Frame) {
    match from {
        KERNEL_IRQ | PROCESS_IRQ => irq::take(),
        PROCESS_SYNC => process::exception(frame, cpu::syndrome(), cpu::fault_address()),
        _ => unexpected(from, frame),
    }
}

fn unexpected(from: u64, frame: &Frame) -> ! {
    let (esr, far) = (cpu::syndrome(), cpu::fault_address());
    let what = if from == KERNEL_SYNC { "exception" } else { "vector" };
    print_now(format_args!(
        "\nFAILED: unexpected {what} {from}: ELR {:#018x} ESR {esr:#010x} FAR {far:#018x} SPSR {:#x}\n",
        frame.elr, frame.spsr
    ));
    for (line, registers) in frame.x.chunks(4).enumerate() {
        print_now(format_args!("  x{:<2} {registers:018x?}\n", 4 * line));
    }
    power::off(102)
}
