#!/bin/busybox sh
# A guest's first process: loads the frontend, runs the job, says so, powers off.
# Reports are console lines that start with %%; dom0 waits for them.
export PATH=/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp

report() { echo "%% $*"; }

fail() {
	report "fail $*"
	dmesg | tail -n 20
	poweroff -f
	sleep 60
}

# wait_disk NAME: until the block device is there
wait_disk() {
	for try in $(seq 1 120); do
		[ -b /dev/$1 ] && return 0
		sleep 0.25
	done
	fail "no /dev/$1"
}

# sum_range DISK OFFSET-MIB LENGTH-MIB: its checksum, read from the disk itself
sum_range() {
	echo 3 > /proc/sys/vm/drop_caches
	dd if=/dev/$1 bs=1M skip=$2 count=$3 2> /dev/null | sha256sum | cut -d' ' -f1
}

report up
. /job.sh
report 'done'
poweroff -f
sleep 60
