# Checksums in every block, through the whole path.
spindle_up
guest_start fio fio-verify "disk=['$(disk xvda)']"
guest_finish fio 300
