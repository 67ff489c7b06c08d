# What this image says of itself to one that is to be updated to it, and that it compares with the image
# that it is to be updated to (`spindle_kept::image`). linker.ld puts it before everything else.

    .section .image_head, "ax", @progbits
    .global image_head
image_head:
    .quad {HEAD_MAGIC}
    .long {HEAD_VERSION}
    .long {LAYOUT}
    .long {READS}
    .long 0
    .quad __image_start
    .quad pvh_entry
    .quad __bss_start
    .quad __image_end
    .quad __place_end
