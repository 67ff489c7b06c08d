# scenario: seconds=600
# Frontends that are not the suite's Linux in a PVH guest, one after another on the same disk: dom0
# itself, which makes it a disk to boot from; GRUB, which hands over to Linux; GRUB that loads the
# guest's own GRUB, which hands over to Linux. Each reads what dom0 wrote, and writes; the first GRUB by the
# 32-bit ABI, the others by the 64-bit one.
spindle_up
times=''
lap() {
	times="$times$1 $(since $began) s; "
	began=$(now)
}

### dom0

for module in xen-blkfront vfat nls_cp437 nls_ascii; do modprobe $module; done
node() { [ -b /dev/xvda ]; }
no_node() { ! node; }
attach() {
	try_xl 60 block-attach 0 "$(disk xvda)" || fail "xl block-attach 0: $(refusal)"
	wait_until 20 node || fail "dom0 has no /dev/xvda"
}
detach() {
	try_xl 40 block-detach 0 xvda || fail "xl block-detach 0 ($1)"
	wait_until 10 backend_gone 0 || fail "block-detach 0 ($1) left the backend directory"
	wait_until 10 no_node || fail "dom0 keeps /dev/xvda ($1)"
}
use() { mount -t vfat -o codepage=437,iocharset=ascii /dev/xvda /mnt || fail "dom0 cannot mount the disk"; }
pattern() { dd if=/dev/xvda bs=1M skip=$1 count=4 2> /dev/null | sha256sum | cut -d' ' -f1; }

began=$(now)
attach
head -c 4194304 /dev/urandom > /run/pattern
sum=$(sha256sum < /run/pattern | cut -d' ' -f1)
dd if=/run/pattern of=/dev/xvda bs=64k seek=3072 conv=notrunc,fsync 2> /dev/null || fail "dom0 cannot write"
rm /run/pattern
detach idle
attach
[ "$(pattern 192)" = $sum ] || fail "dom0 does not find what it wrote"

mkdosfs /dev/xvda 131072 || fail "mkdosfs"
use
mkdir -p /mnt/boot/grub
# The old kernel, since GRUB for PV guests knows how that is compressed, but not newer ones.
cp /images/vmlinuz-old /mnt/vmlinuz
cat /images/guest.cpio /images/modules-old.cpio /spindle/jobs/mount-orders.cpio | gzip -1 > /mnt/initrd
cp /spindle/grub-pv.bin /mnt/boot/grub/grub.bin
# GRUB's file for what it is to remember: 1024 bytes, always.
(echo '# GRUB Environment Block'; yes '#' | tr -d '\n' | head -c 999) > /mnt/boot/grub/grubenv
cat > /mnt/boot/grub/grub.cfg <<-G
	set disk=(xen/xvda)
	set env=\$disk/boot/grub/grubenv
	load_env -f \$env
	if [ "\$grub_platform" != xen ]; then
		set protocol=x86_32
		save_env -f \$env protocol
	fi
	if [ "\$grub_platform" = xen -a "\$chained" != yes ]; then
		set chained=yes
		save_env -f \$env chained
		echo "%% chain"
		linux \$disk/boot/grub/grub.bin
	else
		linux \$disk/vmlinuz $LINUX
		initrd \$disk/initrd
	fi
	boot
G
sync
detach mounted
dd if=/dev/zero of=/mnt/late bs=64k count=1 conv=fsync 2> /dev/null && fail "dom0 writes to a disk that it has lost"
umount -l /mnt || fail "dom0 cannot unmount the disk that it has lost"
attach
use
cmp /mnt/vmlinuz /images/vmlinuz-old || fail "a file that dom0 wrote differs"
umount /mnt || fail "dom0 cannot unmount the disk"
detach unmounted
lap dom0

### Guests that boot from it

# boot NAME KEY=VALUE...: boot a guest from the disk until its Linux uses it; again, should emulation
# kill it
boot() {
	local who=$1 try status
	shift
	is_guest $who
	with_config guest.cfg "name=\"$who\"" memory=512 "disk=['$(disk xvda)']" 'on_reboot="destroy"' "$@" |
		grep -vE '^(ramdisk|cmdline)' > /run/$who.cfg
	new_log $who
	for try in 1 2; do
		try_xl 120 create /run/$who.cfg || fail "xl create $who: $(refusal)"
		guest_wait $who ready 200
		status=$?
		[ $status = 2 ] && [ $try = 1 ] || break
		second_try "guest $who ended: $(end_of $who)"
	done
	[ $status = 0 ] || fail "no Linux in $who: $(last_words $who)"
	uses $who
}

# uses NAME: the guest finds what dom0 wrote, and writes
uses() {
	local who=$1
	order $who 60 'wait_disk xvda && report found $(sum_range xvda 192 4)'
	[ "$(reports $who found | tail -n 1)" = $sum ] || fail "$who does not find what dom0 wrote"
	order $who 60 'own xvda'
}

boot grub-linux 'kernel="/spindle/grub-pvh.bin"'
guest_end grub-linux
attach
use
grep -q '^protocol=x86_32' /mnt/boot/grub/grubenv || fail "dom0 does not find what GRUB wrote"
umount /mnt || fail "dom0 cannot unmount the disk"
detach "after GRUB"
lap "GRUB and Linux"

boot grub-grub-linux 'type="pv"' 'kernel="/spindle/grub-pv.bin"'
grep -q '%% chain' $(guest_log grub-grub-linux) || fail "GRUB did not load GRUB"
guest_end grub-grub-linux
lap "GRUB, GRUB and Linux"

mark note "text=\"${times%; }\""
next_attach_works
