# scenario: seconds=360 core=yes backend=any
# A guest destroyed while its queue is full: nothing of it is left, its pages are free,
# and the next attach works. Twice, as a leak would show in the second round.
spindle_up
for round in 1 2; do
	guest_start busy fio-forever "disk=['$(disk xvda)']"
	guest_need busy busy 90
	began=$(now)
	guest_end busy
	mark destroyed round=$round seconds=$(since $began)
done
next_attach_works
