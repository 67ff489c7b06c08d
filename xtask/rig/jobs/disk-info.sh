# Tells what Linux makes of each disk, reads and writes at the end of those that may be written, and
# tries to write the other one, and to read where xvda has a bad block, at 60 MiB.
modprobe xen-blkfront
for name in xvda xvdb xvdc xvde; do
	wait_disk $name
	dir=/sys/block/$name
	report disk $name sectors=$(cat $dir/size) ro=$(blockdev --getro /dev/$name) \
		logical=$(cat $dir/queue/logical_block_size) physical=$(cat $dir/queue/physical_block_size)
done
for name in xvda xvdb xvde; do
	block=$(cat /sys/block/$name/queue/logical_block_size)
	last=$(($(cat /sys/block/$name/size) * 512 / block - 1))
	head -c $block /dev/urandom > /tmp/block
	dd if=/tmp/block of=/dev/$name bs=$block seek=$last oflag=direct conv=notrunc 2> /dev/null || fail "write $name at its end"
	echo 3 > /proc/sys/vm/drop_caches
	dd if=/dev/$name bs=$block skip=$last of=/tmp/back 2> /dev/null || fail "read $name at its end"
	cmp -s /tmp/block /tmp/back || fail "$name differs at its end"
done
dd if=/dev/zero of=/dev/xvdc bs=4096 count=1 oflag=direct conv=notrunc 2> /dev/null && fail "xvdc is written"
report content $(sum_range xvdc 0 1)
read_block() { dd if=/dev/xvda of=/dev/null bs=4096 skip=$1 count=1 iflag=direct 2> /dev/null; }
read_block 15359 && read_block 15361 || fail "the blocks beside the bad one cannot be read"
read_block 15360 && fail "the bad block can be read"
read_block 15361 || fail "the disk cannot be read after an error"
