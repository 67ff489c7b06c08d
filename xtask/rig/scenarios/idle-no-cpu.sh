# scenario: seconds=180
# An idle Spindle, with a connected guest, uses no processor time but for a look at all it has once in
# a while: about 105 in a minute, by its three vCPUs together. Here each costs one to two milliseconds.
spindle_up
probe_attach xvdi
cpu() { xl list spindle | awk 'NR == 2 {print $6}'; }
sleep 3
before=$(cpu)
sleep 60
used=$(echo "$before $(cpu)" | awk '{printf "%.1f", $2 - $1}')
mark idle cpu=$used
# xl counts in tenths of a second.
echo $used | awk '{exit !($1 < 0.35)}' || fail "an idle Spindle used $used s of processor time in 60 s"
probe_detach xvdi
