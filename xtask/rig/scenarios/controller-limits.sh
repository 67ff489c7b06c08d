# scenario: seconds=420 machine=odd-controllers
# Controllers that take any length in a command, or 8 KiB at most, or have one queue pair: each is
# served within its limits, all rings at once, and the host finds what a guest has left there.
spindle_down
spindle_with_odd mdts0 mdts1 single
guest_start limits fio-patterns vcpus=2 \
	"disk=['$(disk xvda nvme-mdts0-n1)','$(disk xvdb nvme-mdts1-n1)','$(disk xvdc nvme-single-n1)']" \
	"cmdline=\"$LINUX disks=xvda,xvdb,xvdc\""
guest_need limits 'done' 300

# left VDEV DRIVE QUEUES: the disk had so many queues, and the guest's pattern is in its image
left() {
	reports limits queues | grep -q "^disk=$1 count=$3 " || fail "$2 has not $3 queues: $(reports limits queues)"
	host sum disk=$2 start=32 mib=8
	reports limits pattern | grep -qx "disk=$1 sum=$answer" || fail "the host finds $answer in $2"
}
left xvda mdts0 2
left xvdb mdts1 2
left xvdc single 1
guest_end limits
spindle_down
