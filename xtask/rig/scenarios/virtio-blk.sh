# scenario: seconds=360 core=yes host=virtio
# A virtio disk beside the NVMe controller, each with a queue for every ring core: data and
# discards reach the disk, which the host looks at, and the disk is there again after a restart.
# The rings have 8 pages, which is all that Spindle is to offer here; QEMU's disk can erase nothing.
spindle_down
assignable $VIRTIO_BDF
SPINDLE_KNOBS=ring_order=3
spindle_with "pci=[\"$BDF\",\"$VIRTIO_BDF\"]"
SPINDLE_KNOBS=''
guest_start virtio fio-virtio vcpus=2 "disk=['$(disk xvda vda)','$(disk xvdb)']" \
	"cmdline=\"$LINUX xen_blkfront.max_ring_page_order=4\""
guest_need virtio 'done' 240
virtio=$(xl domid virtio)
for vdev in xvda xvdb; do
	[ "$(frontend_node $virtio $vdev ring-page-order)" = 3 ] || fail "$vdev has not rings of 8 pages"
done
[ "$(backend_node $virtio xvda feature-discard) $(backend_node $virtio xvda discard-secure)" = "1 0" ] ||
	fail "the virtio disk does not offer plain discards"
[ "$(reports virtio queues | cut -d' ' -f1)" = count=2 ] || fail "not two queues: $(reports virtio queues)"
mark pattern sum=$(reports virtio written)
mark note "text=\"$(read_store $(spindle_home)/data/spindle/stat/$virtio-51712 | cut -d' ' -f1-8)\""
guest_end virtio
spindle_down
