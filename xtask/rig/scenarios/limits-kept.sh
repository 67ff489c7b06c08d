# scenario: seconds=600
# A noisy guest is held to the limit in its disk line, and then to those that `spindlectl limit` gives it, as
# measured in the guest, beside a quiet one on the same disk. What was set outlives an update and a death of the
# kernel, without an error in either guest, and list, top and metrics show it, and for how long it was held back.
ctl() { /spindle/spindlectl "$@"; }

# held: for how many seconds the noisy guest's disk has been held back
held() {
	ctl metrics > /run/metrics || fail "spindlectl metrics"
	awk '/^spindle_disk_held_back_seconds_total.*noisy/ {sum += $NF} END {print sum + 0}' /run/metrics
}

# rate NAME JOB: what the guest measures, requests a second and microseconds; leaves them in $rate and $p99
rate() {
	order $1 60 "rate $2"
	# shellcheck disable=SC2046
	set -- $(reports $1 rate | tail -n 1)
	rate=$1 p99=$2
}

# kept WHEN MOST: the noisy guest does its flood's worth, and no more than 5 % beside so many requests a second
kept() {
	rate noisy 'xvda 8 randwrite 4k 32'
	figures="$figures${figures:+, }$1 $rate"
	[ $rate -ge $(($2 * 95 / 100)) ] && [ $rate -le $(($2 * 105 / 100)) ] ||
		fail "$1 the noisy guest has $rate requests a second, of $2"
}

# shown WORDS: these are its limits
shown() {
	ctl list > /run/list || fail "spindlectl list"
	grep -q "noisy xvda.*$1" /run/list || fail "spindlectl list does not show $1: $(cat /run/list)"
}

spindle_down
SPINDLE_KNOBS="drill=on"
spindle_with vcpus=2 memory=64
SPINDLE_KNOBS='' figures=''
guest_start quiet fio-limits "disk=['$(disk xvda nvme0n3p2)']"
guest_need quiet ready 60
rate quiet 'xvda 8 randread 4k 1'
alone=$rate alone_p99=$p99
guest_start noisy fio-limits "disk=['$(disk xvda iops=200:burst=200:nvme0n3p1)']"
guest_need noisy ready 60
shown iops=200
kept 'by its disk line' 200
ctl limit spindle noisy/xvda iops=100 || fail "spindlectl limit"
shown iops=100
kept 'by an order' 100
ctl limit spindle noisy/xvda iops=none bandwidth-write=600K || fail "spindlectl limit"
kept 'by bandwidth' 150

# Beside the flood, which is held back all the time.
order noisy 30 'flood xvda'
before=$(held)
rate quiet 'xvda 8 randread 4k 1'
# The processors that both guests are emulated on are shared as well: how long it takes says little.
[ $((rate * 4)) -ge $alone ] || fail "the quiet guest has $rate requests a second, and $alone alone"
beside="$rate requests a second of the quiet one, $alone alone; p99 $p99 us, $alone_p99 us alone"
after=$(held)
ctl top --every 2 --count 1 > /run/top || fail "spindlectl top"
grep -q 'noisy  *xvda' /run/top || fail "spindlectl top: $(cat /run/top)"
echo "$before $after" | awk '{exit !($2 - $1 > 4)}' || fail "it was held back for $before s, then $after s"

lives=$(life)
ctl update --image /spindle/spindle.elf spindle > /run/said 2>&1 || fail "update: $(cat /run/said)"
[ "$(life)" = $((lives + 1)) ] || fail "life $(life) after an update"
order noisy 60 enough
kept 'after an update' 150
order noisy 30 'flood xvda'
drill panic 1
wait_until 60 is_life $((lives + 2)) || fail "no life after a panic: $(end_of spindle)"
wait_until 20 serves || fail "it does not serve after a panic"
order noisy 60 enough
kept 'after a death' 150
shown bandwidth-write
ctl limit spindle noisy/xvda bandwidth-write=none || fail "spindlectl limit"
rate noisy 'xvda 8 randwrite 4k 32'
[ $rate -gt 300 ] || fail "without a limit the noisy guest has $rate requests a second"
mark note "text=\"requests a second of the noisy guest: $figures, without $rate; $beside\""
guest_end noisy
guest_end quiet
next_attach_works
spindle_down
