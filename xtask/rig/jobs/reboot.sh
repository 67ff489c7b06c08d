# Leaves a token on the disk and reboots; the second boot finds it.
modprobe xen-blkfront
wait_disk xvda
token=$(sed -n 's/.*token=\([^ ]*\).*/\1/p' /proc/cmdline)
found=$(dd if=/dev/xvda bs=4096 skip=2000 count=1 2> /dev/null | head -c ${#token})
if [ "$found" = "$token" ]; then
	report second-boot
else
	(echo "$token"; head -c 4096 /dev/zero) | head -c 4096 |
		dd of=/dev/xvda bs=4096 seek=2000 conv=notrunc,fsync 2> /dev/null || fail "write"
	report first-boot
	# dom0 has read that before there is another console.
	await
	reboot -f
	sleep 60
fi
