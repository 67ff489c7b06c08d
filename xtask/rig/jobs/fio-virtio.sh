# Uses all rings of a disk of 64 MiB with checksums, then leaves 8 MiB of a pattern for the host
# at 32 MiB, and 8 MiB of nothing behind them.
modprobe xen-blkfront
wait_disk xvda
queue=/sys/block/xvda/queue
report queues count=$(ls /sys/block/xvda/mq | wc -l) discard=$(cat $queue/discard_max_bytes)
/usr/bin/fio --name=rings --filename=/dev/xvda --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
	--do_verify=1 --randrepeat=0 --eta=never --rw=randwrite --bsrange=512-256k --blockalign=512 --iodepth=16 \
	--size=4M --numjobs=4 --offset_increment=6M --group_reporting --output=/tmp/fio.txt || fail "fio: $(cat /tmp/fio.txt)"
grep -q 'err= 0' /tmp/fio.txt || fail "fio: $(grep err= /tmp/fio.txt)"
head -c 16777216 /dev/urandom > /tmp/pattern
dd if=/tmp/pattern of=/dev/xvda bs=1M seek=32 oflag=direct conv=notrunc,fsync 2> /dev/null || fail "write"
report written "$(dd if=/tmp/pattern bs=1M count=8 2> /dev/null | sha256sum | cut -d' ' -f1)"
blkdiscard -o 41943040 -l 8388608 /dev/xvda || fail "blkdiscard"
