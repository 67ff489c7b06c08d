# scenario: seconds=240 backend=any
# A guest that has no block frontend: it can be destroyed, and nothing is left.
spindle_up
guest_start deaf no-blkfront "disk=['$(disk xvda)']"
guest_need deaf idle 20
began=$(now)
guest_end deaf
mark destroyed seconds=$(since $began)
next_attach_works
