# scenario: seconds=360
# Told to shut down while a guest is connected, Spindle drains, closes and ends; the guest
# can still be destroyed, and a new Spindle serves again.
spindle_up
probe_attach xvds
spindle_down
began=$(now)
xl destroy probe
wait_until 60 gone probe || fail "the guest outlives its destruction"
mark destroyed seconds=$(since $began)
spindle_up
next_attach_works
