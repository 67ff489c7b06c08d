# scenario: seconds=1500 asked=yes
# The interoperability table: every disk on every data path, with one queue and with four, from
# this suite's Linux and, where GRUB is set, from GRUB, which has one queue and no persistent
# grants. Each cell is a mark; one that is wrong fails the scenario. PATHS (with commas) limits it.
PATHS=$(echo ${PATHS:-persistent,copy,map} | tr ',' ' ')
DISKS="xvda:NVMe-512:nvme0n1 xvdb:NVMe-4Kn:nvme0n2 xvdc:partition:nvme0n3p1 xvdd:virtio:vda xvde:RAM:ram0"
RAM=ram0=40M
linux=$(uname -r | cut -d. -f1,2)
specs='' readable='' names='' failed=''
for entry in $DISKS; do
	vdev=${entry%%:*}
	specs="$specs${specs:+,}'$(disk $vdev ${entry##*:})'"
	readable="$readable${readable:+,}'$(disk $vdev ${entry##*:} spindle ro)'"
	names="$names${names:+,}$vdev"
done

# cell FRONTEND PATH QUEUES DISK RESULT
cell() {
	mark cell frontend="\"$1\"" path=$2 queues=$3 disk=$4 result="\"$5\""
	case $5 in verified*) ;; *) failed="$failed $1/$2/$3/$4: $5;" ;; esac
}

# path_of GUEST-ID VDEV: how Spindle says that it serves the disk: QUEUES PATH
path_of() {
	grep "\] $1/$(devid $2): .* rings " $(guest_log spindle) | tr -d '\r' | tail -n 1 | sed -n \
		-e 's/.*: \([0-9]*\) rings .*persistent grants.*/\1 persistent/p' \
		-e 's/.*: \([0-9]*\) rings .*grant copy.*/\1 copy/p' \
		-e 's/.*: \([0-9]*\) rings .*map.*/\1 map/p'
}

# linux_cells PATH QUEUES JOB: fio on all disks at once; again, should emulation kill the guest
linux_cells() {
	local who persistent try id entry label result on ended
	who=linux-$1-$2 persistent=0
	[ $1 = persistent ] && persistent=1
	for try in 1 2; do
		guest_start $who $3 vcpus=$2 "disk=[$specs]" \
			"cmdline=\"$LINUX disks=$names blkfront=feature_persistent=$persistent,max_queues=$2\""
		guest_wait $who 'done' 300
		ended=$?
		[ $ended = 2 ] && [ $try = 1 ] || break
		second_try "guest $who died: $(last_words $who)"
	done
	id=$(xl domid $who)
	for entry in $DISKS; do
		label=${entry#*:}
		result=$(reports $who "cell disk=${entry%%:*}" | sed 's/result=//')
		on=$(path_of $id ${entry%%:*})
		[ "$on" = "$2 $1" ] || result="served with ${on:-nothing}"
		[ "$result$try" != verified2 ] || result='verified, 2nd try'
		[ $ended != 2 ] || result=died
		cell "Linux $linux" $1 $2 ${label%:*} "${result:-no answer}"
	done
	guest_end $who
}

# grub_cells PATH WRITER: GRUB, in a PVH and in a PV guest, reads what a Linux guest wrote
grub_cells() {
	local type abi entry vdev label result file sum
	for type in pvh pv; do
		is_guest grub-$type
		with_config guest.cfg "name=\"grub-$type\"" 'on_reboot="destroy"' "type=\"$type\"" "kernel=\"/spindle/grub-$type.bin\"" \
			memory=128 'on_poweroff="preserve"' "disk=[$readable]" | grep -vE '^(ramdisk|cmdline)' > /run/grub.cfg
		new_log grub-$type
		try_xl 120 create /run/grub.cfg || fail "xl create grub-$type: $(refusal)"
	done
	for type in pvh pv; do
		abi=x86_32
		[ $type = pvh ] || abi=x86_64
		# GRUB moves the cursor before it writes: its reports do not begin their lines.
		wait_until 60 grep -q '%% done' $(guest_log grub-$type)
		for entry in $DISKS; do
			vdev=${entry%%:*} label=${entry#*:} result=verified
			for file in small large; do
				sum=$(reports $2 "sum $vdev $file")
				grep -q "${sum:-no sum}  *(xen/$vdev)/$file" $(guest_log grub-$type) || result=differs
			done
			cell "GRUB, $abi ABI" $1 1 ${label%:*} $result
		done
		guest_end grub-$type
	done
}

spindle_down
assignable $VIRTIO_BDF
for path in $PATHS; do
	if [ $path = map ]; then
		spindle_down
		SPINDLE_KNOBS="$RAM path=map"
	else
		SPINDLE_KNOBS=$RAM
	fi
	alive spindle || spindle_with vcpus=5 memory=160 "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
	linux_cells $path 4 fio-rings
	if [ -z "${GRUB:-}" ] || [ $path = persistent ]; then
		linux_cells $path 1 fio-rings
	else
		linux_cells $path 1 fio-trees
		grub_cells $path linux-$path-1
	fi
done
SPINDLE_KNOBS=''
spindle_down
[ -z "$failed" ] || fail "$failed"
