# scenario: seconds=360 core=yes host=virtio
# A virtio disk beside the NVMe controller, each with a queue for every ring core: data and
# discards reach the disk, which the host looks at, and the disk is there again after a restart.
spindle_down
assignable $VIRTIO_BDF
spindle_create spindle spindle-hvm.cfg 'firmware_override="/spindle/spindle.elf"' "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
guest_start virtio fio-virtio vcpus=2 "disk=['$(disk xvda vda)','$(disk xvdb)']"
guest_need virtio 'done' 240
[ "$(reports virtio queues | cut -d' ' -f1)" = count=2 ] || fail "not two queues: $(reports virtio queues)"
mark pattern sum=$(reports virtio written)
mark note "text=\"$(read_store $HOME_DIR/$(xl domid spindle)/data/spindle/stat/$(xl domid virtio)-51712 | cut -d' ' -f1-8)\""
guest_end virtio
spindle_down
