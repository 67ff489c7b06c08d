# scenario: seconds=480 core=yes backend=any host=file-tree
# One guest writes a tree of files, another reads it; then Spindle is shut down in order,
# and the host looks at the disk itself.
spindle_up
say "writing"
began=$(now)
guest_start writer tree-write "disk=['$(disk xvda)']"
guest_need writer tree 200
mark written seconds=$(since $began) $(sed -n 's/^%% tree //p' $(guest_log writer) | tr -d '\r')
guest_finish writer 20
say "checking"
began=$(now)
guest_start checker tree-check "disk=['$(disk xvda)']"
guest_need checker checked 200
mark checked seconds=$(since $began) $(sed -n 's/^%% checked //p' $(guest_log checker) | tr -d '\r')
guest_finish checker 20
spindle_down
