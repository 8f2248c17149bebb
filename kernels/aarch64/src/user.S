// The process's program. It runs at EL0 in its own address space, at a place of its own: nothing here is the kernel's, and nothing but the instruction pointer
// says where it is.
//
// x0: where its buffer is; x1: a page beside it; x2: the number of the disk's last block. The last block says how many of the disk's first bytes to check, and their
// CRC-32; the process has both read to its own addresses, and computes the sum itself. Then it gives a page of the buffer back, and asks for the disk
// to write there.

    .section .user, "a"
    .balign 4
    .arch_extension crc

    .equ    EXIT, 0                 // status
    .equ    SAY, 1                  // text, length
    .equ    READ, 2                 // first block, address, bytes
    .equ    GIVE_BACK, 3            // address, bytes

    // The label: see `jobs`.
    .equ    LABEL_CRC, 56
    .equ    LABEL_CRC_BYTES, 60

    .macro  call number
    mov     x8, #\number
    svc     #0
    .endm

    .macro  say text, end
    adr     x0, \text
    mov     x1, #(\end - \text)
    call    SAY
    .endm

user_program:
    mov     x19, x0
    mov     x20, x1
    mov     x21, x2

    mov     x0, x21                 // the label, to the page beside
    mov     x1, x20
    mov     x2, #512
    call    READ
    cbnz    x0, user_unread
    ldr     w22, [x20, #LABEL_CRC]
    ldr     w23, [x20, #LABEL_CRC_BYTES]

    mov     x0, #0                  // the bytes that it speaks of, to the buffer
    mov     x1, x19
    mov     x2, x23
    call    READ
    cbnz    x0, user_unread

    mov     w0, #-1
    mov     x1, x19
    add     x2, x19, x23
1:  ldr     x3, [x1], #8
    crc32x  w0, w0, x3
    cmp     x1, x2
    b.lo    1b
    mvn     w0, w0
    cmp     w0, w22
    b.ne    user_differs
    say     user_equal, user_equal_end

    mov     x0, x19                 // a page goes back; what the disk wants to write there must not get through
    mov     x1, #4096
    call    GIVE_BACK
    cbnz    x0, user_kept
    mov     x0, #0
    mov     x1, x19
    mov     x2, #512
    call    READ
    cbz     x0, user_reached
    say     user_refused, user_refused_end
    mov     x0, #0
    call    EXIT

user_unread:
    mov     x0, #1
    call    EXIT
user_differs:
    mov     x0, #2
    call    EXIT
user_kept:
    mov     x0, #3
    call    EXIT
user_reached:
    mov     x0, #4
    call    EXIT

user_equal:
    .ascii  "the bytes at my address have the sum that the disk says"
user_equal_end:
user_refused:
    .ascii  "what I gave back, the disk does not reach"
user_refused_end:
    .text
