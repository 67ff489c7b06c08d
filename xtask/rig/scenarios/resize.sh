# scenario: seconds=300
# A disk grows while a guest uses it: the guest sees its new size without any ado, and can use the
# new part. A virtio disk, since QEMU lets no NVMe disk grow.
spindle_with_virtio
guest_start grow fio-grow vcpus=2 "disk=['$(disk xvda vda)']"
guest_need grow ready 60
[ "$(reports grow ready)" = sectors=131072 ] || fail "the disk begins with $(reports grow ready)"
host resize disk=virtio mib=96
guest_need grow 'done' 90
[ "$(reports grow grown)" = sectors=196608 ] || fail "the disk of 96 MiB has $(reports grow grown)"
host sum disk=virtio start=88 mib=8
[ "$answer" = "$(reports grow pattern)" ] || fail "the host finds $answer at the disk's new end"
case $(read_store $(spindle_home)/data/spindle/targets/vda) in
"vda 196608 "*) ;;
*) fail "the list of targets has the old size" ;;
esac
guest_end grow
host resize disk=virtio mib=64
