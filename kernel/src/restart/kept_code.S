# What runs while the image is not there: the place where cores wait for the next life, and the way
# into it. It is copied to a page of kept memory and runs there, wherever that is: it reaches
# nothing but by RIP and what is in the page behind it (layout.rs has the offsets).

    .section .rodata.kept_code, "a", @progbits
    .balign 16
    .global kept_code
kept_code:

    .macro HYPERCALL
    test qword ptr [rip + kept_code + 4096 + {VMMCALL}], 1
    jz 2f
    vmmcall
    jmp 3f
2:
    vmcall
3:
    .endm

    # Page tables, descriptor tables and a stack that no life writes to. RBX = the state page.
    .macro LEAVE_THE_IMAGE
    cli
    cld
    lea rbx, [rip + kept_code + 4096]
    mov rax, [rbx + {ROOT}]
    mov cr3, rax
    lgdt [rbx + {GDTR}]
    lidt [rbx + {IDTR}]
    .endm

    # Waits for the next life. RDI = the core's slot, ESI = its number. A core that waits is down to
    # Xen and costs nothing; it looks again whenever it is made to go up.
    .balign 16
    .global kept_park
kept_park:
    lea rsp, [rdi + {SLOT_SIZE}]
    LEAVE_THE_IMAGE
    mov r12, rdi
    mov r13d, esi
    mov dword ptr [r12 + {STATE}], {PARKED}
.Lparked:
    cmp dword ptr [r12 + {STATE}], {RELEASED}
    je .Lreleased
    mov eax, 24                         # vcpu_op
    mov edi, 2                          # VCPUOP_down
    mov esi, r13d
    xor edx, edx
    HYPERCALL
    jmp .Lparked
.Lreleased:
    mov rax, [r12 + {CR3}]
    mov cr3, rax
    mov rdi, [r12 + {RDI}]
    mov rsi, [r12 + {RSI}]
    push 16
    push qword ptr [r12 + {RSP}]
    push 2                              # RFLAGS: only the bit that is always set
    push 8
    push qword ptr [r12 + {RIP}]
    mov dword ptr [r12 + {STATE}], {STARTING}
    iretq                               # only this lets non-maskable interrupts in again

    # Puts an image where it belongs and enters it as the domain builder did. Which one does not depend
    # on the image that has ended: an image that is to be tried is entered once; if that does not go
    # well, what was there before is. Runs on the boot core, in the handler of a non-maskable
    # interrupt: no other can come while the tables do not fit the mode.
    .balign 16
    .global kept_enter
kept_enter:
    LEAVE_THE_IMAGE
    lea rsp, [rbx + {STACK_TOP}]
    mov dword ptr [rbx + {ON_THE_WAY}], 1
    mov rdx, [rbx + {NEXT}]
    mov eax, [rbx + {TRIAL}]
    cmp eax, {TRIAL_WANTED}
    jne .Lno_trial
    xor rdx, {PLAN_LEN}
    jmp .Ltrial
.Lno_trial:
    cmp eax, {TRIAL_UNDER_WAY}
    jne .Lplan
.Ltrial:
    inc dword ptr [rbx + {TRIAL}]
.Lplan:
    lea rbx, [rbx + rdx + {PLANS}]
    mov rsi, [rbx + {IMAGE_FROM}]
    mov rdi, [rbx + {IMAGE_TO}]
    mov rcx, [rbx + {IMAGE_WORDS}]
    # What is there already stays: in most cases that is all of the code. Where it differs, a page's worth is
    # copied.
.Lcompare:
    repe cmpsq
    je .Lin_place
    lea rsi, [rsi - 8]
    lea rdi, [rdi - 8]
    inc rcx
    mov edx, 512
    cmp rcx, rdx
    cmovb rdx, rcx
    sub rcx, rdx
    xchg rcx, rdx
    rep movsq
    mov rcx, rdx
    test rcx, rcx
    jnz .Lcompare
.Lin_place:
    mov rdi, [rbx + {BSS}]
    mov rcx, [rbx + {BSS_WORDS}]
    xor eax, eax
    rep stosq
    mov ebp, [rbx + {ENTRY}]
    mov esi, [rbx + {START_INFO}]
    push 24
    lea rax, [rip + .Lcompatibility]
    push rax
    retfq
    .code32
.Lcompatibility:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff                 # paging off
    mov cr0, eax
    mov ecx, 0xc0000080                 # EFER
    rdmsr
    and eax, 0xfffffeff                 # long mode off
    wrmsr
    mov ebx, esi
    mov eax, {START_AGAIN}
    jmp ebp
    .code64

    # A non-maskable interrupt in here: there is nothing to be done about it.
    .balign 16
    .global kept_nmi
kept_nmi:
    iretq

    # An exception in here, or at the beginning of the next life: if that is the trial of an image, it has
    # failed; otherwise the domain ends as crashed.
    .balign 16
    .global kept_fatal
kept_fatal:
    lea rbx, [rip + kept_code + 4096]
    cmp dword ptr [rbx + {ON_THE_WAY}], 1
    jne .Lend
    cmp dword ptr [rbx + {TRIAL}], {TRIAL_UNDER_WAY}
    je kept_enter
.Lend:
    mov eax, 29                         # sched_op
    mov edi, 2                          # SCHEDOP_shutdown
    lea rsi, [rip + .Lcrash]
    HYPERCALL
.Ldown:
    cli
    hlt
    jmp .Ldown
    .balign 4
.Lcrash:
    .long 3                             # SHUTDOWN_crash

    .global kept_code_end
kept_code_end:
