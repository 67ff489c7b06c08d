# On each of two disks: writes 8 MiB at 32 MiB and flushes them, then 8 MiB behind them, which it does not
# flush. Says so when all of it is answered, and does nothing more.
modprobe xen-blkfront
flushed='' unflushed=''
for name in xvda xvdb; do
	wait_disk $name
	head -c 16777216 /dev/urandom > /tmp/pattern
	dd if=/tmp/pattern of=/dev/$name bs=64k count=128 seek=512 conv=notrunc,fsync 2> /dev/null || fail "write $name"
	dd if=/tmp/pattern of=/dev/$name bs=64k count=128 seek=640 skip=128 oflag=direct conv=notrunc 2> /dev/null || fail "write $name"
	flushed="$flushed $name=$(head -c 8388608 /tmp/pattern | sha256sum | cut -d' ' -f1)"
	unflushed="$unflushed $name=$(tail -c 8388608 /tmp/pattern | sha256sum | cut -d' ' -f1)"
done
report unflushed $unflushed
report flushed $flushed
