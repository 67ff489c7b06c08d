# Writes with checksums when dom0 says so, twice: the first time the disk stalls and comes back, the
# second time it does not, and everything must fail.
modprobe xen-blkfront
wait_disk xvda
write() {
	/usr/bin/fio --name=$1 --filename=/dev/xvda --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
		--do_verify=1 --randrepeat=0 --eta=never --rw=randwrite --bsrange=4k-64k --iodepth=16 --size=8M \
		--output=/tmp/$1.txt 2>&1
}
report ready
await
write stalled && grep -q 'err= 0' /tmp/stalled.txt || fail "fio: $(cat /tmp/stalled.txt)"
report verified
await
write lost && fail "writes to a lost disk succeed"
grep -q 'error=Input/output error' /tmp/lost.txt || fail "fio: $(cat /tmp/lost.txt)"
dd if=/dev/xvda of=/dev/null bs=4096 count=1 iflag=direct 2> /dev/null && fail "a lost disk can be read"
