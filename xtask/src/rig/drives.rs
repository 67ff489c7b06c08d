//! The machine's disks: their images on the host, and how QEMU presents them to Xen.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::lossy::Lossy;
use super::machine::Setup;
use super::{Backend, Variant, disk, variant};

/// MiB.
const MIB: u64 = 1 << 20;

/// How a disk looks to Xen.
#[derive(Clone, Copy)]
enum Model {
    /// A namespace of the first NVMe controller; the number of bytes in its blocks.
    Namespace(u32),
    /// An NVMe controller with one namespace.
    Nvme,
    /// A virtio disk in this PCI slot, whose DMA goes through the IOMMU, with 512-byte blocks on a
    /// medium of 4 KiB.
    Virtio(usize),
}

/// A disk: the name of its image and drive, its bytes, whether it is partitioned, its model.
type Drive = (&'static str, u64, bool, Model);

/// What Spindle is tested with. The namespaces are numbered in this order.
const TESTED: &[Drive] = &[
    ("nvme", 256 * MIB, false, Model::Namespace(512)),
    ("nvme-4k", 64 * MIB, false, Model::Namespace(4096)),
    ("nvme-gpt", 96 * MIB, true, Model::Namespace(512)),
    ("virtio", 64 * MIB, false, Model::Virtio(8)),
    ("lossy", 64 * MIB, false, Model::Namespace(512)),
    ("lossy-virtio", 64 * MIB, false, Model::Virtio(6)),
];

/// Those with a write cache that is lost with the machine.
const LOSSY: &[&str] = &["lossy", "lossy-virtio"];

/// One for Spindle, one for a Linux driver domain, one for dom0: all alike.
const COMPARED: &[Drive] = &[
    ("nvme", 256 * MIB, false, Model::Nvme),
    ("nvme-linux", 256 * MIB, false, Model::Nvme),
    ("nvme-dom0", 256 * MIB, false, Model::Nvme),
];

/// A disk with a sector of 512 bytes that cannot be read, and where that is.
const UNREADABLE: (&str, u64) = ("nvme-4k", 60 * MIB / 512);

/// What QEMU calls the NVMe controller that is tested.
pub(super) const CONTROLLER: &str = "controller";

/// The PCI slot of the first NVMe controller; not 2, where Xen's QEMU would take a disk for an
/// Intel graphics device. Further controllers come after it.
const NVME_SLOT: usize = 5;

fn drives(backend: Backend) -> &'static [Drive] {
    match backend {
        Backend::Bench => COMPARED,
        Backend::Spindle | Backend::Dom0 => TESTED,
    }
}

/// Where the image of a drive is.
pub(super) fn image(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.img"))
}

/// Makes all images anew: empty, but for partition tables.
pub(super) fn create(dir: &Path, backend: Backend, variant: Variant) -> Result<()> {
    for &(name, bytes, partitioned, _) in drives(backend) {
        let image = image(dir, name);
        disk::create(&image, bytes)?;
        if partitioned {
            disk::partition(&image)?;
        }
    }
    for namespace in variant.namespaces() {
        disk::create(&image(dir, namespace.drive), variant::MIB * MIB)?;
    }
    Ok(())
}

/// Starts what serves the drives with a write cache of their own, before QEMU, which connects to it
/// in `logs`. Each ends with the connection.
pub(super) fn serve(dir: &Path, logs: &Path, backend: Backend) -> Result<Vec<Lossy>> {
    let served = drives(backend).iter().filter(|drive| is_lossy(drive.0));
    served
        .map(|&(name, ..)| Lossy::serve(logs, name, &image(dir, name)))
        .collect()
}

fn is_lossy(name: &str) -> bool {
    LOSSY.contains(&name)
}

/// Adds a drive to QEMU's command line. A discarded block becomes a hole in its image. One with a
/// sector that cannot be read can also keep requests back, when the monitor says so.
fn add_drive(command: &mut Command, dir: &Path, name: &str, unreadable: Option<u64>) {
    let file = image(dir, name);
    let file = file.display();
    let layers = match unreadable {
        Some(sector) => format!(
            "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={file},\
             file.inject-error.0.event=none,file.inject-error.0.iotype=read,\
             file.inject-error.0.sector={sector},file.inject-error.0.errno=5"
        ),
        None if is_lossy(name) => format!(
            "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={}",
            Lossy::socket(name)
        ),
        None => format!("file={file},format=raw"),
    };
    let drive = format!("if=none,id={name},discard=unmap,{layers}");
    command.args(["-drive", &drive]);
}

/// Adds the machine's disks, whose images are in `dir`, to QEMU's command line.
pub(super) fn add(command: &mut Command, dir: &Path, setup: &Setup) {
    let mut namespaces = 0;
    for (number, &(name, _, _, model)) in drives(setup.backend).iter().enumerate() {
        let unreadable = (name == UNREADABLE.0).then_some(UNREADABLE.1);
        add_drive(command, dir, name, unreadable);
        let device = match model {
            Model::Namespace(block) => {
                namespaces += 1;
                if namespaces == 1 {
                    command.args([
                        "-device",
                        &format!("nvme,id={CONTROLLER},serial=spindle0,addr={NVME_SLOT}"),
                    ]);
                }
                format!(
                    "nvme-ns,bus={CONTROLLER},drive={name},nsid={namespaces},\
                     logical_block_size={block},physical_block_size={block}"
                )
            }
            Model::Nvme => format!(
                "nvme,drive={name},serial=spindle{number},addr={}",
                NVME_SLOT + number
            ),
            Model::Virtio(slot) => format!(
                "virtio-blk-pci,drive={name},serial={name},addr={slot},num-queues=4,\
                 physical_block_size=4096,iommu_platform=on,disable-legacy=on"
            ),
        };
        command.args(["-device", &device]);
    }
    for namespace in setup.variant.namespaces() {
        add_drive(command, dir, namespace.drive, namespace.unreadable);
    }
    setup.variant.add(command);
}
