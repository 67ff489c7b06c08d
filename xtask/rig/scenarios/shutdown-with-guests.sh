# Told to shut down while a guest is attached, Spindle drains, closes and ends; the guest
# can still be destroyed, and a new Spindle serves again.
spindle_up
guest_start orphan no-blkfront 'disk=[]'
xl block-attach orphan "$(disk xvda)" || fail "xl block-attach: $(refusal)"
probe_attach xvds
spindle_down
xl destroy orphan
wait_until 40 gone orphan || fail "the guest outlives its destruction"
xl destroy probe
wait_until 60 gone probe || fail "the probe outlives its destruction"
spindle_up
next_attach_works
