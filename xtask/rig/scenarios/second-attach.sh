# scenario: seconds=180 backend=any
# The same virtual device twice, which libxl itself refuses, so that Spindle does not hear of it; and the
# same disk as another device, which Spindle refuses. The first attach keeps working.
spindle_up
probe_attach xvdc
probe=$(xl domid probe)
keeps() {
	guest_said probe 'removed xvdc' && fail "$1: the first attach is gone"
	backend_is $probe xvdc 4 || fail "$1: the first attach is not connected any more"
}
before=$(refusal)
try_xl 40 block-attach probe "$(disk xvdc)" && fail "the same device is attached twice"
case $xl_said in
*'already exists in xenstore'*) xl_said='' ;;
*) fail "libxl refuses the same device for another reason" ;;
esac
[ "$(refusal)" = "$before" ] || fail "Spindle refuses what libxl does: $(refusal)"
keeps "the same device"
if [ $BACKEND = spindle ]; then
	try_xl 40 block-attach probe "$(disk xvdd)" && fail "the disk has two writers"
	xl_said=''
	need_reason $probe/$(devid xvdd) "in use by $probe/$(devid xvdc), and not by readers only"
	mark refused "reason=\"$(refusal | tail -n 1)\""
	keeps "the same disk"
	try_xl 40 block-detach probe xvdd || fail "xl block-detach of the refused disk"
fi
probe_detach xvdc
next_attach_works
