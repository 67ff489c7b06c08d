# scenario: seconds=240 core=yes backend=any
# Disks come and go while the guest runs.
spindle_up
for round in 1 2 3; do
	began=$(now)
	probe_attach xvdb
	probe_detach xvdb
	mark hotplug round=$round seconds=$(since $began)
done
