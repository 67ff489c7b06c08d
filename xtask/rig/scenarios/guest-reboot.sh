# scenario: seconds=300 backend=any
# A guest that reboots finds its disk and its data again.
spindle_up
guest_start phoenix reboot "disk=['$(disk xvda)']" 'on_reboot="restart"' \
	"cmdline=\"$LINUX token=token-$(now)\""
guest_need phoenix first-boot 60
guest_tell phoenix
# Between its two lives the domain does not exist.
wait_until 150 guest_said phoenix second-boot || fail "no data after the reboot: $(last_words phoenix)"
guest_end phoenix
