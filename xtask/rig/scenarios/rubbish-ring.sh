# scenario: seconds=240
# A frontend that names ring pages and event channels that do not exist: refused with a
# reason; the domain can be destroyed, the next attach works. dom0 plays the frontend of a
# guest that never runs.
spindle_up
state_is() { [ "$(read_store $back/state)" = "$1" ]; }
refused() { [ -n "$(read_store $HOME_DIR/$(xl domid spindle)/error/backend/vbd/$id/$device/error)" ]; }
disks=
for vdev in xvda xvdb xvdc xvdd xvde; do
	disks="$disks${disks:+,}'$(disk $vdev nvme0n1 spindle ro)'"
done
guest_config rogue no-blkfront "disk=[$disks]"
try_xl 120 create -p /run/rogue.cfg || fail "xl create rogue: $(refusal)"
id=$(xl domid rogue)
device=51712
for rubbish in 4000000000 0 -1 18446744073709551616 'no number'; do
	front=$HOME_DIR/$id/device/vbd/$device back=$(backend_dir $id)/$device
	wait_until 10 state_is 2 || fail "the backend is in state $(read_store $back/state), not InitWait"
	xenstore-write -- $front/ring-ref "$rubbish" $front/event-channel "$rubbish" \
		$front/protocol x86_64-abi $front/state 3
	wait_until 10 refused || fail "'$rubbish' is not refused; the backend is in state $(read_store $back/state)"
	state_is 4 && fail "the backend connected to '$rubbish'"
	device=$((device + 16))
done
mark refused "reason=\"$(refusal | tail -n 1)\""
guest_end rogue
next_attach_works
