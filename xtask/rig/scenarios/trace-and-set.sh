# scenario: seconds=420
# Under a guest's I/O an administrator sets options and limits, reads what the disk's controller says of
# itself, and looks at the flight recorder; then the kernel dies. The recorder has what happened before the
# death, and goes on; the options and limits hold; the guest's I/O has no error.

# ctl WORDS...: spindlectl, whose output is kept in /run/said
ctl() { /spindle/spindlectl "$@" > /run/said 2>&1; }

# need TEXT WORDS...: it says this
need() {
	local text=$1
	shift
	ctl "$@" || fail "spindlectl $*: $(cat /run/said)"
	grep -qF -- "$text" /run/said || fail "spindlectl $* does not say '$text': $(cat /run/said)"
}
traced() { ctl trace keeper/xvda && grep -q "$1" /run/said; }
need_traced() { wait_until 15 traced "$1" || fail "no '$1' in the trace: $(cat /run/said)"; }
closed_since() { [ $(closes) -gt $1 ]; }
closes() { grep -c ': closed' $(guest_log spindle); }

# logged YES: whether the end of an attachment, which is no error, comes to the log
logged() {
	local before
	before=$(closes)
	probe_attach xvdp ram0
	probe_detach xvdp
	case $1 in
	yes) wait_until 10 closed_since $before || fail "the log has no more than errors" ;;
	no) [ $(closes) = $before ] || fail "the log has more than errors: $(last_words spindle)" ;;
	esac
}

spindle_down
SPINDLE_KNOBS='drill=on ram0=40M'
spindle_with memory=128
SPINDLE_KNOBS=''
id=$(xl domid spindle)
guest_start keeper fio-orders vcpus=2 "disk=['$(disk xvda)']"
guest_need keeper ready 60
order keeper 60 'fill xvda'
order keeper 20 'load xvda 2'

# What can be set, and what cannot.
logged yes
need 'spindle: nothing was set while it runs' set spindle
need 'spindle: log=error poll_us=50' set spindle log=error poll_us=50
ctl set spindle queues=2
[ $? = 4 ] && grep -q 'queues cannot be set while spindle runs: guests have been offered queues' /run/said ||
	fail "set queues=2: $(cat /run/said)"
logged no
need 'iops=300' limit spindle keeper/xvda iops=300

# The controller's own account, while its disk is at work.
for page in smart id-ctrl error-log; do
	ctl $page nvme0 || fail "spindlectl $page: $(cat /run/said)"
	say "$(head -n 3 /run/said)"
done
need 'nsze    : 0x' id-ns nvme0n1

# Before the death.
need_traced 'a core has the ring$'
need_traced 'its limits or its weight were set'
need_traced 'its limits begin to hold it back'
cp /run/said /run/before
ctl crash spindle --core 1 || fail "spindlectl crash: $(cat /run/said)"
say "$(cat /run/said)"
[ "$(life)" = 2 ] || fail "life $(life)"
[ "$(xl domid spindle)" = $id ] || fail "another domain"

# After it: all that was there is there, and more.
need_traced 'the kernel started again'
while read -r line; do
	grep -qF -- "$line" /run/said || fail "'$line' is gone: $(cat /run/said)"
done < /run/before
say "$(cat /run/said)"
sed '1,/the kernel started again/d' /run/said | grep -q 'a core has the ring' || fail "no ring was taken up"
need 'spindle: log=error poll_us=50' set spindle
need 'iops=300' limit spindle keeper/xvda
logged no
need 'iops=none' limit spindle keeper/xvda iops=none
need 'spindle: poll_us=50 log=info' set spindle log=info
logged yes
order keeper 60 'answers xvda 64 60'
order keeper 60 enough
order keeper 60 'same xvda'
guest_end keeper
