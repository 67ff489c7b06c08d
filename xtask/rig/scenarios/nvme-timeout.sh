# A disk that answers one command in a second while the limit is two seconds. First it recovers:
# commands are aborted, the controller is reset, what was in flight is done again, and the guest's
# checksums are right. Then it does not: the guest gets errors, the disk is given to nobody any
# more. Another guest gets a RAM disk meanwhile; in the end everything can be taken down and works
# again.
spindle_down
SPINDLE_KNOBS="io_timeout=2 ram0=40M"
spindle_with memory=128
SPINDLE_KNOBS=
said() { grep -q "$1" $(guest_log spindle); }
probe_up
guest_start stall fio-stall "disk=['$(disk xvda)']"
guest_need stall ready 60

host throttle disk=nvme iops=1
guest_tell stall
began=$(now)
wait_until 15 said 'no answer to command .* aborting it' || fail "nothing is aborted"
wait_until 15 said 'reset 1 of at most 3' || fail "the controller is not reset"
wait_until 15 said 'reset, works again' || fail "the controller is not up after its reset"
# At once: two more resets, and it is given up.
host throttle disk=nvme iops=0
took=$(since $began)
guest_need stall verified 60
mark note "text=\"reset after $took s\""

host throttle disk=nvme iops=1
guest_tell stall
began=$(now)
wait_until 30 said 'reset 2 of at most 3' || fail "the controller is not reset again"
probe_attach xvdr ram0
probe_detach xvdr
wait_until 40 said 'disk 0 is lost: .*; all requests to it fail' || fail "the disk is not given up"
guest_need stall 'done' 30
mark note "text=\"given up after $(since $began) s\""
guest_end stall
timeout 30 xl block-attach probe "$(disk xvds)" && fail "a lost disk is attached"
refusal | grep -q 'nvme0n1 is lost' || fail "no reason in xenstore: $(refusal)"
spindle_down
host throttle disk=nvme iops=0
spindle_up
next_attach_works
