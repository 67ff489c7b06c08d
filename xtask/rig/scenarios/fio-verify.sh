# scenario: seconds=420 backend=any
# Checksums in every block, through the whole path.
spindle_up
guest_start fio fio-verify "disk=['$(disk xvda)']"
guest_need fio 'done' 300
mark note "text=\"$(sed -n 's/.*%% fio job=//p' $(guest_log fio) | tr -d '\r' | tr '\n' ';')\""
guest_end fio
