# scenario: seconds=240
# A controller's own account of itself in xenstore, and its warnings as it gives them: each new one
# is an event, which Spindle takes note of at once and asks for the next.
spindle_up
probe_attach xvde
smart=$(spindle_home)/data/spindle/disk/nvme0
figure() { read_store $smart | tr ' ' '\n' | sed -n "s/^$1=//p"; }
warned() { [ "$(figure warnings)" = $1 ]; }
wait_until 5 warned none || fail "SMART: $(read_store $smart)"
[ $(figure celsius) = 50 ] || fail "QEMU's controller has 50 degrees: $(read_store $smart)"
written=$(figure written_mb)
probe_attach xvdf nvme0n2
logged=$(grep -c 'nvme spindle0: warnings=' $(guest_log spindle))
host warn bits=1
wait_until 5 warned spare || fail "no warning after the first event: $(read_store $smart)"
# The probe writes 2 MiB to each disk that it gets.
[ $(figure written_mb) -ge $((written + 2)) ] || fail "written: $written MB before 2 MiB, $(figure written_mb) after"
host warn bits=3
wait_until 5 warned spare,temperature || fail "no warning after the second event: $(read_store $smart)"
[ $(grep -c 'nvme spindle0: warnings=' $(guest_log spindle)) = $((logged + 2)) ] || fail "the console does not tell of two events"
mark note "text=\"$(read_store $smart)\""
host warn bits=0
probe_detach xvdf
probe_detach xvde
next_attach_works
