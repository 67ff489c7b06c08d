# scenario: seconds=300 host=flush-durable
# What was flushed is on the disk, even if the machine dies at that moment: the host kills it, and with it
# the write caches of two disks, one NVMe and one virtio. What was not flushed is lost.
spindle_down
assignable $LOSSY_BDF
spindle_with "pci=[\"$BDF\",\"$LOSSY_BDF\"]"
guest_start flusher flush "disk=['$(disk xvda nvme0n4)','$(disk xvdb vda)']"
guest_need flusher flushed 60
mark unflushed $(reports flusher unflushed)
mark flushed $(reports flusher flushed)
sleep 60
fail "the host did not cut the power"
