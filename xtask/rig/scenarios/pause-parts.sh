# scenario: seconds=600 asked=yes
# What the pause of an update and of a crash is made of: three of each, while two guests write to an NVMe
# disk and to a virtio disk. The note has the parts of each in microseconds, as the kernel prints them.
again() {
	"$@" > /run/said 2>&1 || fail "$*: $(cat /run/said)"
	load_goes_on
	[ "$(xl domid spindle)" = $id ] || fail "another domain"
}

spindle_down
SPINDLE_KNOBS="drill=on"
assignable $VIRTIO_BDF
spindle_with vcpus=3 memory=128 "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
SPINDLE_KNOBS=''
id=$(xl domid spindle)
under_load vda 1
for how in panic panic exception; do
	again /spindle/spindlectl crash --how $how --core 1 spindle
	again /spindle/spindlectl update --image /spindle/spindle.elf spindle
done
load_unchanged
load_ends
mark note "text=\"$(grep -v 'former life:' "$(guest_log spindle)" | sed -n 's/.*\] pause: //p' | tr '\r\n' ' ;')\""
spindle_down
