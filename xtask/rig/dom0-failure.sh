# What dom0 does when something fails: it says why, keeps what shows the cause, and counts what it tries
# a second time. Sourced by dom0's init and by each scenario, before dom0-lib.sh.

# Where xenstored writes what it is asked; `bound_trace` keeps it small.
TRACE=/run/xenstored.trace
# Why xl failed, if it was the last that was tried.
xl_said=''

say() { echo "[$(now)] $*"; }

# quoted TEXT...: as it can stand between quotes in a mark
quoted() { printf %s "$*" | tr '"\r\n' "'  "; }

# fail WHY...: the scenario ends, and fails; why xl failed, if that was last, is part of it. The host
# looks at the processors as soon as it reads the mark; only then is anything run that could wake them.
fail() {
	local why="$*${xl_said:+ ($xl_said)}"
	say "FAIL: $why"
	mark fail "why=\"$(quoted "$why")\""
	# The first failure is the one to look into: a script may fail in a subshell and go on.
	[ -e /run/failed ] || {
		: > /run/failed
		look_around
	}
	exit 1
}

# second_try WHY...: what failed is about to be tried again, which the host shows, counts and limits.
# With RETRY=no it fails instead.
second_try() {
	[ "$RETRY" != no ] || fail "$*"
	local why="$*${xl_said:+ ($xl_said)}"
	say "SECOND TRY: $why"
	mark retry "why=\"$(quoted "$why")\""
	look_around
	xl_said=
}

# try_xl SECONDS ARGUMENT...: xl, for so long at most. If it fails, it leaves what it said in $xl_said,
# which `fail` and `second_try` add to their reason.
try_xl() {
	local limit="$1" status
	shift
	xl_said=
	timeout "$limit" xl "$@" > /run/xl.said 2>&1
	status=$?
	# Each process costs time that scenarios measure.
	[ ! -s /run/xl.said ] || cat /run/xl.said
	[ $status = 0 ] || {
		# Before any other tool asks xenstored for something.
		keep_trace "xl $1 failed"
		xl_said="$(xl_errors < /run/xl.said)"
		[ $status != 143 ] || xl_said="ended after $limit s; $xl_said"
		: "${xl_said:=status $status}"
	}
	return $status
}

# xl_errors: libxl's first two errors, without where they are in its source, or else the last line
xl_errors() {
	awk '
		{ last = $0 }
		sub(/^libxl: error: [^ ]*:[0-9]+:/, "") && ++errors <= 2 { text = text separator $0; separator = "; " }
		END { print (errors ? text : last) }'
}

# bound_trace BYTES: begin a new trace when the old one has so many bytes
bound_trace() {
	[ "$1" -gt 1000000 ] || return 0
	mv -f $TRACE $TRACE.old
	# xenstored opens it anew.
	kill -HUP "$(cat /run/xenstored.pid)"
}

# keep_trace WHEN...: put what xenstored was asked until now, and what it answered, into a log of its
# own. Most of the trace tells what its limit for each domain's writes makes of them.
keep_trace() {
	{
		echo "==== [$(now)] $*"
		cat $TRACE.old $TRACE 2> /dev/null | tail -c 1000000 | grep -v '^wrl: ' | tail -n 1200
	} >> /var/log/xen/xenstored.log
}

# look_around: what to know after a failure; what each tool leaves in the trace, and what wakes
# processors, comes after what that would hide. Nothing here may wait for long.
look_around() {
	{
		[ -n "$xl_said" ] || keep_trace "${LOG##*/}"
		# Domains and vCPUs, event channels, run queues, timers.
		say "Xen's debug keys are in xen-dom0.log, xenstored's last requests in xenstored.log"
		timeout 10 xl debug-keys qera
		say "domains:"
		timeout 10 xl list
		say "xenstore:"
		timeout 20 xenstore-ls -f
		say "Spindle's last words:"
		tail -n 20 /var/log/xen/guest-spindle.log
		say "processes of dom0:"
		# shellcheck disable=SC2009
		ps | grep -v '\['
		say "dom0:"
		dmesg | tail -n 30
	} >> "$LOG" 2>&1
}
