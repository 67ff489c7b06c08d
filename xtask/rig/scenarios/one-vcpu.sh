# Control and rings share the only vCPU.
spindle_down
spindle_create spindle spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' "pci=[\"$BDF\"]" vcpus=1
guest_start alone fio-rings vcpus=2 "disk=['$(disk xvda)']" \
	'cmdline="console=hvc0 rdinit=/init loglevel=4 disks=xvda"'
guest_need alone 'done' 240
grep -q "queues disk=xvda count=1" $(guest_log alone) || fail "more than one queue on one core"
guest_end alone
spindle_down
