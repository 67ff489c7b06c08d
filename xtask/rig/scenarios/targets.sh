# scenario: seconds=360
# Targets by all their names, and who may have what at the same time. One guest looks at the data;
# another, which never runs, asks for what it must or must not get.
spindle_down
spindle_up
PART=11111111-2222-4333-8444-555555555555
specs=''
vdevs='xvda xvdb xvdc xvdd xvde xvdf xvdg xvdh'
letters=$vdevs
for name in nvme0n3p1 /dev/nvme0n3p1 PARTUUID=$PART /dev/disk/by-partuuid/$PART PARTLABEL=first \
	/dev/disk/by-partlabel/first nvme-spindle0-n3-part1 /dev/disk/by-id/nvme-spindle0-n3-part1; do
	specs="$specs'$(disk ${letters%% *} $name spindle ro)',"
	letters=${letters#* }
done
guest_config asking no-blkfront 'disk=[]'
try_xl 120 create -p /run/asking.cfg || fail "xl create asking"
asking=$(xl domid asking)

# who_has TARGET: as Spindle lists it
who_has() {
	xenstore-read -R $(spindle_home)/data/spindle/targets/nvme0n3 | awk -v name=$1 '$1 == name {print $5}'
}
# has TARGET HOLDERS
has() { wait_until 5 holders_are $1 $2 || fail "$1 is said to be held by $(who_has $1), not $2"; }
holders_are() { [ "$(who_has $1)" = "$2" ]; }
# gets TARGET ACCESS VDEV
gets() { try_xl 120 block-attach asking "$(disk $3 $1 spindle $2)" || fail "refused: $1 $2: $(refusal)"; }
gives() { try_xl 120 block-detach asking $1 || fail "xl block-detach $1"; }
# refused TARGET ACCESS REASON; xl leaves its own nodes, which block-detach removes
refused() {
	xl block-attach asking "$(disk xvdp $1 spindle $2)" && fail "$1 is given out for $2"
	need_reason $asking/$(devid xvdp) "$3"
	gives xvdp
}

gets PARTLABEL=first ro xvdb
has nvme0n3p1 $asking/51728:r
guest_start looking fio-orders "disk=[$specs'$(disk xvdi shared:nvme0n3p1)','$(disk xvdj PARTLABEL=second)','$(disk xvdk nvme-spindle0-n1)']"
guest_need looking ready 60
looking=$(xl domid looking)
holders=$asking/51728:r
for vdev in $vdevs; do holders=$holders,$looking/$(devid $vdev):r; done
has nvme0n3p1 $holders,$looking/$(devid xvdi):w!
has nvme0n3p2 $looking/$(devid xvdj):w
has nvme0n3 -
order looking 60 'fill xvdi'
order looking 90 "for vdev in $vdevs; do same \$vdev && [ \$(cat /sys/block/\$vdev/ro) = 1 ] || fail \$vdev; done"
order looking 20 '! dd if=/tmp/pattern of=/dev/xvda bs=4k count=1 conv=notrunc,fsync'
for vdev in xvdj xvdk; do
	order looking 60 "fill $vdev"
	order looking 60 "same $vdev"
done

refused nvme0n3p2 rw "in use by $looking/$(devid xvdj), and not by readers only"
refused nvme0n3p2 ro "in use by $looking/$(devid xvdj), and"
refused nvme0n3p1 rw "in use by $asking/51728, and"
refused nvme0n3 rw "in use by $asking/51728 (as \"nvme0n3p1\")"
refused nvme0n3 ro "in use by $looking/$(devid xvdi) (as \"nvme0n3p1\")"
gets shared:nvme0n3p2 rw xvda
has nvme0n3p2 $looking/$(devid xvdj):w,$asking/51712:w!
gives xvda
has nvme0n3p2 $looking/$(devid xvdj):w
refused shared:nvme0n3p2 ro 'is for writers'
guest_end looking
has nvme0n3p1 $asking/51728:r
has nvme0n3p2 -

# The other way round: the whole disk first.
gets nvme0n3 ro xvda
refused nvme0n3p2 rw "in use by $asking/51712 (as \"nvme0n3\")"
gives xvdb
gives xvda
gets /dev/nvme0n3 rw xvda
refused nvme0n3p1 ro 'spindlectl rescan'
guest_end asking
spindle_down
