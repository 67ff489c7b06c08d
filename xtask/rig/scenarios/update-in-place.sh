# scenario: seconds=900 asked=yes
# The kernel is replaced by one of another version while two guests write, to an NVMe disk and to a virtio
# disk, and by the first one again, several times: no I/O fails, what was acknowledged is there, and nothing
# changes in xenstore. An image that is damaged or of another kind is refused, with nothing changed. One that
# dies or hangs before it serves is given up: the one before it goes on. A death after an update leads to
# the image that was updated to.
#
# It runs when it is named, since the emulator ends one of the guests in most runs of several minutes. With
# `--set ALL=yes` it tries every way to fail, and updates more often.
version() { read_store $(spindle_home)/data/spindle/version; }

# image NAME VERSION [PLACE BYTES]...: an image with this version, and with other bytes there
image() {
	local file=/run/$1.elf
	cp /spindle/spindle.elf $file
	put $file $((HEAD + 64)) "$2\\0"
	shift 2
	while [ $# -gt 0 ]; do
		put $file $1 "$2"
		shift 2
	done
}
# shellcheck disable=SC2059
put() { printf "$3" | dd of=$1 bs=1 seek=$2 conv=notrunc 2> /dev/null; }

# go_on LIVES: so many more lives have begun, and both guests go on
go_on() {
	lives=$((lives + $1))
	[ "$(life)" = $lives ] || fail "life $(life), not $lives"
	load_goes_on
	[ "$(xl domid spindle)" = $id ] || fail "another domain"
}

# update NAME VERSION: to the image of this name, which has this version
update() {
	/spindle/spindlectl update --image /run/$1.elf spindle > /run/said 2>&1 || fail "update to $1: $(cat /run/said)"
	[ "$(version)" = "$2" ] || fail "it runs $(version), not $2"
	pauses="$pauses${pauses:+, }$(sed -n 's/^spindle: .* follows .*, \([0-9]*\) ms$/\1/p' /run/said)"
	go_on 1
}

# refused WHY FILE: this file is refused, and nothing changes
refused() {
	if /spindle/spindlectl update --image $2 spindle > /run/said 2>&1; then fail "$2 was taken"; fi
	grep -q "$1" /run/said || fail "$2: $(cat /run/said)"
	go_on 0
}

# undone NAME LIVES SECONDS: the image of this name is tried, for so long at most, which takes so many lives, and
# given up
undone() {
	local before
	before=$(version)
	if /spindle/spindlectl update --timeout $3 --image /run/$1.elf spindle > /run/said 2>&1; then fail "$1 was taken"; fi
	grep -q 'the update failed: .* runs again' /run/said || fail "$1: $(cat /run/said)"
	[ "$(version)" = "$before" ] || fail "after $1 it runs $(version), not $before"
	go_on $2
}

# shellcheck source=/dev/null
. /spindle/places
spindle_down
SPINDLE_KNOBS="drill=on"
assignable $VIRTIO_BDF
spindle_with vcpus=3 memory=128 "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
SPINDLE_KNOBS=''
id=$(xl domid spindle) lives=1 pauses='' first=$(version)
image next '9.9.9 next'
image first "$first"
image layout '9.9.9 layout' $((HEAD + 12)) '\143' $((HEAD + 16)) '\143'
image early '9.9.9 early' "$EARLY" '\017\013'
image later '9.9.9 later' "$LATER" '\017\013'
image hangs '9.9.9 hangs' "$LATER" '\353\376'
head -c 300000 /run/next.elf > /run/cut.elf
under_load vda 1
/spindle/spindlectl update --dry-run --image /run/next.elf spindle > /run/said 2>&1 || fail "dry run: $(cat /run/said)"
grep -q 'nvme0 stays enabled' /run/said || fail "dry run: $(cat /run/said)"
go_on 0
refused 'cut off' /run/cut.elf
refused 'not an ELF' /spindle/lib.sh
refused 'in layout 99' /run/layout.elf
update next '9.9.9 next'
update first "$first"
undone later 2 60
if [ "${ALL:-}" = yes ]; then
	undone early 1 60
	undone hangs 2 15
	update next '9.9.9 next'
	drill panic 1
	wait_until 60 is_life $((lives + 1)) || fail "no life after a panic: $(end_of spindle)"
	go_on 1
	[ "$(version)" = '9.9.9 next' ] || fail "after a panic it runs $(version)"
	update first "$first"
	update first "$first"
fi
load_unchanged
load_ends
mark note "text=\"pauses of updates, in ms: $pauses\""
# What each of them took, and how often the controller stayed enabled: the emulated disk may take too long.
# A life prints the end of the log of the one before once more.
said() { grep -v 'former life:' "$(guest_log spindle)" | grep "$1"; }
if said 'controller is reset after all'; then fail "a controller was reset after all"; fi
parts=$(said 'pause: .*drain' | sed -n 's/.*pause: \([0-9]* us.*\)/\1/p' | tr '\r\n' ' ;')
mark note "text=\"enabled in $(said 'update: .*stays enabled' | grep -c .) of them: $parts\""
next_attach_works
spindle_down
