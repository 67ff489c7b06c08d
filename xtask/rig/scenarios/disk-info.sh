# scenario: seconds=240
# What disks are, as the guest's Linux sees them: blocks of 512 bytes, of 4 KiB, and of 512 bytes on
# a medium of 4 KiB; sizes; disks that cannot be written, one of them a CD-ROM; a block that cannot
# be read.
spindle_with_virtio
guest_start info disk-info "disk=['$(disk xvda nvme0n2)','$(disk xvdb)','$(disk xvdc nvme0n3 spindle ro)',
	'$(disk xvde vda)']"
guest_need info 'done' 60
back=$(backend_dir $(xl domid info))
# published VDEV INFO SECTORS LOGICAL PHYSICAL
published() {
	dir=$back/$(devid $1)
	found="$(read_store $dir/info) $(read_store $dir/sectors) $(read_store $dir/sector-size) $(read_store $dir/physical-sector-size)"
	[ "$found" = "$2 $3 $4 $5" ] || fail "$1 is published as $found"
}
# seen VDEV RO SECTORS LOGICAL PHYSICAL
seen() {
	found=$(reports info "disk $1")
	[ "$found" = "sectors=$3 ro=$2 logical=$4 physical=$5" ] || fail "$1 is seen as $found"
}
published xvda 0 131072 4096 4096
seen xvda 0 131072 4096 4096
published xvdb 0 524288 512 512
seen xvdb 0 524288 512 512
published xvdc 4 196608 512 512
seen xvdc 1 196608 512 512
# Read-only, removable, CD-ROM. Linux' blkfront does not take those.
try_xl 120 block-attach info "devtype=cdrom,$(disk xvdd nvme0n3 spindle ro)" || fail "xl block-attach: $(refusal)"
published xvdd 7 196608 512 512
published xvde 0 131072 512 4096
seen xvde 0 131072 512 4096
host sum disk=nvme-gpt start=0 mib=1
[ "$(reports info content)" = "$answer" ] || fail "xvdc is not what the host finds in its image"
guest_end info
# The same by the controller's own account, as spindlectl prints it.
# says LINE WORDS...
says() {
	line=$1
	shift
	/spindle/spindlectl "$@" > /run/page 2>&1 || fail "spindlectl $*: $(cat /run/page)"
	grep -qFx -- "$line" /run/page || fail "spindlectl $* does not say '$line': $(cat /run/page)"
}
says 'sn        : spindle0' id-ctrl nvme0
says 'mn        : QEMU NVMe Ctrl' id-ctrl nvme0
says 'nsze    : 0x4000' id-ns nvme0n2
grep -q 'lbads:12 .*(in use)' /run/page || fail "the blocks of nvme0n2: $(cat /run/page)"
says 'temperature                             : 50 °C (323 K)' smart nvme0
says 'no error is recorded' error-log nvme0
/spindle/spindlectl smart vda > /run/page 2>&1
[ $? = 4 ] && grep -q 'is a virtio disk' /run/page || fail "smart vda: $(cat /run/page)"
