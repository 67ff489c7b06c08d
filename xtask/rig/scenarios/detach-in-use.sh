# scenario: seconds=600
# A disk is detached while its guest has it mounted. Linux up to 5.14 goes on using it: plain
# `xl block-detach` fails, and the disk works on until the guest unmounts it. Later ones give it up at
# once. `--force` cuts it off everywhere. Nothing that was flushed is lost, and nothing is left.
spindle_up

attach() {
	try_xl 60 block-attach $who "$(disk xvda)" || fail "xl block-attach: $(refusal)"
	order $who 40 'hold xvda'
}
back() { read_store $(backend_dir $id)/51712/$1; }
detached() { wait_until 10 backend_gone $id || fail "block-detach ${1:-} left $who's backend directory"; }

times='' kept=''
for kernel in old '' new; do
	who=holder${kernel:+-$kernel} KERNEL=$kernel
	guest_start $who mount-orders 'disk=[]'
	guest_need $who ready 60
	id=$(xl domid $who)
	order $who 10 'report linux $(uname -r)'
	linux=$(reports $who linux)
	if [ -z "$kept" ]; then
		try_xl 60 block-attach $who "$(disk xvda)" || fail "xl block-attach: $(refusal)"
		order $who 60 'prepare xvda && hold xvda'
	else
		# The guest before was cut off while it had this mounted.
		attach
		order $who 20 "found one $kept"
	fi
	order $who 30 'keep one'

	began=$(now)
	if [ "$kernel" = old ]; then
		try_xl 60 block-detach $who xvda && fail "Linux $linux: block-detach succeeds while the disk is in use"
		took=$(since $began) said=$xl_said xl_said=''
		[ "$(back state)" = 5 ] || fail "Linux $linux: the refused detach leaves the backend in state $(back state)"
		order $who 30 'keep two && same one two'
		order $who 20 'report frontend $(cat /sys/bus/xen/devices/vbd-51712/state)'
		say "Linux $linux: refused after $took s ($said); frontend: $(reports $who frontend)"
		order $who 20 'umount /mnt'
		# What was asked for happens now; xl removes the frontend's directory.
		wait_until 20 backend_gone $id || fail "Linux $linux: the disk stays open when nothing uses it any more"
		try_xl 40 block-detach $who xvda || fail "Linux $linux: xl block-detach of the unmounted disk"
		times="$times$linux: refused after $took s; "
	else
		try_xl 40 block-detach $who xvda || fail "Linux $linux: xl block-detach"
		took=$(since $began)
		order $who 30 'without xvda'
		say "Linux $linux: given up after $took s; then a write $(reports $who without)"
		order $who 20 give_up
		times="$times$linux: given up after $took s; "
	fi
	detached
	attach
	order $who 20 'same one'
	[ "$kernel" != old ] || order $who 20 'same two'
	order $who 30 'keep one'

	try_xl 40 block-detach --force $who xvda || fail "Linux $linux: xl block-detach --force"
	detached --force
	order $who 30 'without xvda'
	say "Linux $linux: after --force a write $(reports $who without | tail -n 1)"
	kept=$(reports $who 'kept one' | tail -n 1)
	guest_end $who
done
KERNEL=''
mark note "text=\"${times%; }\""
next_attach_works
