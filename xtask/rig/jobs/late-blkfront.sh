# Loads its block frontend only when dom0 says so. Of its disks xvdc works: it is written and read back.
await
modprobe xen-blkfront &
wait_disk xvdc
head -c 1048576 /dev/urandom > /tmp/pattern
dd if=/tmp/pattern of=/dev/xvdc bs=64k seek=128 conv=notrunc,fsync 2> /dev/null || fail "write xvdc"
[ "$(sum_range xvdc 8 1)" = "$(sha256sum < /tmp/pattern | cut -d' ' -f1)" ] || fail "xvdc differs"
report works xvdc
sleep 600
