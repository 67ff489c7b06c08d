//! Fakes of the hardware and of the other domains: what the real drivers run against under
//! `cargo test`, in benchmarks and under the fuzzer.
//!
//! | fake | stands for |
//! | --- | --- |
//! | [`mem`] | memory with bus addresses, a clock |
//! | [`nvme`] | an NVMe controller, with faults |
//! | [`virtio`] | a virtio block device, with faults |
//! | [`pci`] | a PCI bus behind ports 0xCF8/0xCFC |
//! | [`grants`] | Xen's grant table |
//! | [`blkfront`] | a guest's block frontend |
//! | [`frontends`] | what the frontends of the field do in xenstore |
//! | [`gpt`], [`image`] | a disk with a partition table; a disk to read from |
//! | [`lvm`] | a disk with an LVM2 physical volume |
//! | [`queue`] | whoever submits to a disk's queue |
//! | [`neighbours`] | a ring core with a well-behaved guest and hostile ones, in virtual time |
//! | [`xenbus`] | the kernel around the xenbus backend |
//! | [`xenstored`] | the xenstore daemon |
#![forbid(unsafe_code)]

pub mod blkfront;
pub mod frontends;
pub mod gpt;
pub mod grants;
pub mod idle;
pub mod image;
pub mod lvm;
mod medium;
pub mod mem;
pub mod neighbours;
pub mod nvme;
pub mod pci;
pub mod queue;
pub mod tenants;
pub mod virtio;
pub mod xenbus;
pub mod xenstored;
