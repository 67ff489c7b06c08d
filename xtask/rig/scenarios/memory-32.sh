# 32 MiB are enough to serve the disk.
spindle_down
spindle_create spindle spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' "pci=[\"$BDF\"]" memory=32
next_attach_works
spindle_down
