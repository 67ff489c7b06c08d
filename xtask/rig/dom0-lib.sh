# What dom0's scenarios are written in: marks for the host, domains, disks, waiting.
# Sourced by dom0's init and by each scenario; file descriptor 3 is the line to the host. What
# happens when something fails is in dom0-failure.sh. Here and there all names in functions are `local`,
# but for what the first line of a function says that it leaves.

BDF=0000:00:05.0
# Only on machines where backends are compared, and only on the others.
# shellcheck disable=SC2034
LINUX_BDF=0000:00:06.0 LOSSY_BDF=0000:00:06.0
VIRTIO_BDF=0000:00:08.0
HOME_DIR=/local/domain
BACKEND=$(sed -n 's/.*backend=\([a-z0-9]*\).*/\1/p' /proc/cmdline)
# Settings that a scenario may change.
SPINDLE_KNOBS='' KERNEL=''

now() { cut -d' ' -f1 /proc/uptime; }

# since START: seconds from START (a value of `now`) until now
since() { echo "$1 $(now)" | awk '{printf "%.2f", $2 - $1}'; }

# mark NAME KEY=VALUE...: tell the host; one writer at a time on the line
mark() {
	(
		flock 9
		printf '\n@@ %s\n' "$*" >&3
	) 9> /run/lock/line
}

# host ACTION KEY=VALUE...: have the host act on the machine or look at a disk's image; leaves what it
# says in $answer. xtask/src/rig/host_action.rs has all that it does.
host() {
	local granted
	mark host "action=$*"
	# ash knows -t, which dash does not.
	# shellcheck disable=SC3045
	read -r -t 40 granted answer <&3 || fail "the host does not answer: $*"
	[ "$granted" = granted ] || fail "host $*: $answer"
}

# ship: send the host what the logs have grown by
ship() {
	(
		flock 8
		stat -c '%n %s %i' /var/log/xen/*.log $TRACE | while read -r file size inode; do
			[ "$file" != $TRACE ] || {
				bound_trace "$size"
				continue
			}
			sent=/run/sent-${file##*/} from=0 of=$inode
			[ ! -e "$sent" ] || read -r from of < "$sent"
			# xl begins a log of its own for each domain, also for a second one of the same name.
			[ "$of" = "$inode" ] || from=0
			[ "$size" -gt "$from" ] || continue
			(
				flock 9
				printf '\n@log %s %d\n' "${file##*/}" $((size - from)) >&3
				tail -c +$((from + 1)) "$file" | head -c $((size - from)) >&3
			) 9> /run/lock/line
			echo "$size $inode" > "$sent"
		done
	) 8> /run/lock/ship
}

ship_forever() {
	# Not while something is measured. Each process that dom0 starts costs it tens of milliseconds.
	local turns=0
	while sleep 2; do
		[ ! -e /run/quiet ] || continue
		ship
		# The host gives dom0 up that does not even say this.
		turns=$(((turns + 1) % 5))
		[ $turns != 0 ] || mark alive
	done
}

# with_config FILE KEY=VALUE...: a configuration of /spindle with some lines replaced
with_config() {
	local text line
	text=$(cat /spindle/$1)
	shift
	for line; do
		text=$(echo "$text" | grep -v "^${line%%=*} *=")
		text="$text
$line"
	done
	echo "$text"
}

# wait_until SECONDS COMMAND...: repeat the command until it succeeds
wait_until() {
	local tries=$(($1 * 4))
	shift
	while [ $tries -gt 0 ]; do
		"$@" && return 0
		tries=$((tries - 1))
		sleep 0.25
	done
	return 1
}

# never COMMAND...: it does not succeed; for wait_until
never() { ! "$@"; }

alive() { xl domid "$1" > /dev/null 2>&1; }
gone() { ! alive "$1"; }
read_store() { xenstore-read "$1" 2> /dev/null; }

### Spindle

# spindle_home [NAME]: its home in xenstore
spindle_home() { echo $HOME_DIR/$(xl domid ${1:-spindle}); }

# serves [NAME]: it says that it is ready
serves() { [ "$(read_store $(spindle_home ${1:-spindle})/data/spindle/ready)" = 1 ]; }

