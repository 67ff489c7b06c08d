# Two guests and three disks at once on two ring cores: more rings than cores, frontends limited
# to one queue or with large rings, and a disk that comes and goes while the others work. The RAM
# disks are asked for by the knobs in xenstore.
spindle_down
SPINDLE_KNOBS="ram0=20M ram1=20M ram2=8M"
spindle_create spindle spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' "pci=[\"$BDF\"]" \
	vcpus=3 memory=128
SPINDLE_KNOBS=
guest_start wide fio-rings vcpus=2 "disk=['$(disk xvda)','$(disk xvdb ram0)']" \
	'cmdline="console=hvc0 rdinit=/init loglevel=4 disks=xvda,xvdb blkfront=max_ring_page_order=4"'
guest_start narrow fio-rings vcpus=1 "disk=['$(disk xvda ram1)']" \
	'cmdline="console=hvc0 rdinit=/init loglevel=4 disks=xvda blkfront=max_queues=1"'
guest_need narrow ready 120
narrow=$(xl domid narrow)
for round in 1 2; do
	xl block-attach narrow "$(disk xvdc ram2)" || fail "xl block-attach under load: $(refusal)"
	sleep 1
	xl block-detach narrow xvdc || fail "xl block-detach under load"
done
wait_until 15 test "$(xenstore-list $(backend_dir $narrow) | wc -l)" = 1 ||
	fail "block-detach left a backend directory: $(xenstore-list $(backend_dir $narrow))"
guest_need wide 'done' 300
guest_need narrow 'done' 300
grep -q "queues disk=xvda count=2" $(guest_log wide) || fail "the wide guest has not two queues"
grep -q "queues disk=xvda count=1" $(guest_log narrow) || fail "the narrow guest has not one queue"
grep -q "2 rings of 16 pages" $(guest_log spindle) || fail "no ring has 16 pages"
home=$HOME_DIR/$(xl domid spindle)/data/spindle
stat=$(read_store $home/stat/$(xl domid wide)-51712)
case $stat in "rings=2 "*) ;; *) fail "no statistics of two rings: $stat" ;; esac
mark note "text=\"wide: $(echo "$stat" | cut -d' ' -f1-8); core 1: $(read_store $home/core/1 | cut -d' ' -f1-4)\""
guest_end wide
guest_end narrow
spindle_down
