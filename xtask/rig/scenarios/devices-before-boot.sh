# A guest is created while Spindle does not run yet: its disk is found and served.
spindle_down
with_config spindle-hvm.cfg 'name="spindle"' 'firmware_override="/spindle/spindle.elf"' \
	"pci=[\"$BDF\"]" > /run/spindle.cfg
xl create -p /run/spindle.cfg || fail "xl create spindle"
guest_config early no-blkfront "disk=['$(disk xvda)']"
xl create -p /run/early.cfg &
creator=$!
waits() { [ -n "$(xenstore-list $HOME_DIR/$(xl domid spindle)/backend/vbd 2> /dev/null)" ]; }
wait_until 20 waits || fail "xl does not write the backend's nodes"
xl unpause spindle
wait $creator || fail "xl create does not find its disk served: $(refusal)"
guest_end early
next_attach_works
