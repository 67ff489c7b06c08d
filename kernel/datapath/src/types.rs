//! The disk types: the one list of them.

/// Hands the list of disk types to the macro `$with`: for each type its variant of
/// [`crate::Queue`], the type of its queues, and the function by which the kernel finds or makes
/// the disks of that type, in this order. Names of disks do not depend on the order, but the order
/// in which disks are listed does.
#[macro_export]
macro_rules! disk_types {
    ($with:ident) => {
        $with! {
            /// Of an NVMe controller.
            Nvme(spindle_nvme::QueuePair<Mmio>), nvme::probe;
            /// Of a virtio disk.
            Virtio(spindle_virtio::BlockQueue<Mmio>), virtio::probe;
            /// Of a RAM disk.
            Ram(spindle_block::RamQueue<IdentityMap>), ram::probe;
            /// Of a null disk.
            Null(spindle_block::NullQueue<IdentityMap>), |probe| {
                probe.make("null", &probe.config.null_disks, spindle_block::NullController::new)
            };
        }
    };
}
