#!/bin/busybox sh
# A guest's first process: loads the frontend, runs the job, says so, and waits for its end.
# Reports are console lines that start with %%; dom0 waits for them.
set -u
export PATH=/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp

report() { echo "%% $*"; }

# A PVH guest has no way to power itself off; dom0 destroys it when it has had its report.
end() {
	report "$@"
	while :; do sleep 60; done
}

fail() {
	dmesg | tail -n 20
	end fail "$@"
}

# wait_disk NAME: until the block device is there
wait_disk() {
	for _ in $(seq 1 120); do
		[ -b /dev/$1 ] && return 0
		sleep 0.25
	done
	fail "no /dev/$1"
}

# await: until dom0 says, by a line on the console, that the job is to go on
await() { read -r _ < /dev/console; }

# release_disk NUMBER: have the frontend close, as when a guest shuts down in order
release_disk() {
	echo vbd-$1 > /sys/bus/xen/drivers/vbd/unbind || fail "unbind vbd-$1"
}

# answered DISK: how many reads and writes it has answered
answered() { awk '{print $1 + $5}' /sys/block/$1/stat; }

# answers DISK NUMBER SECONDS: it answers so many more within so many seconds
answers() {
	local before
	before=$(answered $1)
	for _ in $(seq 1 $(($3 * 4))); do
		[ $(answered $1) -lt $((before + $2)) ] || return 0
		sleep 0.25
	done
	return 1
}

# sum_range DISK OFFSET-MIB LENGTH-MIB: its checksum, read from the disk itself
sum_range() {
	echo 3 > /proc/sys/vm/drop_caches
	dd if=/dev/$1 bs=1M skip=$2 count=$3 2> /dev/null | sha256sum | cut -d' ' -f1
}

report up
# shellcheck source=/dev/null
. /job.sh
end 'done'
