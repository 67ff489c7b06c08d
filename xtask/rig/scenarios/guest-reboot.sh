# A guest that reboots finds its disk and its data again.
spindle_up
guest_start phoenix reboot "disk=['$(disk xvda)']" 'on_reboot="restart"' \
	"cmdline=\"console=hvc0 rdinit=/init loglevel=4 token=token-$(now)\""
guest_need phoenix first-boot 60
guest_need phoenix second-boot 150
guest_end phoenix
