# scenario: seconds=120
# Without a disk Spindle runs, says so, and refuses guests with a reason.
spindle_create empty spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' 'pci=[]'
wait_until 10 grep -qi 'no disk' $(guest_log empty) || fail "the console does not say that there is no disk"
guest_config victim no-blkfront "disk=['$(disk xvda nvme0n1 empty)']"
began=$(now)
xl create -p /run/victim.cfg && fail "xl create succeeds without a disk"
say "xl gave up after $(since $began) s"
need_reason '*' nvme0n1 empty
mark refused seconds=$(since $began) "reason=\"$(refusal empty | tail -n 1)\""
spindle_down empty
