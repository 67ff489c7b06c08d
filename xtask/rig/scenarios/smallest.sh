# scenario: seconds=360
# The smallest Spindle, one vCPU and 12 MiB, is started after its guest was created: the guest's
# disk is found and served, control and rings share the vCPU, and it survives fio.
spindle_down
with_config spindle-hvm.cfg 'name="spindle"' 'firmware_override="/spindle/spindle.elf"' \
	"pci=[\"$BDF\"]" vcpus=1 memory=12 > /run/spindle.cfg
new_log spindle
try_xl 120 create -p /run/spindle.cfg || fail "xl create spindle"
guest_config early fio-rings vcpus=2 "disk=['$(disk xvda)']" "cmdline=\"$LINUX disks=xvda\""
new_log early
xl create /run/early.cfg &
creator=$!
waits() { [ -n "$(xenstore-list $(spindle_home)/backend/vbd 2> /dev/null)" ]; }
wait_until 20 waits || fail "xl does not write the backend's nodes"
xl unpause spindle
wait $creator || fail "xl create does not find its disk served: $(refusal)"
guest_need early 'done' 240
reports early queues | grep -q "disk=xvda count=1" || fail "more than one queue on one core"
guest_end early
spindle_down
