# scenario: seconds=360 machine=odd-controllers
# One request out of many fails, or is not answered for longer than Spindle waits until it asks for its
# abort: its guest has an error, or waits for that one. All others go on, on this disk and on another
# of the same controller, and what was kept back is done in the end.
spindle_down
SPINDLE_KNOBS="io_timeout=10"
spindle_with_odd uneven
SPINDLE_KNOBS=''
guest_start uneven fio-orders "disk=['$(disk xvda nvme-uneven-n1)']"
guest_start even fio-orders "disk=['$(disk xvda nvme-uneven-n2)']"
for who in uneven even; do
	guest_need $who ready 60
	order $who 60 'fill xvda'
	order $who 5 sum
	order $who 20 'load xvda'
done

# The bad sector is at 60 MiB.
order uneven 60 'read_block() { dd if=/dev/xvda of=/dev/null bs=4k skip=$1 count=1 iflag=direct 2> /dev/null; }'
order uneven 60 'for try in 1 2 3 4 5 6 7 8; do read_block 15359 && ! read_block 15360 || fail "try $try"; done'
for who in uneven even; do order $who 40 'answers xvda 64 30'; done

aborts() { grep -c 'no answer to command .* aborting it' $(guest_log spindle); }
aborted() { [ $(aborts) -gt $before ]; }
before=$(aborts)
# At 10 s the abort, which QEMU refuses; at 20 s the controller would be reset.
host hold disk=uneven
began=$(now)
order uneven 20 'for block in $(seq 0 31); do read_block $block || fail "block $block"; done'
order even 12 'answers xvda 64 10'
left=$(since $began)
[ ${left%.*} -lt 14 ] || fail "$left s for a few requests beside one that is kept back"
wait_until 15 aborted || fail "no abort is asked for"
host release disk=uneven
held=$(since $began)
for who in uneven even; do
	order $who 40 'answers xvda 64 30'
	order $who 60 enough
	order $who 60 'same xvda'
	host sum disk=$who start=8 mib=8
	[ "$answer" = "$(reports $who sum)" ] || fail "the host finds $answer in $who"
	guest_end $who
done
mark note "text=\"one write kept back for $held s\""
spindle_down
