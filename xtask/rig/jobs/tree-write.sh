# Makes a file system on xvda and fills it: 240 files of 0 bytes to 4 MiB, most of them small.
modprobe xen-blkfront
modprobe crc32c_generic
modprobe ext4
wait_disk xvda
report disk bytes=$(($(cat /sys/block/xvda/size) * 512))
/usr/sbin/mke2fs -q -F -t ext4 /dev/xvda || fail "mke2fs"
mount -t ext4 /dev/xvda /mnt || fail "mount"
mkdir /mnt/tree
cd /mnt/tree || fail "cd"
for i in $(seq 0 240); do
	size=4194304
	for _ in $(seq 1 20); do size=$((size * i / 240)); done
	head -c $size /dev/urandom > file-$i || fail "write file-$i"
done
sha256sum file-* > /tmp/MANIFEST
cp /tmp/MANIFEST /mnt/MANIFEST
files=$(ls | wc -l) kib=$(du -sk . | cut -f1)
cd /
sync
umount /mnt || fail "umount"
release_disk 51712
while read -r sum name; do report "sum $sum $name"; done < /tmp/MANIFEST
report tree files=$files kib=$kib
