# An idle Spindle, with a connected guest, uses no processor time.
spindle_up
probe_attach xvdi
cpu() { xl list spindle | awk 'NR == 2 {print $6}'; }
sleep 3
before=$(cpu)
sleep 12
used=$(echo "$before $(cpu)" | awk '{printf "%.1f", $2 - $1}')
mark idle cpu=$used
echo $used | awk '{exit !($1 < 0.15)}' || fail "an idle Spindle used $used s of processor time in 12 s"
probe_detach xvdi
