# Writes and reads back with checksums in every block: mixed sizes and offsets, then small
# blocks in a deep queue, then large ones in order.
modprobe xen-blkfront
wait_disk xvda
check() {
	local name=$1
	shift
	/usr/bin/fio --name=$name --filename=/dev/xvda --ioengine=libaio --direct=1 --verify=crc32c \
		--verify_fatal=1 --do_verify=1 --randrepeat=0 --eta=never --output=/tmp/$name.txt "$@" || {
		cat /tmp/$name.txt
		fail "fio $name"
	}
	grep -q 'err= 0' /tmp/$name.txt || fail "fio $name: $(grep err= /tmp/$name.txt)"
	report fio job=$name $(grep -E '^ +(READ|WRITE):' /tmp/$name.txt | tr -s ' ,' ' ' | cut -d' ' -f2-4 | tr '\n' ' ')
}
check mixed --rw=randwrite --bsrange=512-128k --blockalign=512 --iodepth=16 --offset=1M --size=40M --verify_backlog=64
check small --rw=randwrite --bs=4k --iodepth=32 --offset=64M --size=8M
check large --rw=write --bs=1M --iodepth=4 --offset=96M --size=64M
report sum $(sum_range xvda 96 8)
