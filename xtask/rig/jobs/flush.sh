# Writes 8 MiB at 32 MiB, flushes, says so, and keeps writing elsewhere until the end.
modprobe xen-blkfront
wait_disk xvda
head -c 8388608 /dev/urandom > /tmp/pattern
sum=$(sha256sum < /tmp/pattern | cut -d' ' -f1)
dd if=/tmp/pattern of=/dev/xvda bs=64k seek=512 conv=notrunc,fsync 2> /dev/null || fail "write"
report flushed sum=$sum
while :; do dd if=/tmp/pattern of=/dev/xvda bs=1M seek=128 conv=notrunc,fsync 2> /dev/null; done
