# Orders (see orders.sh) to a guest that has a disk mounted while it is taken away.

# prepare DISK: an empty file system on it
prepare() {
	wait_disk $1
	/usr/sbin/mke2fs -q -F -t ext4 /dev/$1
}

# hold DISK: mount it
hold() {
	wait_disk $1
	modprobe -q crc32c_generic
	modprobe ext4
	mount -t ext4 /dev/$1 /mnt
}

# keep NAME: write a file of 2 MiB that is to be there later
keep() {
	head -c 2097152 /dev/urandom > /tmp/$1
	dd if=/tmp/$1 of=/mnt/$1 bs=64k conv=fsync 2> /dev/null && same $1 &&
		report kept $1 $(sha256sum < /tmp/$1 | cut -d' ' -f1)
}

# same NAME...: such files are there, read from the disk
same() {
	local name
	echo 3 > /proc/sys/vm/drop_caches
	for name; do cmp /tmp/$name /mnt/$name || return 1; done
}

# found NAME SUM: such a file of another guest is there
found() { [ "$(sha256sum < /mnt/$1 | cut -d' ' -f1)" = "$2" ]; }

# own DISK: write a MiB that no other guest has, at 208 MiB, and find it there
own() {
	head -c 1048576 /dev/urandom > /tmp/own
	dd if=/tmp/own of=/dev/$1 bs=64k seek=3328 conv=notrunc,fsync 2> /dev/null &&
		[ "$(sum_range $1 208 1)" = "$(sha256sum < /tmp/own | cut -d' ' -f1)" ]
}

# give_up: unmount it, with or without its disk
give_up() {
	umount /mnt || umount -l /mnt
}

# without DISK: nothing more can be written to it; how that shows
without() {
	local result
	(
		dd if=/dev/urandom of=/mnt/late bs=64k count=1 conv=fsync 2> /tmp/late
		echo $? > /tmp/late.status
	) &
	for _ in $(seq 1 40); do
		[ ! -e /tmp/late.status ] || break
		sleep 0.25
	done
	result='hangs'
	[ ! -e /tmp/late.status ] || result="ends with status $(cat /tmp/late.status): $(tail -n 1 /tmp/late)"
	rm -f /tmp/late.status
	report without $1 "$result"
	case $result in *'status 0:'*) return 1 ;; esac
}

# shellcheck source=jobs/orders.sh
. /jobs/orders.sh
