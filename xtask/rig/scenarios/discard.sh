# scenario: seconds=300
# A guest's discards reach the disk: its image on the host becomes sparse there, and what is beside
# them stays as it was. A disk with `no-discard` offers none, and a secure discard, which no NVMe
# disk can do, is refused.
spindle_up
guest_start trim discard "disk=['$(disk xvda)','no-discard,$(disk xvdb nvme0n3p1)','$(disk xvdc nvme0n2)']"
guest_need trim written 60
feature() { read_store $(backend_dir $(xl domid trim))/$(devid $1)/$2; }
[ "$(feature xvda feature-discard) $(feature xvda discard-secure)" = "1 0" ] || fail "xvda does not offer plain discards"
[ "$(feature xvdb feature-discard)" = 0 ] || fail "xvdb offers discards"
reports trim limits | grep -q 'disk=xvdb most=0' || fail "the guest may discard xvdb"
# images VARIABLE: KiB of each image that are not holes, in nvme_VARIABLE, gpt_VARIABLE, small_VARIABLE
images() {
	host allocated disk=nvme && eval nvme_$1=$answer
	host allocated disk=nvme-gpt && eval gpt_$1=$answer
	host allocated disk=nvme-4k && eval small_$1=$answer
	say "$1: $(eval echo \$nvme_$1 \$gpt_$1 \$small_$1) KiB"
}
images written
[ $nvme_written -ge 16384 ] || fail "what was written is not in the image"
guest_tell trim
guest_need trim discarded 60
images discarded
# The host's file system may need some blocks to note where the holes are.
[ $nvme_discarded -le 64 ] || fail "$nvme_discarded KiB are left of a disk that was discarded"
[ $gpt_discarded = $gpt_written ] || fail "the disk without discard lost $((gpt_written - gpt_discarded)) KiB"
lost=$((small_written - small_discarded))
[ $lost -le 8192 ] && [ $lost -ge 8128 ] || fail "8192 KiB were discarded, the image lost $lost"
for part in before:0 after:12; do
	host sum disk=nvme-4k start=${part#*:} mib=4
	reports trim discarded | grep -q "${part%:*}=$answer" || fail "the host finds other data ${part%:*} a discard"
done
guest_tell trim
guest_need trim filled 90
images filled
guest_tell trim
guest_need trim trimmed 60
images trimmed
# Nine files of 2 MiB were removed.
[ $((nvme_filled - nvme_trimmed)) -ge 18432 ] || fail "fstrim gave back $((nvme_filled - nvme_trimmed)) KiB of 18432"
host tree disk=nvme
[ "$answer" = "$(reports trim trimmed)" ] || fail "files differ on the host: $answer"
host check disk=nvme
mark note "text=\"$(reports trim fstrim), $((nvme_filled - nvme_trimmed)) KiB on the host; $answer\""
guest_end trim
