# scenario: seconds=420 core=yes
# A disk that answers one command, then stands still, while the limit is two seconds. First it recovers:
# commands are aborted, the controller is reset, what was in flight is done again, and the guest's
# checksums are right. Then it does not: the guest gets errors. Another guest gets a RAM disk meanwhile,
# and the disk once that answers again; in the end everything can be taken down and works again.
spindle_down
SPINDLE_KNOBS="io_timeout=2 ram0=40M"
spindle_with memory=128
SPINDLE_KNOBS=''
said() { grep -q "$1" $(guest_log spindle); }
resets() { grep -c 'reset, works again' $(guest_log spindle); }
reset_beyond() { [ $(resets) -gt $1 ]; }
probe_up
guest_start stall fio-stall "disk=['$(disk xvda)']"
guest_need stall ready 60

host throttle disk=nvme bytes=1
guest_tell stall
began=$(now)
wait_until 15 said 'no answer to command .* aborting it' || fail "nothing is aborted"
wait_until 30 reset_beyond 0 || fail "the controller is not reset, or not up after it: $(last_words spindle)"
# At once: a few more resets, and it is given up.
host throttle disk=nvme bytes=0
took=$(since $began)
guest_need stall verified 60
mark note "text=\"reset after $took s\""

before=$(resets)
host throttle disk=nvme bytes=1
guest_tell stall
began=$(now)
wait_until 30 reset_beyond $before || fail "the controller is not reset again: $(last_words spindle)"
probe_attach xvdr ram0
probe_detach xvdr
wait_until 40 said 'disk nvme0 is lost: .*; all requests to it fail' || fail "the disk is not given up"
guest_need stall 'done' 30
mark note "text=\"given up after $(since $began) s\""
guest_end stall
# It is probed by itself, and serves again once it answers, without a restart.
host throttle disk=nvme bytes=0
count() { grep -c "disk nvme0 is $1" $(guest_log spindle); }
is_back() { [ $(count back) = $(count lost) ]; }
wait_until 60 is_back || fail "the disk does not come back: $(last_words spindle)"
probe_attach xvds nvme0n1
probe_detach xvds
spindle_down
spindle_up
next_attach_works
