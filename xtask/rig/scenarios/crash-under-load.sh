# scenario: seconds=900 core=yes
# The kernel dies again and again while two guests write, to an NVMe disk and to a virtio disk: each
# time it starts again in its own domain, and the guests notice a pause. No I/O fails, what was
# acknowledged is there, and nothing changes in xenstore.

# survive COMMAND...: the kernel dies of it, and both guests go on
survive() {
	local began
	lives=$((lives + 1))
	began=$(now)
	"$@" || fail "$*"
	wait_until 60 is_life $lives || fail "no life $lives after '$*': $(end_of spindle)"
	order first 60 'answers xvda 64 60'
	order second 60 'answers xvdb 64 60'
	took="$took${took:+, }$* $(since $began) s"
	[ "$(xl domid spindle)" = $id ] || fail "another domain after '$*'"
}

spindle_down
SPINDLE_KNOBS="drill=on"
assignable $VIRTIO_BDF
spindle_with vcpus=3 memory=128 "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
SPINDLE_KNOBS=''
id=$(xl domid spindle) lives=1 took=''
guest_start first fio-orders vcpus=2 "disk=['$(disk xvda)']"
guest_start second fio-orders "disk=['$(disk xvdb vda)']"
guest_need first ready 60
guest_need second ready 60
order first 60 'fill xvda'
order second 60 'fill xvdb'
order first 20 'load xvda'
order second 20 'load xvdb'
disk_state first xvda > /run/first.before
disk_state second xvdb > /run/second.before
survive drill panic 1
survive xl sysrq spindle c
survive drill exception 2
survive xl trigger spindle nmi
survive drill hang 1
disk_state first xvda | diff /run/first.before - || fail "xenstore has changed for the first guest"
disk_state second xvdb | diff /run/second.before - || fail "xenstore has changed for the second guest"
order first 60 enough
order second 60 enough
order first 60 'same xvda'
order second 60 'same xvdb'
guest_end first
guest_end second
mark note "text=\"from the death to 64 answers in each guest: $took\""
next_attach_works
spindle_down
