# Once dom0 says so, writes at random and reads back with checksums, for as long as the command line
# says. Then reports when requests were answered: how many in each step, and each time of a tenth of a
# second or more without any, in milliseconds since dom0's word.
STEP=200

# epoch: milliseconds since 1970
epoch() { adjtimex | awk '/tv_sec/ {s = $2} /tv_usec/ {u = $2} END {printf "%.0f", s * 1000 + u / 1000}'; }

modprobe xen-blkfront
wait_disk xvda
report ready
await
begun=$(epoch)
/usr/bin/fio --name=crash --filename=/dev/xvda --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
	--randrepeat=0 --eta=never --rw=randwrite --bs=4k --iodepth=16 --verify_backlog=64 --offset=16M --size=32M \
	--time_based --runtime=$(sed -n 's/.*crash\.seconds=\([0-9]*\).*/\1/p' /proc/cmdline) \
	--write_lat_log=/tmp/io --log_unix_epoch=1 --disable_slat=1 --disable_clat=1 > /tmp/crash.txt 2>&1 || {
	cat /tmp/crash.txt
	fail "fio: $(grep -m 1 -E 'verify|error' /tmp/crash.txt)"
}
grep -q 'err= 0' /tmp/crash.txt || fail "fio: $(grep err= /tmp/crash.txt)"
report checked requests=$(wc -l < /tmp/io_lat.1.log)
report step $STEP
awk -F, -v begun=$begun -v step=$STEP '
	{ at = $1 - begun; count[int(at / step)]++; last = int(at / step) }
	NR > 1 && at - before >= 100 { print "%% gap at=" before " ms=" at - before }
	{ before = at }
	END {
		line = ""
		for (i = 0; i <= last; i++) {
			line = line (count[i] + 0) ","
			if (i % 40 == 39) { print "%% counts " line; line = "" }
		}
		print "%% counts " line
	}' /tmp/io_lat.1.log
report answered all
