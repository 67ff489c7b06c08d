# scenario: seconds=240 machine=odd-controllers
# Two controllers with the same namespace: it is one disk, which has one writer, whichever controller it
# is reached by.
spindle_down
spindle_with_odd left right
probe_attach xvde nvme0n1
probe_up
timeout 30 xl block-attach probe "$(disk xvds nvme1n1)" && fail "a namespace has two writers"
need_reason $(xl domid probe)/$(devid xvds) "in use by $(xl domid probe)/$(devid xvde)"
mark refused "reason=\"$(refusal | tail -n 1)\""
try_xl 120 block-detach probe xvds || fail "xl block-detach of the refused disk"
probe_detach xvde
for name in nvme0n1 nvme1n1; do
	probe_attach xvdp $name
	probe_detach xvdp
done
spindle_down
