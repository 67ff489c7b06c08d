# scenario: seconds=360
# What Spindle cannot do it says, and nothing is half made: an option that does not exist, beside others that
# have their effect; a disk for which its xenstore quota has no room. Beside it a guest that does not trust
# Spindle with its memory (trusted=0) goes on undisturbed.
spindle_down
SPINDLE_KNOBS="pol_us=50 ram0=8M queues=1 partitions=off path=copy"
spindle_with
SPINDLE_KNOBS=''
# It concerns no device, so that the console is the only place for it.
grep -q 'unknown option "pol_us"; did you mean "poll_us"' $(guest_log spindle) || fail "the console is silent about the wrong option"
# xl 4.17 has no word for it, but the guest's own driver does.
if xl -N block-attach 0 "untrusted,$(disk xvda)" > /dev/null 2>&1; then
	guest_start wary fio-orders "disk=['untrusted,$(disk xvda)']"
else
	guest_start wary fio-orders "disk=['$(disk xvda)']" "cmdline=\"$LINUX xen_blkfront.trusted=0\""
fi
guest_need wary ready 60
wary=$(xl domid wary)
[ "$(read_store $HOME_DIR/$wary/device/vbd/51712/trusted)" = 0 ] ||
	order wary 10 'grep -q N /sys/module/xen_blkfront/parameters/trusted'
[ "$(backend_node $wary xvda multi-queue-max-queues)" = 1 ] || fail "queues=1 has no effect"
[ "$(backend_node $wary xvda feature-persistent)" = 0 ] || fail "path=copy has no effect"
[ "$(xenstore-read -R $(spindle_home)/data/spindle/targets/nvme0n3 | awk 'END {print NR}')" = 1 ] || fail "partitions=off has no effect"
order wary 60 'fill xvda'
order wary 20 'load xvda'

# All of the quota but a few nodes is used up: what dom0 makes there belongs to Spindle's domain.
home=$(spindle_home)
owned() { xenstore-ls -fp / | grep -c "(n$(xl domid spindle)[,)]"; }
before=$(owned)
for node in $(seq 1 $((1000 - before - 20))); do echo $home/data/full/$node x; done | xargs -n 200 xenstore-write
say "Spindle owns $(owned) nodes in xenstore, before $before"
xl block-attach wary "$(disk xvdb ram0)" && fail "a disk is attached without room in xenstore"
xenstore-exists $(backend_dir $wary)/$(devid xvdb) && fail "the refused disk's directory is left"
need_reason $wary/$(devid xvdb) quota
mark refused "reason=\"$(refusal | tail -n 1)\""
# What xl made is xl's to remove.
try_xl 120 block-detach wary xvdb || fail "xl block-detach of the refused disk"
order wary 40 'answers xvda 64 30'
order wary 60 enough
order wary 60 'same xvda'

xenstore-rm $home/data/full
try_xl 120 block-attach wary "$(disk xvdb ram0)" || fail "no disk is attached with room again: $(refusal)"
[ -z "$(refusal)" ] || fail "the reason of an old refusal is left: $(refusal)"
order wary 60 'wait_disk xvdb'
guest_end wary
spindle_down
