# Discards what it wrote, and lets dom0 look at the disks' images before and after: a part of a
# 4Kn disk (xvdc), nothing of a disk without discard (xvdb), all of xvda, and then on xvda what is
# free in a file system that half of the files were removed from. Erases a part of a RAM disk (xvdd).
modprobe xen-blkfront
modprobe crc32c_generic
modprobe ext4
for name in xvda xvdb xvdc xvdd; do
	wait_disk $name
	report limits disk=$name most=$(cat /sys/block/$name/queue/discard_max_bytes)
	dd if=/dev/urandom of=/dev/$name bs=1M count=16 oflag=direct conv=notrunc,fsync 2> /dev/null || fail "write $name"
done
kept=$(sum_range xvdb 0 16) before=$(sum_range xvdc 0 4) after=$(sum_range xvdc 12 4)
report written
await
blkdiscard -o 4194304 -l 8388608 /dev/xvdc || fail "blkdiscard xvdc"
[ "$(sum_range xvdc 0 4) $(sum_range xvdc 12 4)" = "$before $after" ] || fail "a discard takes its neighbours with it"
blkdiscard /dev/xvdb 2> /dev/null && fail "xvdb is discarded"
[ "$(sum_range xvdb 0 16)" = "$kept" ] || fail "xvdb is damaged by a discard that was refused"
blkdiscard -s /dev/xvda 2> /dev/null && fail "a disk that cannot do it is discarded securely"
blkdiscard /dev/xvda || fail "blkdiscard xvda"
kept=$(sum_range xvdd 8 8)
blkdiscard -s -l 8388608 /dev/xvdd || fail "a RAM disk is not discarded securely"
[ "$(sum_range xvdd 0 8)" = "$(head -c 8388608 /dev/zero | sha256sum | cut -d' ' -f1)" ] || fail "what was erased is there"
[ "$(sum_range xvdd 8 8)" = "$kept" ] || fail "a secure discard takes its neighbours with it"
report discarded before=$before after=$after
await

# Nothing is to be written later, while dom0 counts.
/usr/sbin/mke2fs -q -F -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/xvda || fail "mke2fs"
mount -t ext4 /dev/xvda /mnt || fail "mount"
mkdir /mnt/tree
cd /mnt/tree || fail "cd"
for i in $(seq 1 24); do head -c 2097152 /dev/urandom > file-$i || fail "write file-$i"; done
sync
report filled
await
rm file-?
sync
trimmed=$(fstrim -v /mnt) || fail "fstrim"
report fstrim "$trimmed"
echo 3 > /proc/sys/vm/drop_caches
sum=$(sha256sum -- * | sha256sum | cut -d' ' -f1)
cd /
umount /mnt || fail "umount"
release_disk 51712
report trimmed $sum
