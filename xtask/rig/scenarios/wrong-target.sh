# scenario: seconds=180
# A target that does not exist: the guest's creation fails, with our reason in xenstore and
# on the console; the next attach works.
spindle_up
target=nosuch$(now)
guest_config victim no-blkfront "disk=['$(disk xvda $target)']"
began=$(now)
xl create -p /run/victim.cfg && fail "xl create succeeds with a wrong target"
took=$(since $began)
need_reason '*' $target
mark refused seconds=$took "reason=\"$(refusal | grep -F $target | tail -n 1)\""
[ ${took%.*} -lt 25 ] || fail "xl create took $took s to fail"
next_attach_works
