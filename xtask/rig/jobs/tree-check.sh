# Reads the tree that another guest has written and compares every checksum.
modprobe xen-blkfront
modprobe crc32c_generic
modprobe ext4
wait_disk xvda
mount -t ext4 /dev/xvda /mnt || fail "mount"
cd /mnt/tree || fail "cd"
sha256sum -c -s ../MANIFEST || fail "checksums differ: $(sha256sum -c ../MANIFEST 2>&1 | grep -v ': OK' | head -n 3)"
files=$(wc -l < ../MANIFEST)
cd /
umount /mnt || fail "umount"
report checked files=$files
