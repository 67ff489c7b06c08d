# Runs each job on each disk in turn, as often as the command line says, and reports what
# fio says in its terse format. A job is called ACCESS-BLOCKSIZE-DEPTH.
setting() { sed -n "s/.*bench\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
words() { setting $1 | tr ',' ' '; }

modprobe xen-blkfront max_queues=$(setting queues)
for pair in $(words disks); do
	disk=${pair#*:}
	wait_disk $disk
	# So that reads do not hit holes.
	dd if=/dev/urandom of=/dev/$disk bs=1M count=48 oflag=direct 2> /dev/null || fail "fill $disk"
	report disk $pair queues=$(ls /sys/block/$disk/mq | wc -l) clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
done
sleep 2
round=0
while [ $round -lt $(setting reps) ]; do
	round=$((round + 1))
	for job in $(words jobs); do
		access=${job%%-*}
		depth=${job##*-}
		size=${job#*-}
		size=${size%-*}
		for pair in $(words disks); do
			report begin ${pair%:*} $job $round
			/usr/bin/fio --name=$job --filename=/dev/${pair#*:} --ioengine=libaio --direct=1 \
				--rw=$access --bs=$size --iodepth=$depth --size=48M --norandommap --randrepeat=0 \
				--time_based --ramp_time=2 --runtime=$(setting seconds) --numjobs=$(setting queues) \
				--group_reporting --minimal > /tmp/fio || fail "fio $job on $pair"
			report fio ${pair%:*} $job $round "$(tail -n 1 /tmp/fio | tr ' "' '__')"
			sleep 1
		done
	done
done