# spindle_create NAME CONFIG KEY=VALUE...: create a Spindle domain, with the options in
# SPINDLE_KNOBS if there are any, wait until it is ready, and say how long that took. xl does not start it
# again should it have a triple fault.
spindle_create() {
	local who=$1 config=$2 began created ready home watcher line
	shift 2
	with_config $config "name=\"$who\"" 'on_reboot="destroy"' "$@" > /run/$who.cfg
	new_log $who
	began=$(now)
	try_xl 120 create -p /run/$who.cfg || fail "xl create $who"
	created=$(since $began)
	home=$(spindle_home $who)/data/spindle
	[ -z "$SPINDLE_KNOBS" ] || xenstore-write $home/config "$SPINDLE_KNOBS"
	# It says that it watches by a first line, then one for each change.
	: > /run/$who.watch
	timeout 60 xenstore-watch -n 2 $home/ready > /run/$who.watch &
	watcher=$!
	wait_until 10 test -s /run/$who.watch || fail "xenstore-watch does not start"
	began=$(now)
	try_xl 120 unpause $who || fail "xl unpause $who"
	wait $watcher
	ready=$(since $began)
	serves $who || fail "$who is not ready: $(last_words $who)"
	line=$(head -n 1 $(guest_log $who) | tr -d '\r"')
	mark spindle name=$who create=$created unpause=$ready version="\"$(read_store $home/version)\"" \
		disks="\"$(read_store $home/disks)\"" memory=$(xl list $who | awk 'NR == 2 {print $3}') \
		line="\"$line\""
}

# spindle_with KEY=VALUE...: a Spindle that owns the NVMe disks, and is configured like this
spindle_with() {
	spindle_create spindle spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' "pci=[\"$BDF\"]" "$@"
}

# bdf NAME: where an odd controller is, on the machine that has them (xtask/src/rig/variant.rs)
bdf() {
	case $1 in
	mdts0) echo 0000:00:09.0 ;;
	mdts1) echo 0000:00:0a.0 ;;
	single) echo 0000:00:0b.0 ;;
	left) echo 0000:00:0c.0 ;;
	right) echo 0000:00:0d.0 ;;
	physical) echo 0000:00:0e.0 ;;
	zoned) echo 0000:00:0f.0 ;;
	cmb) echo 0000:00:10.0 ;;
	uneven) echo 0000:00:11.0 ;;
	*) fail "there is no controller $1" ;;
	esac
}

# spindle_with_odd NAME...: a Spindle that owns these odd controllers. The serial number of each is its
# name, or that of its subsystem.
spindle_with_odd() {
	local name list=
	for name; do
		assignable $(bdf $name)
		list="$list${list:+,}\"$(bdf $name)\""
	done
	spindle_with "pci=[$list]"
}

# spindle_with_virtio: have a Spindle that owns the virtio disk, too, run
spindle_with_virtio() {
	alive spindle && xenstore-exists $(spindle_home)/data/spindle/targets/vda && return 0
	spindle_down
	assignable $VIRTIO_BDF
	spindle_with "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
}

# assignable BDF...: make devices ready for passthrough
assignable() {
	local device
	for device; do
		xl pci-assignable-list | grep -q "$device" || try_xl 120 pci-assignable-add $device || fail "xl pci-assignable-add $device"
	done
}

# to_dom0: give the NVMe disk to dom0's own driver
to_dom0() {
	try_xl 120 pci-assignable-remove $BDF || fail "xl pci-assignable-remove"
	modprobe nvme
	# A driver that is there already does not look for it by itself.
	namespace 1 > /dev/null || echo $BDF > /sys/bus/pci/drivers_probe
	wait_until 20 namespace 1 > /dev/null || fail "dom0's NVMe driver does not find the disk"
}

# last_words NAME: what a domain's console said last, without what moves the cursor
last_words() { tail -n 3 /var/log/xen/guest-$1.log | sed "s/$(printf '\033')\\[[0-9;]*[A-Za-z]//g" | tr '\r\n' '  '; }

# end_of NAME: the same, and what Xen said last of the end of any domain
end_of() {
	echo "$(last_words $1); Xen's last such line: $(timeout 10 xl dmesg | tail -n 100 |
		grep -iE 'triple fault|crash|unhandled|invalid vmcb|hvm shutdown|iommu.*fault' | tail -n 1)"
}

# spindle_up: have the Spindle that owns the NVMe disk run
spindle_up() {
	[ $BACKEND = spindle ] || return 0
	if alive spindle; then
		serves && return 0
		xl destroy spindle
	fi
	spindle_with
}

# spindle_down [NAME]: shut it down in order, by `xl shutdown`
spindle_down() {
	local who=${1:-spindle} began
	[ $BACKEND = spindle ] && alive $who || return 0
	began=$(now)
	try_xl 30 shutdown $who || {
		second_try "xl shutdown $who"
		xenstore-write $(spindle_home $who)/control/shutdown poweroff
	}
	wait_until 30 gone $who || fail "$who does not shut down: $(last_words $who)"
	mark spindle-down name=$who seconds=$(since $began)
}

