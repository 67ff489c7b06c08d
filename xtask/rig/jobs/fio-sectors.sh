# Four writers beside one another, on two queues: of every four 512-byte sectors each has one, in an
# order of its own, so that their writes meet in the same blocks of 4 KiB. Each finds its own again.
modprobe xen-blkfront
wait_disk xvda
queue=/sys/block/xvda/queue
report sectors logical=$(cat $queue/logical_block_size) physical=$(cat $queue/physical_block_size)
jobs=''
for at in 0 1 2 3; do
	jobs="$jobs --name=writer$at --offset=$((1048576 + 512 * at)) --cpus_allowed=$((at % 2))"
done
/usr/bin/fio --filename=/dev/xvda --ioengine=libaio --direct=1 --thread --rw=randwrite --bs=512 --blockalign=2048 \
	--size=2M --io_size=256k --iodepth=16 --serialize_overlap=1 --randrepeat=0 --verify=crc32c --verify_fatal=1 --do_verify=1 \
	--eta=never --output=/tmp/sectors.txt $jobs || {
	cat /tmp/sectors.txt
	fail "fio"
}
[ $(grep -c 'err= 0' /tmp/sectors.txt) = 4 ] || fail "fio: $(grep err= /tmp/sectors.txt)"
report written $(sum_range xvda 1 2)
