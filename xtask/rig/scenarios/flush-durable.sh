# What was flushed is on the disk, even if the machine dies at that moment: the host kills it.
spindle_up
guest_start flusher flush "disk=['$(disk xvda)']"
guest_need flusher flushed 60
mark flushed $(sed -n 's/^%% flushed //p' $(guest_log flusher) | tr -d '\r')
sleep 60
fail "the host did not cut the power"
