# scenario: seconds=480
# A disk's life in one guest: detached in order and by force, its driver unbound and unloaded, the
# toolstack killed half-way, and detached under load. Each time the disk comes back by the same name,
# with all that was acknowledged.
spindle_up
guest_start life fio-orders 'disk=[]'
guest_need life ready 60
life=$(xl domid life)
attach() { try_xl 30 block-attach life "$(disk xvda)" || fail "xl block-attach: $(refusal)"; }
detached() { wait_until 10 backend_gone $life || fail "block-detach $1 left the backend directory"; }
detach() {
	try_xl 40 block-detach $1 life xvda || fail "xl block-detach $1"
	detached $1
}
back_state() { [ "$(read_store $(backend_dir $life)/51712/state)" = "$1" ]; }

attach
order life 60 'fill xvda'
order life 20 'load xvda'
sleep 3
order life 60 enough
for how in '' --force; do
	detach $how
	attach
	order life 60 'same xvda'
done

# Linux' driver that is unbound closes its disk. One that is loaded again may connect by itself, which it
# is served for. Either way the disk is then taken and given anew.
at_rest() { back_state 6 || back_state 4; }
for change in 'release_disk 51712' 'release_disk 51712 && modprobe -r xen-blkfront && modprobe xen-blkfront'; do
	order life 20 "$change"
	wait_until 10 at_rest || fail "the backend neither follows its frontend nor serves it anew"
	detach
	attach
	order life 60 'same xvda'
done
detach

# killed MOMENT COMMAND...: start xl, kill it when MOMENT has come, let Spindle do what is left to it
killed() {
	say "killed: $*"
	moment=$1
	shift
	xl "$@" &
	pid=$!
	wait_until 15 $moment || fail "xl $1: there is no moment '$moment'"
	kill -KILL $pid
	wait $pid
	xl unpause spindle
}
written() { back_state 1; }
init_wait() { back_state 2; }
closing() { back_state 5; }
for moment in written init_wait; do
	[ $moment != written ] || xl pause spindle
	killed $moment block-attach life "$(disk xvda)"
	order life 60 'same xvda'
	detach
done
attach
order life 60 'same xvda'
xl pause spindle
killed closing block-detach life xvda
detached "by an xl that was killed"
# The rest of what that xl left.
try_xl 120 block-detach life xvda || fail "xl block-detach after one that was killed"
xl pause spindle
guest_config half no-blkfront "disk=['$(disk xvda)']"
begun() { life=$(xl domid half 2> /dev/null) && written; }
killed begun create -p /run/half.cfg
guest_end half
life=$(xl domid life)

# Under load. Linux' frontend may keep some of its requests forever when its disk goes, whoever served
# it, so that another guest reads what was acknowledged.
attach
order life 20 'load xvda'
sleep 3
try_xl 40 block-detach life xvda || {
	second_try "xl block-detach under load"
	try_xl 40 block-detach --force life xvda || fail "xl block-detach --force under load"
}
detached "under load"
order life 20 'report written $round $(cat /tmp/acked)'
guest_end life
set -- $(reports life written)
[ $2 -gt 0 ] || fail "nothing was acknowledged under load"
guest_start after fio-orders "disk=['$(disk xvda)']"
guest_need after ready 60
order after 60 "same_ledger xvda $1 $2"
mark note "text=\"detached under load after $2 flushed blocks, all there\""
guest_end after
next_attach_works
