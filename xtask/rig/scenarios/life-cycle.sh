# scenario: seconds=480
# A disk's life in one guest: detached in order and by force, its driver unbound and unloaded, the
# toolstack killed half-way, and detached under load. Each time the disk comes back by the same name,
# with all that was acknowledged.
spindle_up
guest_start life fio-orders 'disk=[]'
guest_need life ready 60
life=$(xl domid life)
attach() { try_xl 30 block-attach life "$(disk xvda)" || fail "xl block-attach: $(refusal)"; }
# detached HOW, and detach [--force]
detached() { wait_until 10 backend_gone $life || fail "block-detach $1 left the backend directory"; }
detach() {
	try_xl 40 block-detach ${1:-} life xvda || fail "xl block-detach ${1:-}"
	detached "${1:-}"
}
back_state() { backend_is $life xvda $1; }

attach
order life 60 'fill xvda'
order life 20 'load xvda'
order life 40 'answers xvda 256 30'
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
	local moment=$1 pid
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

# Under load, in order and then by force. Linux' frontend may keep some of its requests without end when
# its disk goes, whoever served it, so that the next guest reads what was acknowledged.

# under_load GUEST FORCE: its loaded disk is detached; leaves in $acked the number of the ledger's round
# and of its blocks that were acknowledged
under_load() {
	order $1 20 'load xvda'
	order $1 40 'answers xvda 256 30'
	life=$(xl domid $1)
	# A plain detach of a disk in use is what Linux from 5.15 on follows at once.
	try_xl 40 block-detach $2 $1 xvda || fail "xl block-detach $2 under load"
	detached "$2 under load"
	order $1 20 'report written $round $(cat /tmp/acked)'
	acked=$(reports $1 written)
	guest_end $1
	[ ${acked#* } -gt 0 ] || fail "nothing was acknowledged under load"
}
# next NAME: another guest has the disk, and finds what was acknowledged
next() {
	guest_start $1 fio-orders "disk=['$(disk xvda)']"
	guest_need $1 ready 60
	order $1 60 "same_ledger xvda $acked"
	noted="$noted${noted:+, }${acked#* }"
}
noted=''
attach
under_load life ''
next plain
under_load plain --force
next forced
guest_end forced
mark note "text=\"detached under load in order and by force after $noted flushed blocks, all there\""
next_attach_works
