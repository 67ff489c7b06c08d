# scenario: seconds=480
# The driver domain restarted beneath a running guest, by spindlectl. Planned: the guest is saved
# meanwhile, and its frontend does again what was in flight. Unplanned: Spindle is gone, and its disk is
# taken from the guest and given to it anew.
spindle_down
ctl() {
	say "spindlectl $*"
	/spindle/spindlectl "$@" || fail "spindlectl $1"
}
ctl create --route hvm --pci $BDF --image /spindle/spindle.elf
guest_start stayer fio-orders "disk=['$(disk xvda)']" memory=384
guest_need stayer ready 60
order stayer 60 'fill xvda'
order stayer 20 'load xvda'
order stayer 40 'answers xvda 256 30'
began=$(now)
try_xl 120 save stayer /run/stayer.save || fail "xl save"
ctl restart spindle
try_xl 120 restore /run/stayer.save || fail "xl restore: $(refusal)"
planned=$(since $began)
rm /run/stayer.save
order stayer 90 enough
order stayer 60 'same xvda'

began=$(now)
xl destroy spindle
ctl restart spindle
try_xl 120 block-detach --force stayer xvda || fail "xl block-detach --force"
try_xl 120 block-attach stayer "$(disk xvda)" || fail "xl block-attach: $(refusal)"
unplanned=$(since $began)
order stayer 60 'same xvda'
order stayer 20 'load xvda'
order stayer 40 'answers xvda 64 30'
order stayer 60 enough
guest_end stayer
ctl destroy spindle
mark note "text=\"planned: the guest paused for $planned s; unplanned: its disk is back after $unplanned s\""
