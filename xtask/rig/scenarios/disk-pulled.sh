# scenario: seconds=360 machine=odd-controllers last=yes
# A controller is pulled out while guests write: its guest has errors, another guest on another
# controller goes on, and the disk is refused with the reason from then on.
spindle_down
SPINDLE_KNOBS="io_timeout=2"
spindle_with_odd single uneven
SPINDLE_KNOBS=''
probe_up
guest_start pulled fio-orders "disk=['$(disk xvda nvme-single-n1)']"
guest_start spared fio-orders "disk=['$(disk xvda nvme-uneven-n2)']"
for who in pulled spared; do
	guest_need $who ready 60
	order $who 60 'fill xvda'
	order $who 20 'load xvda'
	order $who 40 'answers xvda 64 30'
done

host pull controller=single
began=$(now)
order spared 40 'answers xvda 256 30'
order pulled 180 'wait $fio; wait $ledger; grep "error=Input/output error" /tmp/load.txt'
took=$(since $began)
order pulled 20 '! dd if=/dev/xvda of=/dev/null bs=4k count=1 iflag=direct'
timeout 30 xl block-attach probe "$(disk xvds nvme-single-n1)" && fail "a disk that was pulled out is attached"
need_reason $(xl domid probe)/$(devid xvds) 'is lost'
mark note "text=\"errors after $took s\""
mark refused "reason=\"$(refusal | tail -n 1)\""
try_xl 120 block-detach probe xvds || fail "xl block-detach of the refused disk"
guest_end pulled
order spared 40 'answers xvda 256 30'
order spared 60 enough
order spared 60 'same xvda'
guest_end spared
probe_attach xvdp nvme-uneven-n1
probe_detach xvdp
