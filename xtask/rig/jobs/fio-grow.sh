# Uses a disk with checksums while it grows, then the new part, and leaves 8 MiB of a pattern at its
# new end.
modprobe xen-blkfront
wait_disk xvda
check() {
	/usr/bin/fio --name=$1 --filename=/dev/xvda --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
		--do_verify=1 --randrepeat=0 --eta=never --rw=randwrite --bsrange=4k-128k --iodepth=16 --offset=$2 --size=$3 \
		--output=/tmp/$1.txt && grep -q 'err= 0' /tmp/$1.txt || fail "fio $1: $(cat /tmp/$1.txt)"
}
sectors() { cat /sys/block/xvda/size; }
old=$(sectors)
while [ ! -e /tmp/grown ]; do
	check old 0 8M
	[ -e /tmp/once ] || report ready sectors=$old
	: > /tmp/once
done &
for _ in $(seq 1 480); do
	[ $(sectors) = $old ] || break
	sleep 0.25
done
: > /tmp/grown
wait
new=$(sectors)
[ $new -gt $old ] || fail "the disk has $new sectors as before"
report grown sectors=$new
check new $((old * 512)) $(((new - old) * 512))
head -c 8388608 /dev/urandom > /tmp/pattern
dd if=/tmp/pattern of=/dev/xvda bs=1M seek=$((new / 2048 - 8)) oflag=direct conv=notrunc,fsync 2> /dev/null || fail "write"
report pattern $(sha256sum < /tmp/pattern | cut -d' ' -f1)
