//! Machines that are not the usual one: another IOMMU, or NVMe controllers that do what some real
//! ones do, beside the usual one. A scenario names the variant that it is for.

use std::process::Command;

use super::Suite;

/// Which machine a scenario is played on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// AMD's IOMMU and a controller with plain namespaces.
    Usual,
    /// The usual one with `ODD_CONTROLLERS`, and what they can be made to do.
    OddControllers,
    /// Intel's IOMMU in place of AMD's, beside the same processor.
    IntelIommu,
}

/// An NVMe controller.
pub(super) struct Controller {
    /// What QEMU calls it; its serial number, too, unless it is part of a subsystem.
    pub(super) name: &'static str,
    /// Its PCI slot.
    pub(super) slot: u8,
    /// Its properties, as QEMU writes them.
    properties: &'static str,
    /// The NVM subsystem that it is part of, whose name is the serial number of all its controllers;
    /// `None`: one of its own.
    subsystem: Option<&'static str>,
    /// Its namespaces, numbered from 1. Other controllers of the subsystem have them, too.
    namespaces: &'static [Namespace],
}

/// A namespace of such a controller.
pub(super) struct Namespace {
    /// The name of its image and drive.
    pub(super) drive: &'static str,
    /// The sector of 512 bytes that cannot be read, if there is one. Such a drive can also keep a
    /// write back.
    pub(super) unreadable: Option<u64>,
    /// Its properties, as QEMU writes them.
    properties: &'static str,
}

/// MiB in the image of such a namespace.
pub(super) const MIB: u64 = 64;

/// A namespace without any properties.
const fn plain(drive: &'static str) -> Namespace {
    Namespace {
        drive,
        unreadable: None,
        properties: "",
    }
}

/// A controller with a subsystem of its own.
const fn alone(
    name: &'static str,
    slot: u8,
    properties: &'static str,
    namespaces: &'static [Namespace],
) -> Controller {
    Controller {
        name,
        slot,
        properties,
        subsystem: None,
        namespaces,
    }
}

/// Each in a slot of its own, by which `rig/dom0-lib.sh` knows them.
const ODD_CONTROLLERS: &[Controller] = &[
    // No limit to what a command may transfer.
    alone("mdts0", 0x9, "mdts=0", &[plain("mdts0")]),
    // At most 8 KiB in a command, the least that QEMU can do.
    alone("mdts1", 0xa, "mdts=1", &[plain("mdts1")]),
    // One queue pair for I/O.
    alone("single", 0xb, "max_ioqpairs=1", &[plain("single")]),
    // Two controllers with the same namespace.
    Controller {
        name: "left",
        slot: 0xc,
        properties: "",
        subsystem: Some("pair"),
        namespaces: &[plain("pair")],
    },
    Controller {
        name: "right",
        slot: 0xd,
        properties: "",
        subsystem: Some("pair"),
        namespaces: &[],
    },
    // Up to two virtual functions, each with three of the queue pairs, one of them for
    // administration, and an interrupt, once the physical one gives them these.
    Controller {
        name: "physical",
        slot: 0xe,
        properties: "max_ioqpairs=8,msix_qsize=9,sriov_max_vfs=2,sriov_vq_flexible=6,\
                     sriov_vi_flexible=2",
        subsystem: Some("virtual"),
        namespaces: &[plain("virtual")],
    },
    // A write has to follow the one before it in its zone.
    alone(
        "zoned",
        0xf,
        "",
        &[Namespace {
            drive: "zoned",
            unreadable: None,
            properties: "zoned=on,zoned.zone_size=4M",
        }],
    ),
    // A controller memory buffer in a BAR of 256 MiB.
    alone("cmb", 0x10, "cmb_size_mb=256", &[plain("cmb")]),
    // One request can fail or be kept back among others of the same queues.
    alone(
        "uneven",
        0x11,
        "",
        &[
            Namespace {
                drive: "uneven",
                unreadable: Some(60 << 11),
                properties: "",
            },
            plain("even"),
        ],
    ),
];

