//! The first instructions: from what the boot loader left to Rust in the upper half.
//!
//! The image begins with the header of an arm64 Linux Image, so that the boot loader (here QEMU) puts it at a known place and the address of the device tree
//! into x0. The MMU is off then. The code below clears .bss, makes a table that maps the first two gigabytes in both halves alike, one of devices and
//! one of memory, turns the MMU on, and goes on in the upper half. `mmu` replaces that table by a finer one.
//!
//! Spec: Linux, Documentation/arch/arm64/booting.rst, 4 "Call the kernel image", for the header. Arm ARM DDI 0487 M.a, D8.2 "Translation process",
//! D24.2 "General system control registers", for TCR_EL1, MAIR_EL1, SCTLR_EL1.
#![expect(unsafe_code, reason = "instructions before there is Rust")]

use core::arch::global_asm;

use portcullis_pgtable::arm::MAIR;

/// SCTLR_EL1: the bits that are one in any case, MMU, data and instruction caches, and checks of the stack pointer's alignment.
const SCTLR: u64 = 0x30d0_0800 | 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12;

/// TCR_EL1 without IPS: 48 bits and 4 KiB in both halves, walks write-back and inner shareable, 16-bit ASIDs from TTBR0.
const TCR: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 16 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30 | 1 << 36;

/// Block descriptors of level 1: access flag, a memory kind, shareability; devices are for nobody to execute.
const DEVICES: u64 = 0b01 | 2 << 2 | 1 << 10 | 1 << 53 | 1 << 54;
const MEMORY: u64 = 0b01 | 1 << 2 | 3 << 8 | 1 << 10 | 1 << 54;

global_asm!(
    r#"
    .section .head, "ax"
    .globl _start
_start:
    b       1f
    .word   0
    .quad   0x80000                 // text_offset
    .quad   _image_bytes
    .quad   0b1010                  // little-endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

1:  mrs     x1, CurrentEL
    cmp     x1, #(1 << 2)
    b.ne    9f                      // this kernel is one for EL1

    mov     x20, x0                 // the device tree
    adrp    x1, _bss_start
    adrp    x2, _bss_end
2:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    2b

    adrp    x1, boot_tables         // level 0, and after it level 1
    add     x2, x1, #4096
    orr     x3, x2, #0b11
    str     x3, [x1]
    ldr     x3, ={devices}
    str     x3, [x2]
    ldr     x3, ={memory} + 0x40000000
    str     x3, [x2, #8]
    dsb     sy                      // the stores went past the caches; what those hold of .bss is older
    mov     x3, x1
    add     x4, x1, #8192
3:  dc      ivac, x3
    add     x3, x3, #64
    cmp     x3, x4
    b.lo    3b
    dsb     sy

    ldr     x3, ={mair}
    msr     mair_el1, x3
    ldr     x3, ={tcr}
    mrs     x4, id_aa64mmfr0_el1    // IPS is what the CPU has (PARange), up to 48 bits
    and     x4, x4, #0xf
    mov     x5, #5
    cmp     x4, x5
    csel    x4, x4, x5, lo
    orr     x3, x3, x4, lsl #32
    msr     tcr_el1, x3
    msr     ttbr0_el1, x1
    msr     ttbr1_el1, x1
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x3, ={sctlr}
    msr     sctlr_el1, x3
    isb
    ldr     x3, =4f
    br      x3

4:  mov     x3, #(3 << 20)          // CPACR_EL1.FPEN: the compiler uses vector registers
    msr     cpacr_el1, x3
    ldr     x3, =exception_vectors
    msr     vbar_el1, x3
    isb
    msr     spsel, #1
    ldr     x3, =_stack_top
    mov     sp, x3
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    bl      kernel_main
9:  wfe
    b       9b
    .ltorg

    .section .bss.boot_tables, "aw", %nobits
    .balign 4096
    .globl  boot_tables
boot_tables:
    .space  8192
    "#,
    devices = const DEVICES,
    memory = const MEMORY,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
);
