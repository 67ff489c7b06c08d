# Measures the backends side by side: one guest has a disk of each and uses them in turn.
# Settings: VARIANTS and JOBS (lists with commas), QUEUES, VCPUS (of a driver domain),
# GUEST_VCPUS, FIRST and REPS (the first and the last round) and RUNTIME (seconds of each job).

# kib PATH: the size of a file
kib() { du -k $1 | cut -f1; }

# linux_create: create the Linux driver domain and say how long that took. A kernel that
# dies early is started again: emulation does that now and then.
linux_create() {
	local try began created ready home watcher guard kib
	cat /images/driver-domain.cpio /spindle/linux-init.cpio > /run/linux.ramdisk
	cat > /run/linux.cfg <<-C
		name = "linux"
		type = "hvm"
		kernel = "/images/vmlinuz"
		ramdisk = "/run/linux.ramdisk"
		cmdline = "$LINUX"
		memory = 128
		vcpus = $VCPUS
		pci = [ "$LINUX_BDF" ]
		driver_domain = 1
		tsc_mode = "native"
		vga = "none"
		vnc = 0
		usb = 0
		serial = "none"
		on_reboot = "destroy"
		on_crash = "destroy"
	C
	for try in 1 2 3; do
		new_log linux
		began=$(now)
		try_xl 120 create -p /run/linux.cfg || fail "xl create linux"
		created=$(since $began)
		home=$HOME_DIR/$(xl domid linux)/data/linux
		# It says that it watches by a first line, then one for each change.
		: > /run/linux.watch
		timeout 120 xenstore-watch -n 2 $home/ready > /run/linux.watch &
		watcher=$!
		wait_until 10 test -s /run/linux.watch || fail "xenstore-watch does not start"
		began=$(now)
		try_xl 120 unpause linux || fail "xl unpause linux"
		# Looking often would slow the start: QEMU hands the kernel over with dom0's one CPU.
		while sleep 15; do alive linux || kill $watcher; done &
		guard=$!
		wait $watcher
		ready=$(since $began)
		kill $guard
		[ "$(read_store $home/ready)" = 1 ] && {
			kib=$(gzip -c /run/linux.ramdisk | wc -c | awk '{print int($1 / 1024)}')
			mark backend name=linux create=$created unpause=$ready memory=$(xl list linux | awk 'NR == 2 {print $3}') \
				image=$(($(kib /images/vmlinuz) + kib)) version="$(read_store $home/version)"
			rm -f /run/linux.ramdisk
			return 0
		}
		[ $try != 3 ] || break
		second_try "the Linux driver domain does not come up: $(last_words linux)"
		cat $(guest_log linux)
		xl destroy linux
	done
	fail "the Linux driver domain does not come up: $(last_words linux)"
}

# disk_of VARIANT VDEV: a disk specification for xl
disk_of() {
	case $1 in
	spindle) echo "'format=raw,vdev=$2,access=rw,backend=spindle,target=nvme0n1'" ;;
	linux) echo "'format=raw,vdev=$2,access=rw,backend=linux,target=/dev/first'" ;;
	dom0) echo "'format=raw,vdev=$2,access=rw,script=block-plain,target=$(namespace 1)'" ;;
	ram) echo "'format=raw,vdev=$2,access=rw,backend=ram,target=ram0'" ;;
	esac
}

# report_of TEXT SECONDS: wait for the guest's report; without xl, which would use dom0's CPU
report_of() {
	wait_until $2 grep -qE "^%% ($1|fail)" $(guest_log bench) || fail "the guest does not report '$1'"
	guest_said bench fail && fail "the guest: $(grep '^%% fail' $(guest_log bench) | tr -d '\r')"
	return 0
}

# shares SECONDS: how much of a processor each domain uses meanwhile, in percent
shares() {
	xentop -b -f -d $1 -i 2 | awk '
		$1 == "NAME" { part++; next }
		part == 2 { gsub("Domain-0", "dom0"); printf "%s.cpu=%s ", $1, $4 }'
}

# counters VARIANT: what a Spindle has counted that tells of hypercalls, on one line
counters() {
	case $1 in
	spindle | ram)
		# Both become ends of lines.
		# shellcheck disable=SC2020
		xenstore-ls -f $HOME_DIR/$(cat /run/$1.id)/data/spindle | tr '" ' '\n\n' |
			grep -E '^(rd_req|wr_req|notify|sleeps|grant_calls)=' | tr '\n' ' '
		;;
	esac
}

vdevs='xvda xvdb xvdc xvdd'
disks='' pairs=''
for variant in $(echo $VARIANTS | tr ',' ' '); do
	case $variant in
	spindle)
		spindle_create spindle spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' \
			"pci=[\"$BDF\"]" "vcpus=$VCPUS" memory=12
		;;
	ram)
		spindle_create ram spindle-pvh.cfg 'kernel="/spindle/spindle.elf"' "vcpus=$VCPUS"
		;;
	linux) linux_create ;;
	esac
	[ $variant = dom0 ] || xl domid $variant > /run/$variant.id
	vdev=${vdevs%% *}
	vdevs=${vdevs#* }
	disks="$disks${disks:+, }$(disk_of $variant $vdev)"
	pairs="$pairs${pairs:+,}$variant:$vdev"
done
guest_start bench fio-bench "disk=[$disks]" "vcpus=$GUEST_VCPUS" \
	"cmdline=\"$LINUX bench.queues=$QUEUES bench.seconds=$RUNTIME bench.first=$FIRST bench.reps=$REPS bench.jobs=$JOBS bench.disks=$pairs\""
ship
touch /run/quiet
trap 'rm -f /run/quiet' EXIT
report_of filled 180
sleep 1
mark rest $(shares 6)
for round in $(seq $FIRST $REPS); do
	for job in $(echo $JOBS | tr ',' ' '); do
		for variant in $(echo $VARIANTS | tr ',' ' '); do
			report_of "begin $variant $job $round" 120
			mark started variant=$variant job=$job
			before=$(counters $variant)
			# fio warms up for two seconds and runs for RUNTIME; this must end before it does.
			used=$(shares $((RUNTIME - 2)))
			late=$(guest_said bench "fio $variant $job $round" && echo 1)
			report_of "fio $variant $job $round" 25
			mark sample variant=$variant job=$job round=$round late=$late $used \
				"fio=$(sed -n "s/^%% fio $variant $job $round \(.*\)/\1/p" $(guest_log bench) | tr -d '\r')" \
				"before=\"$before\" after=\"$(counters $variant)\""
			bound_trace $(stat -c %s $TRACE)
		done
	done
done
mark connected "disks=\"$(sed -n 's/^%% disk //p' $(guest_log bench) | tr '\r\n' '  ')\""
xl destroy bench
