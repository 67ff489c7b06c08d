# scenario: seconds=420
# A virtio disk that stands still is given up after the limit of two seconds, and the guest gets errors
# while another one goes on. Once it answers it is reset, brought up again and serves the same guest, whose
# data are there, and others, without a restart.
spindle_down
assignable $VIRTIO_BDF
SPINDLE_KNOBS="io_timeout=2"
spindle_with "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
SPINDLE_KNOBS=''
count() { grep -c "disk vda is $1" $(guest_log spindle); }
is_lost() { [ $(count lost) -gt 0 ]; }
is_back() { [ $(count 'back, and works') = $(count lost) ]; }
probe_up
guest_start stands fio-orders "disk=['$(disk xvda vda)']"
guest_start spared fio-orders "disk=['$(disk xvda)']"
for who in stands spared; do
	guest_need $who ready 60
	order $who 60 'fill xvda'
	order $who 20 'load xvda'
	order $who 40 'answers xvda 64 30'
done

host throttle disk=virtio bytes=1
began=$(now)
wait_until 60 is_lost || fail "the disk is not given up: $(last_words spindle)"
order stands 120 'wait $fio; wait $ledger; grep "error=Input/output error" /tmp/load.txt'
took=$(since $began)
order spared 40 'answers xvda 256 30'

host throttle disk=virtio bytes=0
began=$(now)
wait_until 90 is_back || fail "the disk does not come back: $(last_words spindle)"
mark note "text=\"errors after $took s, back after $(since $began) s\""
order stands 60 'echo 3 > /proc/sys/vm/drop_caches; [ "$(sum_range xvda 8 8)" = "$(sha256sum < /tmp/pattern | cut -d" " -f1)" ]'
guest_end stands
probe_attach xvdv vda
probe_detach xvdv
order spared 60 enough
order spared 60 'same xvda'
guest_end spared
spindle_down
