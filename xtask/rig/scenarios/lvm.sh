# scenario: seconds=1000
# A guest that lived on a logical volume under dom0's own backend is moved to Spindle by its disk line
# alone, and back: its files are the same each time. The volumes are made by LVM in dom0, and used there
# through the device mapper. Then the group, which is on two disks, is changed while guests use it: by LVM
# in dom0, which has the disks as well, and by Spindle, whose metadata LVM finds in order.
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
ctl() {
	say "spindlectl $*"
	/spindle/spindlectl "$@"
}
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
# Its first partition has 32 MiB.
part=$(namespace 3)p1
[ -b $part ] || fail "dom0 does not see the partitions of $(namespace 3)"
vg pvcreate -ff -y $nvme0 $part || fail "pvcreate"
vg vgcreate vg0 $nvme0 $part || fail "vgcreate"
vg lvcreate -y -n before -L 8M vg0 $nvme0 || fail "lvcreate"
vg lvcreate -y -n web -L 120M vg0 $nvme0 || fail "lvcreate"
vg lvcreate -y -n my-data -L 24M vg0 $nvme0 || fail "lvcreate"
vg lvcreate -y --type snapshot -n snap -L 8M vg0/before $nvme0 || fail "lvcreate --snapshot"
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

# grows NAME SECTORS NOW COMMAND...: a guest that uses vg0/made, which has so many sectors, sees it grow
# to NOW with this command, uses what is new, and leaves a pattern at the end
grows() {
	local who=$1 old=$2 new=$3
	shift 3
	guest_start $who fio-grow vcpus=2 "disk=['$(in_spindle vg0/made)']"
	guest_need $who ready 60
	[ "$(reports $who ready)" = sectors=$old ] || fail "the volume begins with $(reports $who ready), not $old"
	"$@" || fail "$*"
	guest_need $who 'done' 120
	[ "$(reports $who grown)" = sectors=$new ] || fail "the volume has $(reports $who grown), not $new"
	guest_end $who
}
node() { [ -b /dev/$1 ]; }
no_node() { ! node $1; }
shared() {
	try_xl 60 block-attach 0 "$(disk $1 shared:$2)" || fail "xl block-attach 0 $2: $(refusal)"
	wait_until 20 node $1 || fail "dom0 has no /dev/$1"
}
unshared() {
	try_xl 40 block-detach 0 $1 || fail "xl block-detach 0 $1"
	wait_until 10 no_node $1 || fail "dom0 keeps /dev/$1"
}
# LVM in dom0 makes it larger, and Spindle is asked to look.
by_lvm() {
	shared xvdy nvme0n1
	shared xvdz nvme0n3p1
	vg lvextend -L +8M vg0/made || return 1
	ctl rescan spindle > /run/rescan || return 1
	cat /run/rescan
	grep -q 'stays what it was' /run/rescan && return 1
	vg vgck vg0 || return 1
	unshared xvdy
	unshared xvdz
}
# by_spindle SIZE: Spindle does
by_spindle() { ctl volume extend spindle vg0/made $1; }

modprobe xen-blkfront
ctl volume create spindle vg0/made 24M || fail "spindlectl volume create"
grows lvm 49152 65536 by_lvm
# There are 60 MiB left on the first disk, and 64 are asked for: the rest is on the second.
grows spindle2 65536 196608 by_spindle 96M
sum_made=$(reports spindle2 pattern)
ctl volume create spindle vg0/gone 4M || fail "spindlectl volume create"
ctl volume rename spindle vg0/gone went || fail "spindlectl volume rename"
ctl volume list spindle vg0 | tee /run/volumes
grep -q '^vg0/went ' /run/volumes || fail "spindlectl volume list"
ctl volume remove spindle vg0/went || fail "spindlectl volume remove"
ctl volume create spindle vg0/huge 1G 2> /run/refused && fail "there is no room for 1 GiB"
grep -q 'MiB are asked for' /run/refused || fail "the reason is missing: $(cat /run/refused)"
ctl volume remove spindle vg0/snap 2> /run/refused && fail "a snapshot is removed"
grep -q 'it is a snapshot' /run/refused || fail "the reason is missing: $(cat /run/refused)"

spindle_down
to_dom0
vg vgck vg0 || fail "vgck"
vg pvck $nvme0 $part || fail "pvck"
vg lvs -a -o lv_name,seg_pe_ranges,vg_seqno vg0
vg lvs vg0/went && fail "LVM still has what was removed"
vg vgchange -ay vg0 || fail "vgchange -ay"
[ "$(same_in_dom0 /dev/vg0/made 88)" = "$sum_made" ] || fail "dom0 reads other data at the end of vg0/made"
[ "$(same_in_dom0 /dev/vg0/my-data 8)" = "$sum" ] || fail "dom0 reads other data through the device mapper"
lives checker tree-check checked "$(in_dom0 /dev/vg0/web)"
to_spindle
next_attach_works
