# scenario: seconds=360
# Spindle is paused for a minute while a guest uses its disk: the guest waits, and goes on with all that
# was acknowledged, without an error.
spindle_up
guest_start waiting fio-orders vcpus=2 "disk=['$(disk xvda)']"
guest_need waiting ready 60
order waiting 60 'fill xvda'
order waiting 20 'load xvda'
order waiting 40 'answers xvda 256 30'
try_xl 30 pause spindle || fail "xl pause"
began=$(now)
order waiting 20 'paused=$(answered xvda)'
sleep 60
order waiting 20 '[ $(answered xvda) = $paused ]'
took=$(since $began)
try_xl 30 unpause spindle || fail "xl unpause"
began=$(now)
order waiting 40 'answers xvda 256 30'
mark note "text=\"paused for $took s, 256 answers $(since $began) s later\""
order waiting 60 enough
order waiting 60 'same xvda'
guest_end waiting
next_attach_works
