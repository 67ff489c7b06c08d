# scenario: seconds=180 core=yes
# A PVH domain without a disk of its own serves a RAM disk.
spindle_create ram spindle-pvh.cfg 'kernel="/spindle/spindle.elf"'
probe_attach xvdr ram0 ram
probe_detach xvdr ram
spindle_down ram
