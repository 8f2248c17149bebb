//! A boot ROM that counts interrupts: for each vector a word of memory that goes up by one each time.
//!
//! The CPU is taken into protected mode, its local APIC is turned on, the old controllers are shut, and then it halts. Each vector has a stub that pushes its number and goes where all go:
//! the word is counted, the APIC told that it is over, and the CPU halts again.
//!
//! Spec: Intel SDM volume 3A, 10.9 "Initialization Overview"; 7.11 "IDT Descriptors"; 11.4 "Local APIC"; 11.8.5 "Signaling Interrupt Servicing Completion".

/// The words that count, one of 32 bits for each vector.
pub const COUNTERS: u64 = 0x1000;
/// A word that is 1 once interrupts are counted.
pub const READY: u64 = 0x0ff0;

const ROM_BYTES: usize = 64 << 10;
/// Where the ROM is for the CPU, which begins 16 bytes below its end.
const BASE: u32 = 0xffff_0000;
const RESET: usize = ROM_BYTES - 16;
/// Where things are in it.
const GDT: usize = 0x100;
const GDT_POINTER: usize = 0x120;
const IDT_POINTER: usize = 0x130;
const PROTECTED: usize = 0x200;
const COUNT: usize = 0x280;
const IDT: usize = 0x800;
const STUBS: usize = 0x1000;
const STUB_BYTES: usize = 16;
const STACK: u32 = 0x8000;
/// The local APIC's spurious-interrupt vector register, with its switch, and end of interrupt.
const SPURIOUS: u32 = 0xfee0_00f0;
const TURN_ON: u32 = 0x1ff;
const END_OF_INTERRUPT: u32 = 0xfee0_00b0;

/// The ROM.
pub(crate) fn counting_rom() -> Vec<u8> {
    let mut rom = vec![0xf4; ROM_BYTES];
    let mut put = |at: usize, parts: &[&[u8]]| {
        let bytes = parts.concat();
        rom[at..][..bytes.len()].copy_from_slice(&bytes);
    };
    let low = |number: u64| u32::try_from(number).expect("it lies below 4 GiB").to_le_bytes();
    let linear = |at: usize| (BASE + u32::try_from(at).expect("it is in the ROM")).to_le_bytes();
    let half = |at: usize| u16::try_from(at).expect("it is in the ROM").to_le_bytes();

    // jmp to the ROM's beginning, around the end of the segment.
    put(RESET, &[&[0xe9, 0x0d, 0x00]]);
    // cli; lgdt cs:[GDT_POINTER]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:PROTECTED
    let far = [0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x66, 0xea];
    put(0, &[&[0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16], &half(GDT_POINTER), &far, &linear(PROTECTED), &[8, 0]]);
    // Nothing; code; data: all of memory.
    put(
        GDT,
        &[
            &0u64.to_le_bytes(),
            &0x00cf_9a00_0000_ffff_u64.to_le_bytes(),
            &0x00cf_9200_0000_ffff_u64.to_le_bytes(),
        ],
    );
    put(GDT_POINTER, &[&[0x17, 0], &linear(GDT)]);
    put(IDT_POINTER, &[&[0xff, 0x07], &linear(IDT)]);
    put(
        PROTECTED,
        &[
            // mov ax, 16; mov ds, ax; mov es, ax; mov ss, ax; mov esp, STACK
            &[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc],
            &STACK.to_le_bytes(),
            // lidt [IDT_POINTER]
            &[0x0f, 0x01, 0x1d],
            &linear(IDT_POINTER),
            // mov al, 0xff; out 0x21, al; out 0xa1, al
            &[0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1],
            // mov dword [SPURIOUS], TURN_ON
            &[0xc7, 0x05],
            &SPURIOUS.to_le_bytes(),
            &TURN_ON.to_le_bytes(),
            // mov dword [READY], 1
            &[0xc7, 0x05],
            &low(READY),
            &1u32.to_le_bytes(),
            // sti; hlt; jmp to the hlt
            &[0xfb, 0xf4, 0xeb, 0xfd],
        ],
    );
    put(
        COUNT,
        &[
            // pushad; mov eax, [esp + 32]; lock inc dword [COUNTERS + 4 * eax]
            &[0x60, 0x8b, 0x44, 0x24, 0x20, 0xf0, 0xff, 0x04, 0x85],
            &low(COUNTERS),
            // mov dword [END_OF_INTERRUPT], 0
            &[0xc7, 0x05],
            &END_OF_INTERRUPT.to_le_bytes(),
            &0u32.to_le_bytes(),
            // popad; add esp, 4; iretd
            &[0x61, 0x83, 0xc4, 0x04, 0xcf],
        ],
    );
    for vector in 0..256 {
        let stub = STUBS + STUB_BYTES * vector;
        let number = u32::try_from(vector).expect("it has 8 bits").to_le_bytes();
        // push vector; jmp COUNT
        let back = i32::try_from(COUNT).and_then(|to| i32::try_from(stub + 10).map(|from| to - from));
        let back = back.expect("both are in the ROM").to_le_bytes();
        put(stub, &[&[0x68], &number, &[0xe9], &back]);
        let [a, b, c, d] = linear(stub);
        // An interrupt gate, present, of the code segment.
        put(IDT + 8 * vector, &[&[a, b, 8, 0, 0, 0x8e, c, d]]);
    }
    rom
}

/// A ROM that halts at once.
pub(crate) fn halting_rom() -> Vec<u8> {
    let mut rom = vec![0xf4; ROM_BYTES];
    // cli; hlt; jmp to the hlt
    rom[RESET..][..4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    rom
}
