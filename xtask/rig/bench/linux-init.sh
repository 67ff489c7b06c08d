#!/bin/busybox sh
# The first process of the Linux driver domain that Spindle is compared to: its own driver
# for the disk, xen-blkback, and what `xl devd` and the hotplug script do for a disk.
set -u
export PATH=/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "init at $(cut -d' ' -f1 /proc/uptime)"
modprobe nvme
# Linux numbers namespaces in the order in which it happens to find them.
first() { grep -lx 1 /sys/block/nvme[0-9]n*/nsid 2> /dev/null | cut -d/ -f4; }
for _ in $(seq 1 300); do
	[ -n "$(first)" ] && break
	sleep 0.1
done
ln -s $(first) /dev/first
modprobe xen-blkback
home=/local/domain/$(xenstore-read domid)
backends=$home/backend/vbd
free | awk 'NR == 2 {print "memory used", $3, "free", $4, "KiB"}'
xenstore-write data/linux/version "$(uname -r)" data/linux/ready 1
echo "ready at $(cut -d' ' -f1 /proc/uptime)"

# A backend directory in state 2 waits to be told its device; one in state 6 that is not
# online has been left by its guest.
xenstore-watch $home/backend | while read -r _; do
	for guest in $(xenstore-list $backends 2> /dev/null); do
		for disk in $(xenstore-list $backends/$guest 2> /dev/null); do
			path=$backends/$guest/$disk
			case $(xenstore-read $path/state 2> /dev/null) in
			2)
				xenstore-exists $path/physical-device && continue
				device=$(xenstore-read $path/params)
				xenstore-write $path/physical-device "$(stat -L -c %t:%T $device)" \
					$path/physical-device-path $device $path/hotplug-status connected
				echo "serves $device to $guest"
				;;
			6) [ "$(xenstore-read $path/online)" = 0 ] && xenstore-rm $path ;;
			esac
		done
	done
done
sleep 100000
