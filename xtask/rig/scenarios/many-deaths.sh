# scenario: seconds=9000 asked=yes
# The kernel dies DEATHS times (100) in one domain, while two guests write on several queues and verify:
# on every core, of everything that it can die of, while a device attaches and while one detaches, and twice
# in quick succession. No I/O fails, what was acknowledged is there, xenstore shows no change, nothing
# is left in Xen's hands, and both the guests and the domain end in order.
DEATHS=${DEATHS:-100}

# event_channels: how many of the domain Xen knows
event_channels() {
	xl debug-keys e
	xl dmesg | awk -v of="domain $id:" '/Event channel information for / {count = 0; here = index($0, of)}
		here && /[0-9]+ \[[0-9]\// {count++; last = count} END {print last + 0}'
}

# says TEXT: the numbers that stand before this text in the domain's log, one for each life
says() { sed -n "s/.* \([0-9]*\) $1.*/\1/p" $(guest_log spindle); }

# pace: wait until the sixth last death is more than a minute ago, since seven within one end the domain
pace() {
	local began
	began=$(echo "$recent" | awk '{print NF < 6 ? -100 : $(NF - 5)}')
	while [ $(echo "$(now) $began" | awk '{print ($1 - $2 > 65)}') = 0 ]; do sleep 1; done
}

# settled: the number of the life has not changed for three seconds, and it serves
settled() {
	local before
	before=$(life)
	sleep 3
	[ "$(life)" = "$before" ] && serves
}

# survive COMMAND...: the kernel dies of it at least once, and both guests go on
survive() {
	local began before
	pace
	before=$(life)
	began=$(now)
	say "death $((deaths + 1)): $*"
	"$@" || fail "$*"
	wait_until 90 is_later $before || fail "no life after '$*': $(end_of spindle)"
	[ "$1" != pair ] || wait_until 60 settled || fail "no end of lives after '$*': $(end_of spindle)"
	while [ $before -lt $(life) ]; do
		before=$((before + 1))
		deaths=$((deaths + 1))
		recent="$recent $(now)"
	done
	load_goes_on
	worst=$(echo "$worst $(since $began)" | awk '{print ($2 > $1) ? $2 : $1}')
	[ "$(xl domid spindle)" = $id ] || fail "another domain after '$*'"
	[ "$(lost_cores)" = 0 ] || fail "a core is lost after '$*'"
}
is_later() { [ "$(life)" -gt $1 ] 2> /dev/null; }

# pair: a death, and another one before the next life can serve
pair() {
	xl trigger spindle nmi &
	xl trigger spindle nmi
	wait $!
}

# busy COMMAND...: have core 0 die while this is under way, which works all the same
busy() {
	"$@" &
	sleep 0.$((deaths % 7))
	drill panic 0
	wait $! || fail "$*, with a death meanwhile: $(refusal)"
}
attach() { try_xl 60 block-attach probe "$(disk xvdp ram1)"; }
detach() { try_xl 60 block-detach probe xvdp; }

# die NUMBER: the death of this number
die() {
	local core=$(($1 / 3 % 4)) ring=$(($1 / 11 % 3 + 1))
	case $(($1 % 11)) in
	0) survive drill panic $core ;;
	1) survive drill exception $ring ;;
	2)
		# A ring that is at work at two deaths within a minute is closed: each core's turn is rare.
		survive xl trigger spindle nmi $ring
		;;
	3) survive xl sysrq spindle c ;;
	4)
		works=$(grep -c "^%% works xvdp" $(guest_log probe))
		survive busy attach
		wait_until 60 probe_counts xvdp $works || fail "the disk that was attached does not work: $(last_words probe)"
		;;
	5)
		survive busy detach
		wait_until 20 probe_lost xvdp spindle || fail "block-detach left the backend directory"
		;;
	6) survive drill heap $core ;;
	7) survive xl trigger spindle nmi 0 ;;
	8) survive drill exception 0 ;;
	9) survive pair ;;
	10) [ $(($1 % 33)) = 10 ] && survive drill hang $core || survive drill panic $ring ;;
	esac
}

spindle_down
SPINDLE_KNOBS="drill=on ram0=48M ram1=16M"
spindle_with vcpus=4 memory=192
SPINDLE_KNOBS=''
id=$(xl domid spindle) deaths=0 recent='' worst=0
under_load ram0 2 vcpus=2
probe_up
number=0
survive drill panic 0
first=$(event_channels)
while [ $deaths -lt $DEATHS ]; do
	number=$((number + 1))
	die $number
	load_unchanged
done
[ $((number % 11)) != 4 ] || die $((number + 1))
last=$(event_channels)
[ $first -gt 0 ] && [ $last = $first ] || fail "$last event channels after $deaths deaths, $first after the first"
! grep -q 'cannot be unmapped' $(guest_log spindle) || fail "grants of former lives are left"
memory=$(says 'KiB for data' | sort -u | tr '\n' ' ')
[ "${memory% }" = "${memory%% *}" ] || fail "memory differs from life to life: $memory KiB"
grants=$(says 'grants of the last life' | sort -n | tail -n 1)
load_ends
mark note "text=\"$deaths deaths, at most $worst s from the command to 64 answers in each guest, $last event channels, at most $grants grants\""
next_attach_works
spindle_down
