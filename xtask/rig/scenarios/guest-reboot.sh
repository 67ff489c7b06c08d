# scenario: seconds=300 backend=any
# A guest that reboots finds its disk and its data again. xl starts it again; Xen must not have said
# that it had a triple fault, which xl takes for a reboot as well.
spindle_up
guest_start phoenix reboot "disk=['$(disk xvda)']" 'on_reboot="restart"' \
	"cmdline=\"$LINUX token=token-$(now)\""
guest_need phoenix first-boot 60
guest_tell phoenix
# Between its two lives the domain does not exist.
wait_until 150 guest_said phoenix second-boot || fail "no data after the reboot: $(last_words phoenix)"
host ended guest=phoenix
[ "$answer" != emulator ] || fail "guest phoenix was started again, but not since it had rebooted"
guest_end phoenix
