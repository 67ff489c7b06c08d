# scenario: seconds=900 asked=yes
# What ctl/docs/operating.md and troubleshooting.md say, played from a disk that dom0 drives to a guest that
# has it; then a wrong target, a guest that is too loud, and a disk that fails. Each command and what it
# prints is in the scenario's log, from which the pages have it.

# play WORDS...: does it as an administrator would; leaves its status in $status, what it prints in /run/played
play() {
	"$@" > /run/played 2>&1
	status=$?
	say "played: $* ($status)"
	cat /run/played
}
spindlectl() { /spindle/spindlectl "$@"; }

# shows TEXT: what was played says this
shows() { grep -qF -- "$1" /run/played || fail "'$1' is not said: $(cat /run/played)"; }
said() { grep -q "$1" $(guest_log spindle); }
is_lost() { said 'disk nvme0 is lost: '; }
is_back() { [ "$(grep -c 'disk nvme0 is back' $(guest_log spindle))" -gt 0 ]; }

spindle_down
to_dom0
new_log spindle
play spindlectl check --pci $BDF
play spindlectl create --route pvh --pci $BDF --image /spindle/spindle.elf --set io_timeout=2
[ $status = 0 ] || fail "create: $(cat /run/played)"
play spindlectl list
shows serves
guest_start web fio-orders "disk=['$(disk xvda)']"
guest_start db fio-orders "disk=['$(disk xvda nvme0n2)']"
guest_need web ready 60
guest_need db ready 60
play spindlectl health
shows 'spindle: serves'
play spindlectl why web/xvda
shows connected

# A wrong target.
play spindlectl attach web nosuch
[ $status = 3 ] || fail "attached with status $status"
shows 'no Spindle has a disk nosuch'
play xl block-attach web "$(disk xvdb nosuch)"
need_reason '*' nosuch
play spindlectl list
shows 'no such target'
play spindlectl why web/xvdb
shows 'no such target'
play xl block-detach web xvdb

# A guest that is too loud.
for who in web db; do
	order $who 60 'fill xvda'
	order $who 30 'load xvda'
done
play spindlectl limit spindle @gold bandwidth=200M
play spindlectl limit spindle web/xvda group=gold
play spindlectl limit spindle db/xvda group=gold
sleep 6
play xenstore-ls -f $(spindle_home)
sleep 6
play xenstore-ls -f $(spindle_home)
play spindlectl top --count 1
shows 'group gold'
play spindlectl limit spindle web/xvda iops=50
shows iops=50
sleep 8
play spindlectl top --count 1
play spindlectl why web/xvda
shows 'for tokens of its limits'

# A disk that fails.
host throttle disk=nvme bytes=1
wait_until 90 is_lost || fail "the disk is not given up: $(last_words spindle)"
play spindlectl list
shows lost
play spindlectl why web/xvda
shows 'the controller of nvme0n1 is lost'
play spindlectl smart nvme0
shows 'it is lost'
play spindlectl log spindle -n 8
host throttle disk=nvme bytes=0
play spindlectl rescan spindle
wait_until 60 is_back || fail "the disk is not back: $(last_words spindle)"
sleep 6
play spindlectl trace web/xvda
shows 'the disk is back'
play spindlectl list
play spindlectl error-log nvme0
guest_end web
guest_end db
play spindlectl destroy spindle
[ $status = 0 ] || fail "destroy: $(cat /run/played)"
