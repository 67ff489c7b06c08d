#!/bin/busybox sh
# dom0's first process: brings Xen's services up, then runs scenarios as the host asks.
set -u
export PATH=/usr/lib/xen-bin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /var/log/xen /var/lib/xen /etc/xen
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /run/xen /run/lock
ln -sfn /run /var/run
ln -sfn /run/lock /var/lock

# The second serial port is the line to the host: bytes as they are, no echo.
stty -F /dev/ttyS1 115200 raw -echo
exec 3<>/dev/ttyS1
# shellcheck source=dom0-failure.sh
. /spindle/failure.sh
# shellcheck source=dom0-lib.sh
. /spindle/lib.sh

for m in xen-gntdev xen-gntalloc xen-evtchn xen-privcmd xenfs; do modprobe $m; done
mount -t xenfs xenfs /proc/xen
xenstored --pid-file /run/xenstored.pid --trace-file=$TRACE
xen-init-dom0
xenconsoled --pid-file=/run/xenconsoled.pid --log=guest --log-dir=/var/log/xen
# libxl gives a backend ten seconds: busy guests must not keep dom0 from the processors. Where
# backends are compared, dom0 is one of them.
[ $BACKEND = bench ] || xl sched-credit2 -d Domain-0 -w 8192
case $BACKEND in
spindle | bench)
	modprobe xen-pciback
	xl pci-assignable-add $BDF
	;;
esac
[ $BACKEND != bench ] || xl pci-assignable-add $LINUX_BDF
case $BACKEND in
dom0 | bench)
	modprobe nvme
	modprobe xen-blkback
	linux_block_script > /etc/xen/scripts/block-plain
	chmod +x /etc/xen/scripts/block-plain
	;;
esac

ship_forever &
mark ready uptime=$(now)
while read -r command name seconds settings <&3; do
	case $command in
	run)
		mark begin name=$name
		# A scenario may run again: its log goes on, as the host's copy does.
		export LOG=/var/log/xen/scenario-$name.log
		say "begin $name" >> $LOG
		rm -f /run/failed
		env ${settings:-} timeout $seconds sh -c \
			"set -u; . /spindle/failure.sh; . /spindle/lib.sh; . /spindle/scenarios/$name.sh" >> $LOG 2>&1
		rc=$?
		[ $rc = 143 ] && mark fail "why=\"no end after $seconds s\""
		[ $rc = 0 ] || [ -e /run/failed ] || look_around
		destroy_guests >> $LOG 2>&1
		ship
		mark end name=$name rc=$rc
		;;
	poweroff) break ;;
	esac
done
ship
poweroff -f
