# scenario: seconds=300
# A guest's discards reach the disk: its image on the host becomes sparse there, and what is beside
# them stays as it was. A disk with `no-discard` offers none. A secure discard is refused by an NVMe
# disk, none of which can do it, and erases a part of a RAM disk.
spindle_down
SPINDLE_KNOBS="ram0=16M ram1=8M"
spindle_with memory=128
SPINDLE_KNOBS=''
guest_start trim discard "disk=['$(disk xvda)','no-discard,$(disk xvdb nvme0n3p1)','$(disk xvdc nvme0n2)',
	'$(disk xvdd ram0)','no-discard,$(disk xvde ram1)']"
guest_need trim written 60
trim=$(xl domid trim)
# offers VDEV DISCARD SECURE ENABLE: what Spindle offers, and whether xl asks for it
offers() {
	local found
	found="$(backend_node $trim $1 feature-discard) $(backend_node $trim $1 discard-secure) $(backend_node $trim $1 discard-enable)"
	[ "$found" = "$2 $3 $4" ] || fail "of discards $1 offers $found"
}
offers xvda 1 0 1
offers xvdb 0 0 0
offers xvdc 1 0 1
offers xvdd 1 1 1
offers xvde 0 0 0
reports trim limits | grep -q 'disk=xvdb most=0' || fail "the guest may discard xvdb"
# images WHEN: leaves in $nvme, $gpt and $small how many KiB of each image are not holes
images() {
	host allocated disk=nvme
	nvme=$answer
	host allocated disk=nvme-gpt
	gpt=$answer
	host allocated disk=nvme-4k
	small=$answer
	say "$1: $nvme $gpt $small KiB"
}
images written
[ $nvme -ge 16384 ] || fail "what was written is not in the image"
gpt_before=$gpt small_before=$small
guest_tell trim
guest_need trim discarded 60
images discarded
# The host's file system may need some blocks to note where the holes are.
[ $nvme -le 64 ] || fail "$nvme KiB are left of a disk that was discarded"
[ $gpt = $gpt_before ] || fail "the disk without discard lost $((gpt_before - gpt)) KiB"
lost=$((small_before - small))
[ $lost -le 8192 ] && [ $lost -ge 8128 ] || fail "8192 KiB were discarded, the image lost $lost"
for part in before:0 after:12; do
	host sum disk=nvme-4k start=${part#*:} mib=4
	reports trim discarded | grep -q "${part%:*}=$answer" || fail "the host finds other data ${part%:*} a discard"
done
guest_tell trim
guest_need trim filled 90
images filled
nvme_filled=$nvme
guest_tell trim
guest_need trim trimmed 60
images trimmed
# Nine files of 2 MiB were removed.
[ $((nvme_filled - nvme)) -ge 18432 ] || fail "fstrim gave back $((nvme_filled - nvme)) KiB of 18432"
host tree disk=nvme
[ "$answer" = "$(reports trim trimmed)" ] || fail "files differ on the host: $answer"
host check disk=nvme
mark note "text=\"$(reports trim fstrim), $((nvme_filled - nvme)) KiB on the host; $answer\""
guest_end trim
spindle_down
