# scenario: seconds=420 machine=odd-controllers
# A virtual function of an NVMe controller (SR-IOV): dom0's driver keeps the physical one and gives it
# queues and an interrupt. It is a disk like any other then, also to a second Spindle after the first.
physical=$(bdf physical)
virtual=${physical%0}1
sys=/sys/bus/pci/devices/$physical
spindle_down
modprobe nvme
has_controller() { [ -c "/dev/$(ls $sys/nvme 2> /dev/null)" ]; }
wait_until 20 has_controller || fail "dom0's driver does not find the physical function"
controller=/dev/$(ls $sys/nvme)
echo 0 > $sys/sriov_drivers_autoprobe
echo 1 > $sys/sriov_numvfs || fail "no virtual function: $(dmesg | tail -n 3)"
# Without it no driver may have the virtual function, not even pciback.
echo 1 > $sys/sriov_drivers_autoprobe

# manage CONTROLLER RESOURCE ACTION NUMBER: as the specification numbers them
manage() { nvme virt-mgmt $controller -c $1 -r $2 -a $3 -n $4 || fail "nvme virt-mgmt $*"; }
queues=0 interrupts=1
to_physical=1 to_virtual=8 online=9
manage 0 $queues $to_physical 0
manage 0 $interrupts $to_physical 0
nvme reset $controller || fail "nvme reset"
manage 1 $queues $to_virtual 3
manage 1 $interrupts $to_virtual 1
manage 1 $queues $online 0

assignable $virtual
for _ in 1 2; do
	spindle_with "pci=[\"$virtual\"]"
	guest_start virtual fio-orders vcpus=2 "disk=['$(disk xvda nvme-virtual-n1)']"
	guest_need virtual ready 60
	order virtual 60 'fill xvda'
	order virtual 5 sum
	order virtual 20 'load xvda'
	order virtual 40 'answers xvda 256 30'
	order virtual 60 enough
	order virtual 60 'same xvda'
	host sum disk=virtual start=8 mib=8
	[ "$answer" = "$(reports virtual sum)" ] || fail "the host finds $answer"
	guest_end virtual
	spindle_down
done
try_xl 60 pci-assignable-remove $virtual || fail "xl pci-assignable-remove"
echo 0 > $sys/sriov_numvfs || fail "the virtual function stays"
modprobe -r nvme || fail "dom0's driver stays"