impl Variant {
    /// The controllers that the usual machine has not.
    pub(super) fn controllers(self) -> &'static [Controller] {
        match self {
            Self::OddControllers => ODD_CONTROLLERS,
            Self::Usual | Self::IntelIommu => &[],
        }
    }

    /// QEMU's IOMMU.
    pub(super) fn iommu(self) -> &'static str {
        match self {
            Self::Usual | Self::OddControllers => "amd-iommu",
            Self::IntelIommu => "intel-iommu",
        }
    }

    /// Words for Xen's command line. Xen does not come back from asking the BIOS about each of many
    /// NVMe disks. Beside an AMD processor, too, it has VT-d share the nested page tables of guests,
    /// which are in AMD's format.
    pub(super) fn xen(self) -> &'static str {
        match self {
            Self::Usual => "",
            Self::OddControllers => "edd=off",
            Self::IntelIommu => "iommu=no-sharept",
        }
    }

    /// Whether the suite's Xen boots on it: that of bookworm does not with `edd=off`, and was not
    /// tried with Intel's IOMMU.
    pub(crate) fn boots(self, suite: Suite) -> bool {
        self == Self::Usual || suite == Suite::Trixie
    }

    /// All namespaces of [`Self::controllers`].
    pub(super) fn namespaces(self) -> impl Iterator<Item = &'static Namespace> {
        self.controllers()
            .iter()
            .flat_map(|controller| controller.namespaces)
    }

    /// Adds the controllers to QEMU's command line, to which their drives were added.
    pub(super) fn add(self, command: &mut Command) {
        let controllers = self.controllers();
        for (number, controller) in controllers.iter().enumerate() {
            let Controller {
                name,
                slot,
                properties,
                subsystem,
                namespaces,
            } = controller;
            let serial = subsystem.unwrap_or(name);
            let mut device = format!("nvme,id={name},serial={serial},addr={slot:#x}");
            if let Some(subsystem) = subsystem {
                let is_same = |other: &Controller| other.subsystem == Some(subsystem);
                if !controllers[..number].iter().any(is_same) {
                    command.args(["-device", &format!("nvme-subsys,id={subsystem}")]);
                }
                device += &format!(",subsys={subsystem}");
            }
            command.args(["-device", &with(device, properties)]);
            for (number, namespace) in namespaces.iter().enumerate() {
                let (nsid, drive) = (number + 1, namespace.drive);
                let device = format!("nvme-ns,bus={name},drive={drive},nsid={nsid}");
                command.args(["-device", &with(device, namespace.properties)]);
            }
        }
    }
}

fn with(device: String, properties: &str) -> String {
    if properties.is_empty() {
        device
    } else {
        device + "," + properties
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subsystem_comes_before_the_first_of_its_controllers_and_once() {
        let mut command = Command::new("qemu");
        Variant::OddControllers.add(&mut command);
        let devices: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned())
            .filter(|arg| arg != "-device")
            .collect();
        let at = |device: &str| devices.iter().position(|found| found == device);
        let subsystem = at("nvme-subsys,id=pair").expect("the subsystem");
        let left = at("nvme,id=left,serial=pair,addr=0xc,subsys=pair").expect("one controller");
        let right = at("nvme,id=right,serial=pair,addr=0xd,subsys=pair").expect("the other");
        assert!(subsystem < left && left < right);
        let namespaces = |of: &str| devices.iter().filter(|found| found.contains(of)).count();
        assert_eq!(namespaces("nvme-subsys,id=pair"), 1);
        assert_eq!((namespaces("bus=left"), namespaces("bus=right")), (1, 0));
        assert!(at("nvme-ns,bus=uneven,drive=even,nsid=2").is_some());
    }

    #[test]
    fn no_two_controllers_or_drives_share_a_place() {
        let mut slots: Vec<u8> = ODD_CONTROLLERS.iter().map(|one| one.slot).collect();
        slots.dedup();
        // 5 is the usual controller's, 8 the virtio disk's, 0x1f the chipset's.
        assert_eq!(slots, (9..=0x11).collect::<Vec<u8>>());
        let mut drives: Vec<_> = Variant::OddControllers
            .namespaces()
            .map(|namespace| namespace.drive)
            .collect();
        let number = drives.len();
        drives.sort_unstable();
        drives.dedup();
        assert_eq!(drives.len(), number);
    }
}
