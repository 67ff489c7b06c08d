# A PVH domain without a disk of its own serves a RAM disk.
spindle_create ram spindle-pvh.cfg 'kernel="/spindle/spindle.elf"'
probe_up
try_xl 30 block-attach probe "$(disk xvdr ram0 ram)" || fail "xl block-attach: $(refusal ram)"
wait_until 40 guest_said probe 'works xvdr' || fail "the RAM disk does not work"
try_xl 40 block-detach probe xvdr || fail "xl block-detach"
spindle_down ram