### Deaths of its kernel, with the option drill=on

# life: how often the kernel of the domain has started; died: what the last life ended of
life() { read_store $(spindle_home)/data/spindle/life; }
is_life() { [ "$(life)" = $1 ]; }
died() { read_store $(spindle_home)/data/spindle/death; }

# drill CAUSE [CORE]: have a core of it die of this
drill() { xenstore-write $(spindle_home)/data/spindle/crash "$*"; }

# lost_cores: how many cores could not be taken into another life
lost_cores() { grep -c 'does not serve rings' $(guest_log spindle); }

# disk_state NAME VDEV: all that xenstore has about a guest's disk, on both sides
disk_state() {
	local guest
	guest=$(xl domid $1)
	xenstore-ls -f $(backend_dir $guest)/$(devid $2)
	xenstore-ls -f $HOME_DIR/$guest/device/vbd/$(devid $2)
}

### Disks

# namespace NUMBER: dom0's own device for a namespace of its NVMe disk, if dom0 has it. Linux numbers
# them in the order in which it happens to find them.
namespace() {
	local found
	found=$(grep -lx $1 /sys/block/nvme[0-9]n*/nsid 2> /dev/null) && echo /dev/$(echo $found | cut -d/ -f4)
}

# disk VDEV [TARGET] [BACKEND-DOMAIN] [ACCESS]: a disk specification for xl
disk() {
	case $BACKEND in
	spindle) echo "format=raw,vdev=$1,access=${4:-rw},backend=${3:-spindle},target=${2:-nvme0n1}" ;;
	dom0) echo "format=raw,vdev=$1,access=rw,script=block-plain,target=$(namespace 1)" ;;
	esac
}

# backend_dir GUEST-ID [DRIVER-DOMAIN]: where the backends of a guest's disks are in xenstore
backend_dir() {
	case $BACKEND in
	spindle) echo $(spindle_home ${2:-spindle})/backend/vbd/$1 ;;
	dom0) echo $HOME_DIR/0/backend/vbd/$1 ;;
	esac
}

# devid VDEV: the number of a virtual device xvda to xvdz, which is of another kind from xvdq on
devid() {
	local index=$(($(printf %d "'${1#xvd}") - 97))
	[ $index -lt 16 ] && echo $((51712 + 16 * index)) || echo $((268435456 + 256 * index))
}

# backend_node GUEST-ID VDEV KEY: what the backend has published about a disk; frontend_node: what the
# frontend has
backend_node() { read_store $(backend_dir $1)/$(devid $2)/$3; }
frontend_node() { read_store $HOME_DIR/$1/device/vbd/$(devid $2)/$3; }

# backend_is GUEST-ID VDEV STATE: the backend of a disk is in this state; frontend_is: the frontend
backend_is() { [ "$(backend_node $1 $2 state)" = $3 ]; }
frontend_is() { [ "$(frontend_node $1 $2 state)" = $3 ]; }

# backend_gone GUEST-ID: nothing is left of the guest's disks
backend_gone() { [ -z "$(xenstore-list $(backend_dir $1) 2> /dev/null)" ]; }

# counted GUEST-ID VDEV KEY: a counter of a disk, as Spindle publishes it every five seconds
counted() { read_store $(spindle_home)/data/spindle/stat/$1-$(devid $2) | tr ' ' '\n' | sed -n "s/^$3=//p"; }

# refusal [DRIVER-DOMAIN]: the newest reasons a driver domain gave
refusal() {
	xenstore-ls -f $(spindle_home ${1:-spindle})/error 2> /dev/null |
		sed -n 's/.*\/error = "\(.*\)"$/\1/p' | tr -d '\\' | tr '"' "'"
}

# need_reason GUEST-ID/DEVICE TEXT [DRIVER-DOMAIN]: the driver domain has refused this device, or any if
# it is `*`, with a reason that has this text: in xenstore, and the same on its console
need_reason() {
	wait_until 10 gave_reason "$1" "$2" "${3:-spindle}" ||
		fail "$1 is not refused because of '$2', in xenstore and on the console: $(refusal ${3:-spindle})"
}
gave_reason() {
	local device reason
	device=$(echo "$1" | sed 's|\*|[0-9]*/[0-9]*|')
	reason=$(xenstore-ls -f $(spindle_home $3)/error 2> /dev/null |
		sed -n "s|.*/error/backend/vbd/$device/error = \"\(.*\)\"\$|\1|p" | tr -d '\\' | grep -F -- "$2" | tail -n 1)
	[ -n "$reason" ] && grep -qF "refused: $reason" $(guest_log $3)
}

