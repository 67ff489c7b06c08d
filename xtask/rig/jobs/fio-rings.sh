# Four writers at once on every disk, over as many rings as the frontend gets, read back with
# checksums. From the kernel command line: disks=NAME,NAME blkfront=OPTION,OPTION (of the module)
options=$(sed -n 's/.*blkfront=\([^ ]*\).*/\1/p' /proc/cmdline | tr ',' ' ')
modprobe xen-blkfront $options
disks=$(sed -n 's/.*disks=\([^ ]*\).*/\1/p' /proc/cmdline | tr ',' ' ')
pids='' failed=''
for name in $disks; do
	wait_disk $name
	queue=/sys/block/$name/queue
	report queues disk=$name count=$(ls /sys/block/$name/mq | wc -l) requests=$(cat $queue/nr_requests) \
		segments=$(cat $queue/max_segments) block=$(cat $queue/logical_block_size)
done
report ready
for name in $disks; do
	/usr/bin/fio --name=$name --filename=/dev/$name --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
		--do_verify=1 --randrepeat=0 --eta=never --rw=randwrite --bsrange=4k-128k --iodepth=8 --size=2M \
		--numjobs=4 --offset_increment=2M --group_reporting --output=/tmp/$name.txt &
	pids="$pids $name:$!"
done
for pid in $pids; do
	name=${pid%:*} result=failed
	wait ${pid#*:} && grep -q 'err= 0' /tmp/$name.txt && result=verified
	report cell disk=$name result=$result
	[ $result = verified ] || failed=1
done
[ -z "$failed" ] || fail "fio: $(grep -h -m 3 -iE 'verify|error' /tmp/xvd*.txt | tr '\n' ' ')"
