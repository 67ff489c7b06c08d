# Keeps the disk busy until it is destroyed.
modprobe xen-blkfront
wait_disk xvda
report busy
/usr/bin/fio --name=busy --filename=/dev/xvda --ioengine=libaio --direct=1 --rw=randrw --bsrange=4k-128k \
	--iodepth=32 --time_based --runtime=600 > /tmp/busy.txt 2>&1 || fail "fio: $(tail -n 5 /tmp/busy.txt)"