# The hotplug script for Linux' own backend, where dom0 plays the driver domain.
linux_block_script() {
	cat <<-'S'
		#!/bin/busybox sh
		PATH=/usr/lib/xen-bin:/usr/bin:/usr/sbin
		[ "$1" = add ] || exit 0
		device=$(xenstore-read $XENBUS_PATH/params)
		xenstore-write $XENBUS_PATH/physical-device $(stat -L -c %t:%T $device) \
			$XENBUS_PATH/physical-device-path $device $XENBUS_PATH/hotplug-status connected
	S
}

### Guests

# guest_log NAME
guest_log() { echo /var/log/xen/guest-$1.log; }

# new_log NAME: start a console log afresh
new_log() {
	ship
	: > $(guest_log $1)
	rm -f /run/sent-guest-$1.log
}

# guest_said NAME TEXT: has the guest reported this?
guest_said() { grep -q "^%% $2" $(guest_log $1); }

# guest_wait NAME TEXT SECONDS: wait for a report; 2 = the guest is gone without it, 3 = it failed
guest_wait() {
	local tries=$(($3 * 2))
	while [ $tries -gt 0 ]; do
		if grep -qE "^%% ($2|fail)" $(guest_log $1); then
			guest_said $1 "$2" || return 3
			return 0
		fi
		# Seldom: xl takes dom0's only processor for a while.
		[ $((tries % 10)) != 0 ] || alive $1 || {
			# The end of its console may be on the way.
			wait_until 3 guest_said $1 "$2" && return 0
			return 2
		}
		tries=$((tries - 1))
		sleep 0.5
	done
	return 1
}

# guest_need NAME TEXT SECONDS: the same, or the scenario fails
guest_need() {
	guest_wait "$@"
	case $? in
	0) return 0 ;;
	2) fail "guest $1 ended without reporting '$2': $(end_of $1)" ;;
	3) fail "guest $1: $(grep '^%% fail' $(guest_log $1) | tr -d '\r')" ;;
	*) fail "guest $1 did not report '$2' within $3 s: $(last_words $1)" ;;
	esac
}

# guest_tell NAME [LINE]: give a guest that waits for one a line on its console
guest_tell() {
	echo "${2:-go}" > "$(read_store $HOME_DIR/$(xl domid $1)/console/tty)" || fail "the console of guest $1"
}

# is_guest NAME: the domain of this name is a guest: what ends it may be the emulator (ends.rs of xtask)
is_guest() { grep -qsx "$1" /var/log/xen/guests.log || echo "$1" >> /var/log/xen/guests.log; }

# guest_config NAME JOB KEY=VALUE...: write its configuration and its initramfs. Its Linux is that of
# this suite, or the one that KERNEL names (old, new). A reboot is its end: xl would start a guest again
# that took a triple fault, and the scenario fail later, for another reason.
guest_config() {
	local who=$1 job=$2 layers memory=256
	shift 2
	layers="/images/guest.cpio${KERNEL:+ /images/modules-$KERNEL.cpio}"
	case $job in fio-*) layers="$layers /images/fio.cpio" memory=640 ;; esac
	cat $layers /spindle/jobs/$job.cpio > /run/$who.ramdisk
	is_guest $who
	with_config guest.cfg "name=\"$who\"" 'on_reboot="destroy"' "kernel=\"/images/vmlinuz${KERNEL:+-$KERNEL}\"" "ramdisk=\"/run/$who.ramdisk\"" \
		"memory=$memory" "cmdline=\"$LINUX\"" "$@" > /run/$who.cfg
}

# emulator_ended NAME: a guest that is gone was ended by the emulator, and is to be started again; the
# host knows from what Xen said
emulator_ended() {
	alive $1 && return 1
	ship
	host restart guest=$1
	[ "$answer" = emulator ]
}

# guest_start NAME JOB KEY=VALUE...: create a guest and wait until its Linux is up.
# A guest that the emulator ends before that has done nothing yet: it is started again without more ado.
# One that dies in another way is started a second time.
guest_start() {
	local try=1
	guest_config "$@"
	new_log $1
	while :; do
		try_xl 120 create /run/$1.cfg || fail "xl create $1: $(refusal)"
		guest_wait $1 up 120 && return 0
		emulator_ended $1 && continue
		[ $try = 1 ] || break
		try=2
		second_try "guest $1 does not come up: $(end_of $1)"
		cat $(guest_log $1)
		xl destroy $1
	done
	fail "guest $1 does not come up: $(end_of $1)"
}

