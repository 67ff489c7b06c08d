# The probe: writes and reads back 2 MiB at 32 MiB on each disk that appears, says when one goes.
modprobe xen-blkfront
seen=''
while :; do
	for path in /sys/block/xvd*; do
		name=${path##*/}
		[ -b /dev/$name ] || continue
		case " $seen " in *" $name "*) continue ;; esac
		seen="$seen $name"
		head -c 2097152 /dev/urandom > /tmp/pattern
		dd if=/tmp/pattern of=/dev/$name bs=64k seek=512 conv=notrunc,fsync 2> /dev/null
		want=$(sha256sum < /tmp/pattern | cut -d' ' -f1)
		if [ "$(sum_range $name 32 2)" = "$want" ]; then report works $name; else report broken $name; fi
	done
	for name in $seen; do
		[ -b /dev/$name ] || {
			report removed $name
			seen=$(echo " $seen " | sed "s/ $name / /")
		}
	done
	sleep 0.5
done
