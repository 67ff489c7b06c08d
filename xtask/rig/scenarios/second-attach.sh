# scenario: seconds=180 backend=any
# The same virtual device twice: refused, and the first keeps working.
spindle_up
probe_attach xvdc
timeout 40 xl block-attach probe "$(disk xvdc)" && fail "the second attach succeeds"
guest_said probe 'removed xvdc' && fail "the first attach is gone"
[ "$(read_store $(backend_dir $(xl domid probe))/51744/state)" = 4 ] || fail "the first attach is not connected any more"
probe_detach xvdc
next_attach_works
