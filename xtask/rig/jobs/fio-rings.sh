# Four writers at once on every disk, over as many rings as the frontend gets, read back with
# checksums. Module options come from the kernel command line: blkfront=OPTION,OPTION
options=$(sed -n 's/.*blkfront=\([^ ]*\).*/\1/p' /proc/cmdline | tr ',' ' ')
modprobe xen-blkfront $options
disks=$(sed -n 's/.*disks=\([^ ]*\).*/\1/p' /proc/cmdline | tr ',' ' ')
for name in $disks; do
	wait_disk $name
	report queues disk=$name count=$(ls /sys/block/$name/mq | wc -l) requests=$(cat /sys/block/$name/queue/nr_requests)
done
report ready
for name in $disks; do
	/usr/bin/fio --name=$name --filename=/dev/$name --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
		--do_verify=1 --randrepeat=0 --eta=never --rw=randwrite --bsrange=4k-64k --iodepth=16 --size=3M \
		--numjobs=4 --offset_increment=3M --group_reporting --output=/tmp/$name.txt &
	pids="$pids $!"
done
for pid in $pids; do
	wait $pid || failed=1
done
cat /tmp/xvd*.txt | grep 'err=' | while read -r line; do report fio "$line"; done
[ -z "$failed" ] || fail "fio: $(grep -h -m 3 -iE 'verify|error' /tmp/xvd*.txt | tr '\n' ' ')"
