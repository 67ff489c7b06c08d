# scenario: seconds=700
# A guest that lived on a logical volume under dom0's own backend is moved to Spindle by its disk line
# alone, and back: its files are the same each time. The volumes are made by LVM in dom0, and used there
# through the device mapper.
vg() {
	say "lvm $*"
	LVM_SUPPRESS_FD_WARNINGS=1 lvm "$@" --config 'devices{use_devicesfile=0} activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}'
}
PLAIN=format=raw,vdev=xvda,access=rw
to_spindle() {
	vg vgchange -an vg0 || fail "vgchange -an"
	assignable $BDF
	spindle_up
}
# lives WHO JOB REPORT LINE: a guest with this disk does its job
lives() {
	guest_start $1 $2 "disk=['$4']"
	guest_need $1 "$3" 240
	guest_finish $1 20
}
# in_dom0 PATH: the line of a disk in dom0; in_spindle PATH: the same in Spindle
in_dom0() { echo "$PLAIN,script=block-plain,target=$1"; }
in_spindle() { echo "$PLAIN,backend=spindle,target=$1"; }
same_in_dom0() {
	dd if=$1 bs=1M skip=$2 count=8 2> /dev/null | sha256sum | cut -d' ' -f1
}

spindle_down
modprobe dm-snapshot
modprobe xen-blkback
linux_block_script > /etc/xen/scripts/block-plain
chmod +x /etc/xen/scripts/block-plain
to_dom0
nvme0=$(namespace 1)
vg pvcreate -ff -y $nvme0 || fail "pvcreate"
vg vgcreate vg0 $nvme0 || fail "vgcreate"
vg lvcreate -y -n before -L 8M vg0 || fail "lvcreate"
vg lvcreate -y -n web -L 120M vg0 || fail "lvcreate"
vg lvcreate -y -n my-data -L 24M vg0 || fail "lvcreate"
vg lvcreate -y --type snapshot -n snap -L 8M vg0/before || fail "lvcreate --snapshot"
lives writer tree-write tree "$(in_dom0 /dev/vg0/web)"

to_spindle
xenstore-read $(spindle_home)/data/spindle/targets/nvme0n1
lives checker tree-check checked "$(in_spindle /dev/vg0/web)"
# The device mapper's name, and what is refused.
guest_start orders fio-orders "disk=['$(in_spindle /dev/mapper/vg0-my--data)']"
guest_need orders ready 60
order orders 60 'fill xvda'
order orders 60 'same xvda'
order orders 5 sum
sum=$(reports orders sum)
asking=$(xl domid orders)
refused() {
	xl block-attach orders "$(disk xvdp $1 spindle $2)" && fail "$1 is given out for $2"
	need_reason $asking/$(devid xvdp) "$3"
	try_xl 120 block-detach orders xvdp || fail "xl block-detach"
}
refused vg0/snap rw 'a snapshot'
refused vg0/before rw 'another logical volume depends on it'
refused nvme0n1 rw "in use by $asking/$(devid xvda) (as \"vg0/my-data\")"
guest_end orders
# Another guest writes files of its own there.
lives writer tree-write tree "$(in_spindle vg0/web)"

spindle_down
to_dom0
vg vgchange -ay vg0 || fail "vgchange -ay"
vg vgck vg0 || fail "vgck"
[ "$(same_in_dom0 /dev/vg0/my-data 8)" = "$sum" ] || fail "dom0 reads other data through the device mapper"
lives checker tree-check checked "$(in_dom0 /dev/vg0/web)"
to_spindle
next_attach_works
