# PVH entry: from 32-bit protected mode without paging to 64-bit Rust.
#
# On entry (Xen docs/misc/pvh.pandoc): flat 32-bit segments, paging and interrupts off,
# EBX = physical address of start_info. Nothing else may be relied on; but a kernel that enters
# here again says so by a number in EAX (entry.rs).

    # XEN_ELFNOTE_PHYS32_ENTRY (18) tells Xen and QEMU where to enter. The address takes eight
    # bytes because QEMU reads that many from a 64-bit image.
    .section .note.Xen, "a", @note
    .balign 4
    .long 4                             # size of the name
    .long 8                             # size of the address
    .long 18
    .asciz "Xen"
    .quad pvh_entry

    .section .text.pvh_entry, "ax", @progbits
    .code32
    .global pvh_entry
    .type pvh_entry, @function
pvh_entry:
    cli
    cld
    mov esp, offset boot_stack_top
    mov esi, ebx                        # start_info; what follows leaves ESI and EBP alone
    mov ebp, eax                        # whether this is not the first start

    # Identity-map the first 4 GiB with 2 MiB pages, everything allowed: enough to read what the
    # domain builder left anywhere below 4 GiB. Rust builds the real tables.
    mov eax, offset boot_pointers
    or eax, 3                           # present, writable
    mov dword ptr [boot_root], eax
    mov eax, offset boot_directories
    or eax, 3
    mov edi, offset boot_pointers
    mov ecx, 4                          # one directory for each GiB
.Lpointer:
    mov dword ptr [edi], eax
    add eax, 4096
    add edi, 8
    dec ecx
    jnz .Lpointer
    mov eax, 0x83                       # present, writable, large
    mov edi, offset boot_directories
    mov ecx, 4 * 512
.Lpage:
    mov dword ptr [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz .Lpage

    # Long mode wants PAE and the tables before paging goes on.
    mov eax, cr4
    or eax, 1 << 5                      # PAE
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax
    mov ecx, 0xc0000080                 # EFER
    rdmsr
    or eax, (1 << 8) | (1 << 11)        # long mode enable, no-execute enable
    wrmsr
    mov eax, cr0
    or eax, (1 << 31) | (1 << 16)       # paging; write protection holds for the kernel, too
    mov cr0, eax

    # Still 32-bit code in compatibility mode: a far return into the 64-bit segment ends that.
    lgdt [boot_gdt_pointer]
    mov eax, 8
    push eax
    mov eax, offset .Llong_mode
    push eax
    retf

    .code64
.Llong_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_top
    mov edi, esi                        # start_info, zero-extended
    mov esi, ebp
    xor ebp, ebp                        # ends every backtrace
    call pvh_start
    ud2                                 # pvh_start does not return
    .size pvh_entry, . - pvh_entry

    .section .rodata.pvh_entry, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 8: 64-bit code
    .quad 0x00cf93000000ffff            # 16: data
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .quad boot_gdt

    # The boot processor keeps this stack for good; an overflow runs into the guard page.
    .section .bss.pvh_entry, "aw", @nobits
    .balign 4096
    .global boot_stack_guard
boot_stack_guard:
    .skip 4096
    .skip 128 * 1024
    .global boot_stack_top
boot_stack_top:
boot_root:
    .skip 4096
boot_pointers:
    .skip 4096
boot_directories:
    .skip 4 * 4096
