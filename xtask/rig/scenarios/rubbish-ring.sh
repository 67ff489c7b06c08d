# scenario: seconds=240
# Frontends that name ring pages or event channels that do not exist: refused with the reason; the domain
# can be destroyed, the next attach works. First dom0 plays the frontend of a guest that never runs. Then
# Linux' own frontend offers good rings, of which dom0 spoils one's event channel and another's page.
spindle_up
SPOILT='xvda xvdb xvdc xvdd xvde'
disks=''
for vdev in $SPOILT; do
	disks="$disks${disks:+,}'$(disk $vdev nvme0n1 spindle ro)'"
done

# refuses GUEST-ID VDEV REASON: Spindle does, and has not connected
refuses() {
	need_reason $1/$(devid $2) "$3"
	backend_is $1 $2 4 && fail "the backend connected to what it refused"
	mark refused "reason=\"$(quoted "$3")\""
}

guest_config rogue no-blkfront "disk=[$disks]"
try_xl 120 create -p /run/rogue.cfg || fail "xl create rogue: $(refusal)"
rogue=$(xl domid rogue)
# names VDEV RING-REF EVENT-CHANNEL REASON
names() {
	local front
	front=$HOME_DIR/$rogue/device/vbd/$(devid $1)
	wait_until 10 backend_is $rogue $1 2 || fail "the backend is in state $(backend_node $rogue $1 state), not InitWait"
	xenstore-write -- $front/ring-ref "$2" $front/event-channel "$3" $front/protocol x86_64-abi $front/state 3
	refuses $rogue $1 "$4"
}
names xvda 4000000000 9 'cannot map ring-ref 4000000000'
names xvdb -1 9 "frontend's ring-ref is \"-1\""
names xvdc 'no number' 9 "frontend's ring-ref is \"no number\""
names xvdd 8 0 "frontend's event-channel 0 cannot be used"
names xvde 8 18446744073709551616 "frontend's event-channel is \"18446744073709551616\""
guest_end rogue

guest_start spoilt late-blkfront "disk=['$(disk xvda nvme0n1 spindle ro)','$(disk xvdb nvme0n1 spindle ro)',
	'$(disk xvdc nvme0n2)']"
spoilt=$(xl domid spoilt)
for vdev in xvda xvdb xvdc; do
	wait_until 10 backend_is $spoilt $vdev 2 || fail "the backend of $vdev is in state $(backend_node $spoilt $vdev state)"
done
# Spindle must not see the nodes before they are spoilt.
try_xl 30 pause spindle || fail "xl pause"
guest_tell spoilt
for vdev in xvda xvdb xvdc; do
	wait_until 20 frontend_is $spoilt $vdev 3 || fail "the frontend of $vdev is in state $(frontend_node $spoilt $vdev state)"
done
xenstore-write $HOME_DIR/$spoilt/device/vbd/$(devid xvda)/event-channel 4000 \
	$HOME_DIR/$spoilt/device/vbd/$(devid xvdb)/ring-ref 4000000
try_xl 30 unpause spindle || fail "xl unpause"
refuses $spoilt xvda 'cannot bind event-channel 4000'
refuses $spoilt xvdb 'cannot map ring-ref 4000000'
guest_need spoilt works 40
guest_end spoilt
next_attach_works
