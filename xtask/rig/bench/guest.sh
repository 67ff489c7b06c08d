# Runs each job on each disk in turn, as often as the command line says, and reports what
# fio says in its terse format. A job is called ACCESS-BLOCKSIZE-DEPTH.
setting() { sed -n "s/.*bench\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
words() { setting $1 | tr ',' ' '; }

# completed DISK: how many requests it has answered
completed() { awk '{print $1 + $5}' /sys/block/$1/stat; }

modprobe xen-blkfront max_queues=$(setting queues)
head -c 4194304 /dev/urandom > /tmp/pattern
for pair in $(words disks); do
	disk=${pair#*:}
	wait_disk $disk
	# So that reads do not hit holes.
	for part in $(seq 0 4 47); do
		dd if=/tmp/pattern of=/dev/$disk bs=1M seek=$part oflag=direct 2> /dev/null || fail "fill $disk"
	done
	report disk $pair queues=$(ls /sys/block/$disk/mq | wc -l) clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
done
report filled
# Meanwhile dom0 sees what it uses at rest.
sleep 10
round=$(($(setting first) - 1))
while [ $round -lt $(setting reps) ]; do
	round=$((round + 1))
	for job in $(words jobs); do
		access=${job%%-*}
		depth=${job##*-}
		size=${job#*-}
		size=${size%-*}
		for pair in $(words disks); do
			disk=${pair#*:}
			before=$(completed $disk)
			/usr/bin/fio --name=$job --filename=/dev/$disk --ioengine=libaio --direct=1 \
				--rw=$access --bs=$size --iodepth=$depth --size=48M --norandommap --randrepeat=0 \
				--time_based --ramp_time=2 --runtime=$(setting seconds) --numjobs=$(setting queues) \
				--group_reporting --minimal > /tmp/fio &
			# fio takes its time to start.
			until [ $(completed $disk) -gt $((before + 8)) ] || ! kill -0 $!; do sleep 0.2; done
			report begin ${pair%:*} $job $round
			wait $! || fail "fio $job on $pair"
			report fio ${pair%:*} $job $round "$(tail -n 1 /tmp/fio | tr ' "' '__')"
			sleep 1
		done
	done
done