# LINUX: the beginning of a guest's kernel command line. Without norandmaps the emulator of Debian 12
# takes minutes to wipe the pages of a guest that has run many programs; without clearcpuid it now and
# then loads wrong flags (xtask/README.md).
LINUX="console=hvc0 rdinit=/init loglevel=4 mitigations=off norandmaps clearcpuid=141"

# guest_end NAME: destroy it and see that nothing is left
guest_end() {
	local id
	id=$(xl domid $1) || return 0
	try_xl 120 destroy $1 || fail "xl destroy $1"
	wait_until 15 gone $1 || fail "guest $1 outlives its destruction"
	wait_until 10 backend_gone $id || fail "the backend directory of guest $1 is left behind"
	wait_until 4 no_zombie || fail "guest $1 is a zombie: a domain still holds its pages"
	rm -f /run/$1.ramdisk
	return 0
}
no_zombie() { ! xl list | grep -q '(null)'; }

# order NAME SECONDS COMMAND: give a guest of the job fio-orders or mount-orders a command, and wait
# until it is done. Leaves the number of the last one in $orders.
orders=0
order() {
	orders=$((orders + 1))
	guest_tell $1 "$orders $3"
	guest_need $1 "did $orders ok" $2
}

# under_load TARGET QUEUES KEY=VALUE...: guests `first` and `second` write and verify on so many queues, until
# `load_ends`: the first on the NVMe disk, the second on this target
under_load() {
	local target=$1 on=$2
	shift 2
	guest_start first fio-orders "disk=['$(disk xvda)']" "$@"
	guest_start second fio-orders "disk=['$(disk xvdb $target)']" "$@"
	guest_need first ready 60
	guest_need second ready 60
	order first 60 'fill xvda'
	order second 60 'fill xvdb'
	order first 30 "load xvda $on"
	order second 30 "load xvdb $on"
	disk_state first xvda > /run/first.before
	disk_state second xvdb > /run/second.before
}

# load_goes_on: both of them get answers
load_goes_on() {
	order first 60 'answers xvda 64 60'
	order second 60 'answers xvdb 64 60'
}

# load_unchanged: what xenstore has about their disks is what it was when their load began
load_unchanged() {
	disk_state first xvda | diff /run/first.before - || fail "xenstore has changed for the first guest"
	disk_state second xvdb | diff /run/second.before - || fail "xenstore has changed for the second guest"
}

# load_ends: no I/O of theirs has failed, and what was acknowledged is there
load_ends() {
	order first 60 enough
	order second 60 enough
	order first 60 'same xvda'
	order second 60 'same xvdb'
	guest_end first
	guest_end second
}

# guest_finish NAME SECONDS: wait until its job is done, then destroy it
guest_finish() {
	guest_need $1 'done' $2
	guest_end $1
}

# destroy_guests: after a scenario, only Spindle and the probe stay
destroy_guests() {
	local who
	for who in $(xl list | awk 'NR > 1 {print $1}'); do
		case $who in
		Domain-0 | spindle | probe) ;;
		*) xl destroy $who ;;
		esac
	done
}

# reports NAME TEXT: what the guest reported after TEXT, one line each
reports() { sed -n "s/^%% $2 //p" $(guest_log $1) | tr -d '\r'; }

### The probe: a guest that stays, and writes and reads each disk that it is given

probe_up() {
	alive probe && return 0
	guest_start probe watch-disks 'disk=[]'
}

# probe_attach VDEV [TARGET] [DRIVER-DOMAIN]: attach a disk and see that it works
probe_attach() {
	local before
	probe_up
	before=$(grep -c "^%% works $1" $(guest_log probe))
	try_xl 30 block-attach probe "$(disk $1 ${2:-nvme0n1} ${3:-spindle})" || fail "xl block-attach $1: $(refusal ${3:-spindle})"
	wait_until 40 probe_counts $1 $before || fail "disk $1 does not work in the probe: $(last_words probe)"
}
probe_counts() { [ "$(grep -c "^%% works $1" $(guest_log probe))" -gt $2 ]; }

# probe_detach VDEV [DRIVER-DOMAIN]: detach it and see that nothing is left
probe_detach() {
	try_xl 40 block-detach probe $1 || fail "xl block-detach $1"
	wait_until 10 probe_lost $1 ${2:-spindle} || fail "block-detach left the backend directory"
}
probe_lost() { ! xenstore-exists $(backend_dir $(xl domid probe) $2)/$(devid $1); }

# next_attach_works: what every scenario that does harm ends with
next_attach_works() {
	probe_attach xvdp
	probe_detach xvdp
}
