# 12 MiB are enough to serve the disk.
spindle_down
spindle_create spindle spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' "pci=[\"$BDF\"]" memory=12
next_attach_works
spindle_down
