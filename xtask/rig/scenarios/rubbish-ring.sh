# A frontend that names ring pages and event channels that do not exist: refused with a
# reason; the domain can be destroyed, the next attach works. dom0 plays the frontend of a
# guest that never runs.
spindle_up
state_is() { [ "$(read_store $back/state)" = "$1" ]; }
refused() { [ -n "$(read_store $HOME_DIR/$(xl domid spindle)/error/backend/vbd/$id/51712/error)" ]; }
for rubbish in 4000000000 0 -1 18446744073709551616 'no number'; do
	guest_config rogue no-blkfront "disk=['$(disk xvda)']"
	xl create -p /run/rogue.cfg || fail "xl create rogue: $(refusal)"
	id=$(xl domid rogue)
	front=$HOME_DIR/$id/device/vbd/51712 back=$(backend_dir $id)/51712
	wait_until 10 state_is 2 || fail "the backend is in state $(read_store $back/state), not InitWait"
	xenstore-write -- $front/ring-ref "$rubbish" $front/event-channel "$rubbish" \
		$front/protocol x86_64-abi $front/state 3
	wait_until 10 refused || fail "'$rubbish' is not refused; the backend is in state $(read_store $back/state)"
	state_is 4 && fail "the backend connected to '$rubbish'"
	mark refused "reason=\"$(refusal | tail -n 1)\""
	guest_end rogue
done
next_attach_works
