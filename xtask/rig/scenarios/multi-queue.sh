# scenario: seconds=480 core=yes
# Two guests, of four vCPUs and of one, and three disks at once on four ring cores: more rings
# than cores, frontends limited to one queue and two ring pages or with the largest rings (and no indirect
# segments: Linux sets pages aside for all that a ring could hold), and a disk that comes and goes
# while the others work. The RAM disks are asked for by the options in xenstore. What rings and cores have
# done is in xenstore.
spindle_down
SPINDLE_KNOBS="ram0=20M ram1=20M ram2=8M"
spindle_with vcpus=5 memory=128
SPINDLE_KNOBS=''
guest_start wide fio-rings vcpus=4 "disk=['$(disk xvda)','$(disk xvdb ram0)']" \
	"cmdline=\"$LINUX disks=xvda,xvdb blkfront=max_ring_page_order=4,max_indirect_segments=0\""
guest_start narrow fio-rings vcpus=1 "disk=['$(disk xvda ram1)']" \
	"cmdline=\"$LINUX disks=xvda blkfront=max_queues=1,max_ring_page_order=1\""
guest_need narrow ready 120
narrow=$(xl domid narrow)
disk_is_alone() { [ "$(xenstore-list $(backend_dir $narrow) | wc -l)" = 1 ]; }
for _ in 1 2; do
	try_xl 120 block-attach narrow "$(disk xvdc ram2)" || fail "xl block-attach under load: $(refusal)"
	wait_until 20 backend_is $narrow xvdc 4 || fail "the disk does not connect under load"
	try_xl 120 block-detach narrow xvdc || fail "xl block-detach under load"
done
wait_until 15 disk_is_alone ||
	fail "block-detach left a backend directory: $(xenstore-list $(backend_dir $narrow))"
guest_need wide 'done' 300
guest_need narrow 'done' 300
reports wide queues | grep -q "disk=xvda count=4" || fail "the wide guest has not four queues"
reports narrow queues | grep -q "disk=xvda count=1" || fail "the narrow guest has not one queue"
# rings GUEST VDEV QUEUES ORDER: the disk is served over so many rings of 2^ORDER pages
rings() {
	local id found
	id=$(xl domid $1)
	found="$(frontend_node $id $2 multi-queue-num-queues) $(frontend_node $id $2 ring-page-order) $(backend_node $id $2 state)"
	[ "$found" = "$3 $4 4" ] || fail "$2 of guest $1 has queues, order, state $found"
}
rings wide xvda 4 4
rings wide xvdb 4 4
rings narrow xvda '' 1

# Each core has worked, slept and copied or mapped grants; four writers have written 2 MiB each and read
# them back, over four rings.
wide=$(xl domid wide)
all_counted() {
	local key
	for key in wr_sect rd_sect; do [ "$(counted $wide xvda $key)" -ge 16384 ] 2> /dev/null || return 1; done
}
wait_until 15 all_counted || fail "statistics of the disk: $(read_store $(spindle_home)/data/spindle/stat/$wide-51712)"
[ $(counted $wide xvda rings) = 4 ] || fail "no statistics of four rings"
[ $(counted $wide xvda err) = 0 ] || fail "$(counted $wide xvda err) requests failed"
core() { read_store $(spindle_home)/data/spindle/core/$1 | tr ' ' '\n' | sed -n "s/^$2=//p"; }
for number in 1 2 3 4; do
	for figure in polls sleeps grant_calls busy_ns idle_ns; do
		[ "$(core $number $figure)" -gt 0 ] || fail "core $number: $(read_store $(spindle_home)/data/spindle/core/$number)"
	done
done
[ -z "$(core 5 polls)" ] || fail "five vCPUs have more than four ring cores"
mark note "text=\"wide: $(read_store $(spindle_home)/data/spindle/stat/$wide-51712 | cut -d' ' -f1-8); core 1: \
$(read_store $(spindle_home)/data/spindle/core/1 | cut -d' ' -f1-4)\""
guest_end wide
guest_end narrow
spindle_down
