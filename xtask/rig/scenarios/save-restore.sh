# scenario: seconds=360 backend=any
# A guest is saved and goes on; then it is saved and restored, twice. All the time its disk is
# under load, verified as it goes, and what was in flight is done again by the frontend.
spindle_up
guest_start nomad fio-orders "disk=['$(disk xvda)']" memory=384
guest_need nomad ready 60
order nomad 60 'fill xvda'
order nomad 20 'load xvda'
times=''
for round in checkpoint 1 2; do
	order nomad 40 'answers xvda 256 30'
	id=$(xl domid nomad) began=$(now)
	if [ $round = checkpoint ]; then
		try_xl 120 save -c nomad /run/nomad.save || fail "xl save -c"
		times="checkpoint $(since $began) s"
	else
		try_xl 120 save nomad /run/nomad.save || fail "xl save"
		saved=$(since $began)
		wait_until 10 backend_gone $id || fail "the saved guest's backend directory is left behind"
		began=$(now)
		try_xl 120 restore /run/nomad.save || fail "xl restore: $(refusal)"
		times="$times; saved in $saved s, restored in $(since $began) s"
	fi
	rm /run/nomad.save
	order nomad 90 'answers xvda 64 60'
	order nomad 90 enough
	order nomad 60 'same xvda'
	order nomad 20 'load xvda'
done
guest_end nomad
mark note "text=\"$times\""
