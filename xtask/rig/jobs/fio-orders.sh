# Orders (see orders.sh) to a guest that puts load on a disk and looks at what was acknowledged.
# The disk holds a pattern at 8 MiB and a ledger from 16 MiB on; load is put on 24 to 32 MiB,
# and on as much again for each further job.

# Each waits for its disk: what opened it for writing before it is there would make a file.

# fill DISK: a new pattern of 8 MiB
fill() {
	wait_disk $1
	head -c 8388608 /dev/urandom > /tmp/pattern
	dd if=/tmp/pattern of=/dev/$1 bs=1M seek=8 conv=notrunc,fsync 2> /dev/null
}

# stamp BLOCK: what the ledger has there
stamp() { yes "block $1 of round $round" | head -c 4096; }

# sum: tell dom0 the checksum of the pattern
sum() { report sum $(sha256sum < /tmp/pattern | cut -d' ' -f1); }

# load DISK [JOBS]: begin a new round: deep random I/O, verified as it goes, on as many vCPUs and so
# queues (1), and beside it block after block of the ledger, each of them flushed. Until `enough`.
# Leaves the processes in $fio and $ledger.
load() {
	local block
	wait_disk $1
	round=$((round + 1))
	rm -f /tmp/enough
	/usr/bin/fio --name=load --filename=/dev/$1 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
		--randrepeat=0 --eta=never --rw=randwrite --bsrange=4k-64k --iodepth=32 --verify_backlog=64 --thread \
		--offset=24M --size=8M --offset_increment=8M --numjobs=${2:-1} --group_reporting \
		--cpus_allowed=0-$((${2:-1} - 1)) --cpus_allowed_policy=split --time_based --runtime=86400 > /tmp/load.txt 2>&1 &
	fio=$!
	# The shell has it ignore SIGINT, by which `enough` ends it, until it has started.
	answers $1 8 8
	(
		block=0
		echo 0 > /tmp/acked
		# One descriptor for all: opened by name, a disk that has gone would be made a file.
		exec 4<> /dev/$1
		dd if=/dev/null bs=1M seek=16 >&4 2> /dev/null
		while [ ! -e /tmp/enough ] && stamp $block > /tmp/block &&
			dd if=/tmp/block bs=4k conv=fsync >&4 2> /dev/null; do
			block=$((block + 1))
			echo $block > /tmp/acked
		done
	) &
	ledger=$!
}

# enough: end the load, which has found no fault
enough() {
	touch /tmp/enough
	kill -INT $fio
	wait $fio
	wait $ledger
	cat /tmp/load.txt
	grep -q 'err= 0' /tmp/load.txt
}

# same DISK: the pattern is there, and every block of the ledger that was acknowledged
same() {
	wait_disk $1
	[ "$(sum_range $1 8 8)" = "$(sha256sum < /tmp/pattern | cut -d' ' -f1)" ] || fail "the pattern differs"
	same_ledger $1 $round $(cat /tmp/acked)
}

# same_ledger DISK ROUND BLOCKS: so many blocks of that round are in the ledger
same_ledger() {
	local block
	wait_disk $1
	round=$2
	report ledger $round $3
	[ $3 -gt 0 ] || return 0
	for block in $(seq 1 $3); do stamp $((block - 1)); done > /tmp/want
	dd if=/dev/$1 bs=4k skip=4096 count=$3 2> /dev/null | cmp - /tmp/want || fail "the ledger differs"
}

round=0
echo 0 > /tmp/acked

# shellcheck source=jobs/orders.sh
. /jobs/orders.sh
