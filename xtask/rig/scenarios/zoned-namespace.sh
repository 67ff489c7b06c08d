# scenario: seconds=240 machine=odd-controllers
# A zoned namespace, which takes only writes in order, is refused with the reason, and not a byte of it
# is touched; other disks are served beside it.
spindle_down
spindle_with_odd zoned single
host sum disk=zoned start=0 mib=64
untouched=$answer
probe_up
timeout 30 xl block-attach probe "$(disk xvds nvme-zoned-n1)" && fail "a zoned namespace is attached"
need_reason $(xl domid probe)/$(devid xvds) zoned
mark refused "reason=\"$(refusal | tail -n 1)\""
try_xl 120 block-detach probe xvds || fail "xl block-detach of the refused disk"
probe_attach xvdp nvme-single-n1
probe_detach xvdp
spindle_down
host sum disk=zoned start=0 mib=64
[ "$answer" = "$untouched" ] || fail "the zoned namespace has other data than before"
