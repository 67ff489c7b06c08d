# scenario: seconds=180
# A target that does not exist: the guest's creation fails, with our reason in xenstore and
# on the console; the next attach works.
spindle_up
guest_config victim no-blkfront "disk=['$(disk xvda nosuch)']"
began=$(now)
xl create -p /run/victim.cfg && fail "xl create succeeds with a wrong target"
took=$(since $began)
refusal | grep -q nosuch || fail "no reason in xenstore: $(refusal)"
grep -q nosuch $(guest_log spindle) || fail "no reason on the console"
mark refused seconds=$took "reason=\"$(refusal | grep nosuch | tail -n 1)\""
[ ${took%.*} -lt 25 ] || fail "xl create took $took s to fail"
next_attach_works
