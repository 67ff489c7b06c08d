# scenario: seconds=300
# A disk of 4 KiB blocks that a guest sees with sectors of 512 bytes: several write to the same blocks
# at once, and nothing is lost. As it is, without `512e:`, the same guest sees blocks of 4 KiB.
spindle_up
guest_start sectors fio-sectors vcpus=2 "disk=['$(disk xvda 512e:nvme0n2)']"
guest_need sectors 'done' 120
[ "$(reports sectors sectors)" = "logical=512 physical=4096" ] || fail "the disk has $(reports sectors sectors)"
host sum disk=nvme-4k start=1 mib=2
[ "$(reports sectors written)" = "$answer" ] || fail "the host finds $answer"
guest_end sectors
