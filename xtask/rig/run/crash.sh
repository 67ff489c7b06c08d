# What `run --crash` does: Spindle's kernel dies each few seconds while a guest writes and checks what
# it reads. Tells the host when each death was ordered, by the time since the guest's load began, how long
# Spindle was down by its own clock, and when the guest's requests were answered.
spindle_down
SPINDLE_KNOBS='drill=on'
spindle_with vcpus=3
SPINDLE_KNOBS=''
guest_start worker fio-crash vcpus=2 "disk=['$(disk xvda)']" "cmdline=\"$LINUX crash.seconds=$LOAD_SECONDS\""
guest_need worker ready 60
say "the guest writes and checks for $LOAD_SECONDS s"
guest_tell worker
began=$(now) lives=1 due=$EVERY
for order in $(echo $ORDERS | tr ',' ' '); do
	until [ "$(since $began | cut -d. -f1)" -ge $due ]; do sleep 0.1; done
	due=$((due + EVERY)) lives=$((lives + 1)) at=$(since $began)
	drill $(echo $order | tr '-' ' ') || fail "xenstore-write"
	wait_until 60 is_life $lives || fail "no life $lives after '$order': $(end_of spindle)"
	mark death when=$at order=$order $(read_store $(spindle_home)/data/spindle/start)
	say "$(/spindle/spindlectl list | tail -n 1)"
done
guest_need worker 'answered all' $((LOAD_SECONDS + 120))
mark answered step=$(reports worker step) counts=$(reports worker counts | tr -d '\n')
reports worker gap | while read -r gap; do mark gap $gap; done
mark checked $(reports worker checked)
guest_finish worker 20
spindle_down
