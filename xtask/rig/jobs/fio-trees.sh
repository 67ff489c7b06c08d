# After fio-rings: puts a small file system on every disk, with a configuration that has GRUB list
# and sum up the files of them all.
# shellcheck source=jobs/fio-rings.sh
. /jobs/fio-rings.sh
modprobe crc32c_generic
modprobe ext4
for name in $disks; do
	/usr/sbin/mke2fs -q -F -t ext2 -b 4096 /dev/$name || fail "mke2fs $name"
	mount -t ext4 /dev/$name /mnt || fail "mount $name"
	mkdir -p /mnt/boot/grub
	cat > /mnt/boot/grub/grub.cfg <<-G
		for disk in $disks; do
			echo "%% list \$disk"
			ls (xen/\$disk)/
			md5sum (xen/\$disk)/small (xen/\$disk)/large
		done
		echo "%% done"
		halt
	G
	head -c 777 /dev/urandom > /mnt/small
	head -c 1500000 /dev/urandom > /mnt/large
	cd /mnt || fail "cd"
	md5sum small large > /tmp/sums
	cd /
	umount /mnt || fail "umount $name"
	while read -r sum file; do report "sum $name $file $sum"; done < /tmp/sums
done
