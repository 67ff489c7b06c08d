# Keeps the disk busy until it is destroyed; says so once requests are being answered.
modprobe xen-blkfront
wait_disk xvda
/usr/bin/fio --name=busy --filename=/dev/xvda --ioengine=libaio --direct=1 --rw=randrw --bsrange=4k-128k \
	--iodepth=32 --time_based --runtime=600 > /tmp/busy.txt 2>&1 &
# fio takes its time to start.
answers xvda 1024 80 || fail "fio does nothing: $(tail -n 5 /tmp/busy.txt)"
report busy
wait $! || fail "fio: $(tail -n 5 /tmp/busy.txt)"
