# scenario: seconds=600 core=yes
# The disk served from a PVH domain, without QEMU, by spindlectl: taken from dom0's own NVMe driver
# and given back to it, with everything undone when a step fails. Then the HVM route by the same tool.
ctl() {
	say "spindlectl $*"
	/spindle/spindlectl "$@"
}
create() { ctl create --pci $BDF --image /spindle/spindle.elf "$@"; }
driver() { basename "$(readlink /sys/bus/pci/devices/$BDF/driver)"; }
has_driver() { [ "$(driver)" = $1 ]; }
as_before() {
	has_driver nvme || fail "$1: the disk is left with the driver '$(driver)'"
	gone spindle || fail "$1: the domain is left"
	[ -z "$(xenstore-list /tool/spindlectl 2> /dev/null)" ] || fail "$1: the note is left in xenstore"
	[ -z "$(ls /run/spindlectl 2> /dev/null)" ] || fail "$1: the configuration is left"
}
sum_in_dom0() {
	wait_until 20 namespace 1 > /dev/null || fail "dom0 does not have its disk back"
	dd if=$(namespace 1) bs=1M skip=96 count=8 2> /dev/null | sha256sum | cut -d' ' -f1
}

spindle_down
to_dom0

# What cannot work leaves no trace: no such device, no shim, no kernel, a shim without effect.
# refuses WORDS OPTION...: it fails, says these words, and everything is as before
refuses() {
	local words=$1
	shift
	ctl create --route pvh "$@" > /run/refusal 2>&1 && fail "created in spite of: $words"
	cat /run/refusal
	grep -q "$words" /run/refusal || fail "does not say '$words'"
	as_before "$words"
}
refuses 'no PCI device' --pci 0000:00:1e.7 --image /spindle/spindle.elf
refuses 'needs libspindle_shim.so' --pci $BDF --image /spindle/spindle.elf --shim /nowhere.so
refuses 'xl create -p .* failed' --pci $BDF --image /spindle/lib.sh
refuses 'shim had no effect' --pci $BDF --image /spindle/spindle.elf --shim /usr/lib/x86_64-linux-gnu/libc.so.6
create --route pvh --dry-run | grep -q "^LD_PRELOAD=.* xl create -p" || fail "nothing planned"
as_before "a dry run"

began=$(now)
new_log spindle
create --route pvh --set log=debug || fail "spindlectl create: $(last_words spindle)"
created=$(since $began)
has_driver pciback || fail "dom0 still drives the disk"
# The last domain's may be there yet.
cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\0' ' ' | grep -q -- "-xen-domid $(xl domid spindle) " && fail "there is a QEMU"
guest_start fio fio-verify "disk=['$(disk xvda)']"
guest_need fio up 60
ctl destroy spindle > /run/refusal 2>&1 && fail "destroyed under a guest"
grep -q "fio (xvda)" /run/refusal || fail "the guest is not named: $(cat /run/refusal)"
guest_need fio 'done' 300
# Spindle publishes what it counts every five seconds.
counts() { [ "$(counted $fio xvda wr_req)" -gt 0 ] 2> /dev/null; }
fio=$(xl domid fio)
wait_until 15 counts || fail "nothing is counted"
ctl list | tee /run/list
grep -q "spindle.*serves.*nvme0n1.*rw.*fio xvda" /run/list || fail "spindlectl list"
ctl stat | tee /run/stat
grep -q "spindle.*fio.*xvda.*nvme0n1" /run/stat || fail "spindlectl stat"
ctl top --every 2 --count 1 || fail "spindlectl top"
ctl why fio/xvda | tee /run/why
grep -q "^state *connected" /run/why && grep -q "^agreed .* queues" /run/why || fail "spindlectl why"
ctl check | tee /run/check
grep -q "^ok *IOMMU" /run/check && grep -q "^ok *disk .*spindle) has $BDF" /run/check || fail "spindlectl check"
ctl metrics > /run/metrics || fail "spindlectl metrics"
grep 'requests_total' /run/metrics
grep -q 'requests_total{domain="spindle",guest="fio",.*op="write"} [1-9]' /run/metrics || fail "no writes counted"
sum=$(sed -n 's/.*%% sum //p' $(guest_log fio) | tr -d '\r')
guest_end fio
began=$(now)
ctl destroy spindle || fail "spindlectl destroy"
destroyed=$(since $began)
as_before destroy
host sum disk=nvme start=96 mib=8
[ "$answer" = "$sum" ] || fail "the image has other data ($answer) than the guest read ($sum)"
read=$(sum_in_dom0)
[ "$read" = "$sum" ] || fail "dom0 reads other data ($read) than the guest wrote ($sum)"

# Once more, from xen-pciback this time, and by the other route; both leave it there.
try_xl 120 pci-assignable-add $BDF || fail "xl pci-assignable-add"
for route in pvh hvm; do
	new_log spindle
	create --route $route || fail "spindlectl create: $(last_words spindle)"
	next_attach_works
	ctl destroy spindle || fail "spindlectl destroy"
	has_driver pciback || fail "the disk is not left with xen-pciback"
done
mark note "text=\"created in $created s, destroyed in $destroyed s\""
