# scenario: seconds=360
# Asked to shut down, to halt or to reboot while guests are connected, Spindle drains, closes and ends; a
# guest can still be destroyed, and a new Spindle serves again. By `xl reboot` it is back by itself, and a
# guest has its disk anew from it as from one that ended unawares.
spindle_up
probe_attach xvds
spindle_down
began=$(now)
xl destroy probe
wait_until 60 gone probe || fail "the guest outlives its destruction"
mark destroyed seconds=$(since $began)
# As in a configuration that leaves it out.
spindle_with memory=128 'on_reboot="restart"'
next_attach_works

guest_start stayer fio-orders "disk=['$(disk xvda)']"
guest_need stayer ready 60
order stayer 60 'fill xvda'
old=$(xl domid spindle)
back_again() { [ "$(xl domid spindle 2> /dev/null)" != $old ] && alive spindle && serves; }
began=$(now)
try_xl 30 reboot spindle || fail "xl reboot"
wait_until 60 back_again || fail "Spindle does not come back: $(last_words spindle)"
rebooted=$(since $began)
try_xl 120 block-detach --force stayer xvda || fail "xl block-detach --force"
try_xl 120 block-attach stayer "$(disk xvda)" || fail "xl block-attach: $(refusal)"
order stayer 60 'same xvda'
order stayer 20 'load xvda'
order stayer 40 'answers xvda 64 30'
order stayer 60 enough
order stayer 60 'same xvda'

# xl has no command for this one.
began=$(now)
xenstore-write $(spindle_home)/control/shutdown halt || fail "the node for the shutdown cannot be written"
wait_until 30 gone spindle || fail "Spindle does not halt: $(last_words spindle)"
mark note "text=\"back $rebooted s after xl reboot, halted in $(since $began) s\""
xl destroy stayer
wait_until 60 gone stayer || fail "the guest outlives its destruction"
spindle_up
next_attach_works
