# Orders (see orders.sh) to a guest whose disk has limits, or a neighbour with some.

# rate DISK SECONDS RW BYTES DEPTH: random I/O of this size, so deep, for so long. Reports how many requests a
# second there were, and by how many microseconds 99 of 100 were done.
rate() {
	wait_disk $1
	/usr/bin/fio --name=rate --filename=/dev/$1 --ioengine=libaio --direct=1 --randrepeat=0 --eta=never --rw=$3 --bs=$4 \
		--iodepth=$5 --size=24M --time_based --runtime=$2 --ramp_time=1 --output-format=terse --terse-version=3 \
		> /tmp/rate.txt 2>&1 || fail "fio: $(cat /tmp/rate.txt)"
	# Reads begin with field 6, writes with 47; of the 20 percentiles that are given, the 17th is 99 %.
	awk -F ';' -v at=$(case $3 in *read) echo 6 ;; *) echo 47 ;; esac) '$1 == 3 {
		for (i = at + 12; i < at + 32; i++) if ($i ~ /^99\.0+%=/) p99 = substr($i, index($i, "=") + 1)
		print int($(at + 2) + 0.5), int(p99)
	}' /tmp/rate.txt > /tmp/figures
	[ -s /tmp/figures ] || fail "fio says $(cat /tmp/rate.txt)"
	report rate $(cat /tmp/figures)
}

# flood DISK: deep I/O until `enough`, unless its disk holds it back
flood() {
	wait_disk $1
	/usr/bin/fio --name=flood --filename=/dev/$1 --ioengine=libaio --direct=1 --randrepeat=0 --eta=never --rw=randwrite \
		--bs=4k --iodepth=32 --size=24M --time_based --runtime=86400 > /tmp/flood.txt 2>&1 &
	flood=$!
	sleep 2
	kill -0 $flood || fail "fio: $(cat /tmp/flood.txt)"
}

# enough: end it; no I/O has failed
enough() {
	kill -INT $flood
	wait $flood
	cat /tmp/flood.txt
	grep -q 'err= 0' /tmp/flood.txt
}

# shellcheck source=jobs/orders.sh
. /jobs/orders.sh
