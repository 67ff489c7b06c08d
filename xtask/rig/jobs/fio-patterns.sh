# After fio-rings: leaves 8 MiB of a pattern at 32 MiB on every disk, for the host.
# shellcheck source=jobs/fio-rings.sh
. /jobs/fio-rings.sh
for name in $disks; do
	head -c 8388608 /dev/urandom > /tmp/pattern
	dd if=/tmp/pattern of=/dev/$name bs=1M seek=32 oflag=direct conv=notrunc,fsync 2> /dev/null || fail "write $name"
	report pattern disk=$name sum=$(sha256sum < /tmp/pattern | cut -d' ' -f1)
done
