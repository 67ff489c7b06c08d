# scenario: seconds=240 machine=odd-controllers
# A controller with a BAR of 256 MiB beside its registers, as for a controller memory buffer: Spindle has
# no use for that, and serves the disk.
spindle_down
spindle_with_odd cmb
guest_start large fio-patterns vcpus=2 "disk=['$(disk xvda nvme-cmb-n1)']" "cmdline=\"$LINUX disks=xvda\""
guest_need large 'done' 240
host sum disk=cmb start=32 mib=8
reports large pattern | grep -qx "disk=xvda sum=$answer" || fail "the host finds $answer"
guest_end large
spindle_down
