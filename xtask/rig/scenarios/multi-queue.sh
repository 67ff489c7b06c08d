# scenario: seconds=480 core=yes
# Two guests, of four vCPUs and of one, and three disks at once on four ring cores: more rings
# than cores, frontends limited to one queue or with large rings (and no indirect segments: Linux sets
# pages aside for all that a ring could hold), and a disk that comes and goes
# while the others work. The RAM disks are asked for by the knobs in xenstore.
spindle_down
SPINDLE_KNOBS="ram0=20M ram1=20M ram2=8M"
spindle_with vcpus=5 memory=128
SPINDLE_KNOBS=
guest_start wide fio-rings vcpus=4 "disk=['$(disk xvda)','$(disk xvdb ram0)']" \
	"cmdline=\"$LINUX disks=xvda,xvdb blkfront=max_ring_page_order=4,max_indirect_segments=0\""
guest_start narrow fio-rings vcpus=1 "disk=['$(disk xvda ram1)']" \
	"cmdline=\"$LINUX disks=xvda blkfront=max_queues=1\""
guest_need narrow ready 120
narrow=$(xl domid narrow)
for round in 1 2; do
	try_xl 120 block-attach narrow "$(disk xvdc ram2)" || fail "xl block-attach under load: $(refusal)"
	sleep 1
	try_xl 120 block-detach narrow xvdc || fail "xl block-detach under load"
done
wait_until 15 test "$(xenstore-list $(backend_dir $narrow) | wc -l)" = 1 ||
	fail "block-detach left a backend directory: $(xenstore-list $(backend_dir $narrow))"
guest_need wide 'done' 300
guest_need narrow 'done' 300
reports wide queues | grep -q "disk=xvda count=4" || fail "the wide guest has not four queues"
reports narrow queues | grep -q "disk=xvda count=1" || fail "the narrow guest has not one queue"
grep -q "4 rings of 16 pages" $(guest_log spindle) || fail "no ring has 16 pages"
home=$HOME_DIR/$(xl domid spindle)/data/spindle
stat=$(read_store $home/stat/$(xl domid wide)-51712)
case $stat in "rings=4 "*) ;; *) fail "no statistics of four rings: $stat" ;; esac
mark note "text=\"wide: $(echo "$stat" | cut -d' ' -f1-8); core 1: $(read_store $home/core/1 | cut -d' ' -f1-4)\""
guest_end wide
guest_end narrow
spindle_down
