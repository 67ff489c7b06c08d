# scenario: seconds=900
# The kernel dies of everything that it can die of, and starts again in its own domain: on its own
# account (`drill=on`), by an operator's NMI, by an exception and a hang on each kind of core. The next
# life says what the last one died of, has all its cores and its disks, and a guest's disk works; a RAM
# disk holds what another guest has written. Then the same in a PVH domain with a single core, whose disk
# dom0 has placed.

# dies CAUSE CORE COMMAND...: by the command this core dies, and the next life serves
dies() {
	local cause=$1 core=$2 began
	shift 2
	lives=$((lives + 1))
	began=$(now)
	say "life $lives: $*"
	"$@" || fail "$*"
	wait_until 90 is_life $lives || fail "no life $lives after '$*': $(end_of spindle)"
	noted="$noted${noted:+, }$cause $core $(since $began)"
	[ "$(xl domid spindle)" = $id ] || fail "another domain after '$*'"
	case "$(died)" in
	"$cause core=$core "*) ;;
	*) fail "life $lives says of '$*': $(died)" ;;
	esac
	grep -q "life $lives: the last one ended .* core $core by $cause" $(guest_log spindle) || fail "the log does not say so"
	[ "$(lost_cores)" = 0 ] || fail "a core is lost after '$*'"
	probe_attach xvdp
	probe_detach xvdp
	order keeper 60 'answers xvda 64 60'
}

# ram_guest: a guest that writes to RAM disk ram0
ram_guest() {
	guest_start keeper fio-orders vcpus=2 "disk=['$(disk xvda ram0)']"
	guest_need keeper ready 60
	order keeper 60 'fill xvda'
	order keeper 20 'load xvda'
}

# ram_kept: what it was told is written is there, and it ends
ram_kept() {
	order keeper 60 enough
	order keeper 60 'same xvda'
	guest_end keeper
}

# shown CAUSE CORE: what an operator sees of the last death, in `list`, `metrics` and on the console
shown() {
	local began
	/spindle/spindlectl metrics > /run/metrics || fail "spindlectl metrics"
	grep -qx "spindle_deaths_total{domain=\"spindle\"} $((lives - 1))" /run/metrics &&
		grep -qx "spindle_last_death_info{domain=\"spindle\",cause=\"$1\",core=\"$2\"} 1" /run/metrics ||
		fail "metrics: $(grep -E 'death|life' /run/metrics)"
	began=$(sed -n 's/^spindle_life_start_time_seconds{.*} //p' /run/metrics)
	[ $(($(date +%s) - began)) -lt 120 ] || fail "the life began at '$began', and it is $(date +%s)"
	/spindle/spindlectl list > /run/list || fail "spindlectl list"
	say "$(tail -n 1 /run/list)"
	tail -n 1 /run/list | grep -q "spindle has died .* ago, by $1 on core $2 (.*served again after" || fail "list: $(cat /run/list)"
	wait_until 10 grep -q '^former life: .*ready, ' $(guest_log spindle) || fail "the log of the former life is not there"
}

spindle_down
SPINDLE_KNOBS="drill=on ram0=40M ram1=8M"
spindle_with vcpus=4 memory=160
SPINDLE_KNOBS=''
id=$(xl domid spindle) lives=1 noted=''
wait_until 10 is_life 1 || fail "the first life is the $(life)."
ram_guest
dies panic 0 xl sysrq spindle c
shown panic 0
dies NMI 0 xl trigger spindle nmi
dies exception 2 /spindle/spindlectl crash --how exception --core 2 spindle
shown exception 2
dies NMI 3 xl trigger spindle nmi 3
dies panic 1 drill heap 1
dies hang 1 drill hang 1
dies hang 0 drill hang 0
dies exception 0 drill exception 0
serves || fail "it does not serve"
ram_kept
spindle_down

new_log spindle
/spindle/spindlectl create --route pvh --pci $BDF --image /spindle/spindle.elf --vcpus 1 --memory 160 --set drill=on --set ram0=40M ||
	fail "spindlectl create: $(last_words spindle)"
id=$(xl domid spindle) lives=1 noted="$noted; PVH"
ram_guest
dies panic 0 xl sysrq spindle c
dies NMI 0 xl trigger spindle nmi
dies exception 0 drill exception
ram_kept
/spindle/spindlectl destroy spindle || fail "spindlectl destroy"
mark note "text=\"seconds from the command to the next life: $noted\""
