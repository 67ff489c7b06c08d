# scenario: seconds=300
# A disk of 4 KiB blocks that a guest sees with sectors of 512 bytes: several write to the same blocks
# at once, over rings of 4 pages, and nothing is lost.
spindle_up
guest_start sectors fio-sectors vcpus=2 "disk=['$(disk xvda 512e:nvme0n2)']" \
	"cmdline=\"$LINUX xen_blkfront.max_ring_page_order=2\""
guest_need sectors 'done' 120
[ "$(frontend_node $(xl domid sectors) xvda ring-page-order)" = 2 ] || fail "the rings have not 4 pages"
[ "$(reports sectors sectors)" = "logical=512 physical=4096" ] || fail "the disk has $(reports sectors sectors)"
host sum disk=nvme-4k start=1 mib=2
[ "$(reports sectors written)" = "$answer" ] || fail "the host finds $answer"
guest_end sectors
