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
	load_goes_on
	took="$took${took:+, }$* $(since $began) s"
	[ "$(xl domid spindle)" = $id ] || fail "another domain after '$*'"
}

spindle_down
SPINDLE_KNOBS="drill=on"
assignable $VIRTIO_BDF
spindle_with vcpus=3 memory=128 "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
SPINDLE_KNOBS=''
id=$(xl domid spindle) lives=1 took=''
under_load vda 1 vcpus=2
survive drill panic 1
survive xl sysrq spindle c
survive drill exception 2
survive xl trigger spindle nmi
survive drill hang 1
load_unchanged
load_ends
mark note "text=\"from the death to 64 answers in each guest: $took\""
next_attach_works
spindle_down
