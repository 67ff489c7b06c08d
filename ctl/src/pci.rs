//! A disk's PCI function as dom0 sees it in sysfs: what it is, who drives it, where BAR 0 is, and
//! whether dom0 itself uses the disk.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};

use crate::host::Host;
use crate::store;

const PAGE: u64 = 4096;
/// Class codes as sysfs has them: NVMe, and the two under which virtio disks come.
const NVME: u32 = 0x01_0802;
const SCSI: u32 = 0x01_0000;
const STORAGE: u32 = 0x01_8000;
const VIRTIO_VENDOR: u32 = 0x1af4;
/// Linux' IORESOURCE_MEM and IORESOURCE_UNSET, in a line of `resource`.
const MEMORY: u64 = 0x200;
const UNSET: u64 = 0x2000_0000;

/// A PCI address: `0000:01:00.0`, or `01:00.0` in domain 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bdf {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for Bdf {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let (front, function) = text.split_once('.')?;
            let mut parts = front.rsplit(':');
            let device = hex(parts.next()?, 2)?;
            let bus = hex(parts.next()?, 2)?;
            let domain = parts.next().map_or(Some(0), |domain| hex(domain, 4))?;
            let function = hex(function, 1)?;
            (parts.next().is_none() && device < 32 && function < 8).then_some(Self {
                domain,
                bus: u8::try_from(bus).ok()?,
                device: u8::try_from(device).ok()?,
                function: u8::try_from(function).ok()?,
            })
        };
        match parsed() {
            Some(bdf) => Ok(bdf),
            None => bail!("\"{text}\" is no PCI address such as 0000:01:00.0; see `lspci -D`"),
        }
    }
}

fn hex(digits: &str, most: usize) -> Option<u16> {
    let plain = (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| plain)
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, bus, device, function) = (self.domain, self.bus, self.device, self.function);
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl Bdf {
    /// A file of the function in sysfs.
    pub(crate) fn sysfs(self, file: &str) -> String {
        format!("/sys/bus/pci/devices/{self}/{file}")
    }
}

/// What kind of disk a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An NVMe controller.
    Nvme,
    /// A virtio disk.
    Virtio,
}

/// A memory BAR, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frames {
    /// The first machine frame.
    pub(crate) first: u64,
    /// How many pages.
    pub(crate) pages: u64,
}

/// A function that holds a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Where it is.
    pub(crate) bdf: Bdf,
    /// What it is.
    pub(crate) kind: Kind,
    /// Who drives it in dom0.
    pub(crate) driver: Option<String>,
}

impl Device {
    /// The driver that holds functions for other domains.
    pub(crate) const PCIBACK: &str = "pciback";

    /// Looks at a function, and makes sure that it is a disk that dom0 can give away.
    ///
    /// # Errors
    /// If there is none, it is no disk, or dom0 uses it.
    pub(crate) fn inspect(host: &mut impl Host, bdf: Bdf) -> Result<Self> {
        let Ok(class) = host.read(&bdf.sysfs("class")) else {
            bail!("there is no PCI device {bdf}; `lspci -D | grep -i nvme` lists NVMe disks");
        };
        let vendor = host.read(&bdf.sysfs("vendor")).unwrap_or_default();
        let kind = match (number(&class), number(&vendor)) {
            (Some(NVME), _) => Kind::Nvme,
            (Some(SCSI | STORAGE), Some(VIRTIO_VENDOR)) => Kind::Virtio,
            _ => bail!(
                "PCI device {bdf} has class {}, which is no NVMe controller (0x010802) and no \
                 virtio disk; `lspci -D` shows what there is",
                class.trim()
            ),
        };
        let driver = host.link(&bdf.sysfs("driver"));
        let device = Self { bdf, kind, driver };
        device.check_unused(host)?;
        Ok(device)
    }

    /// Whether xl can give it to a domain without further ado.
    pub(crate) fn is_assignable(&self) -> bool {
        self.driver.as_deref() == Some(Self::PCIBACK)
    }

    /// Where BAR 0 is.
    ///
    /// # Errors
    /// If its registers are no whole pages of memory.
    pub(crate) fn registers(&self, host: &mut impl Host) -> Result<Frames> {
        let bdf = self.bdf;
        let text = host.read(&bdf.sysfs("resource"))?;
        let line = text.lines().next().unwrap_or_default();
        let numbers: Vec<u64> = line.split_whitespace().map_while(wide).collect();
        let [start, end, flags] = numbers[..] else {
            bail!("cannot read BAR 0 of {bdf} from \"{line}\"");
        };
        let set = flags & MEMORY != 0 && flags & UNSET == 0 && start != 0 && end > start;
        ensure!(
            set,
            "BAR 0 of {bdf} has no memory address; let the firmware or dom0 (pci=realloc) set it"
        );
        let size = (end - start).saturating_add(1);
        ensure!(
            start.is_multiple_of(PAGE) && size.is_multiple_of(PAGE),
            "BAR 0 of {bdf} ({start:#x}..{end:#x}) shares a page with something else; boot dom0 \
             with pci=resource_alignment={bdf}, or use --route hvm"
        );
        Ok(Frames {
            first: start / PAGE,
            pages: size / PAGE,
        })
    }

    /// Makes sure that nothing in dom0 has the disk mounted, swaps to it, builds on it, has it open
    /// for itself or serves it to guests.
    fn check_unused(&self, host: &mut impl Host) -> Result<()> {
        let disks = self.block_devices(host);
        let mut users = Vec::new();
        for (file, what) in [("/proc/mounts", "mounted"), ("/proc/swaps", "swap space")] {
            let text = host.read(file).unwrap_or_default();
            for disk in &disks {
                let path = format!("/dev/{disk}");
                let used = text.lines().filter_map(|line| line.split(' ').next());
                let mut used = used.filter(|device| is_part(device, &path));
                users.extend(used.next().map(|device| format!("{device} is {what}")));
            }
        }
        for disk in &disks {
            let parts = std::iter::once(disk.clone()).chain(partitions(host, disk));
            for part in parts.collect::<Vec<_>>() {
                let holders = host.list(&format!("/sys/class/block/{part}/holders"));
                let holders = holders.unwrap_or_default();
                users.extend(
                    holders
                        .iter()
                        .map(|h| format!("/dev/{part} is part of {h}")),
                );
                users.extend(served(host, &part).map(|guest| {
                    format!("/dev/{part} is a disk of guest {guest}; see `xl block-list {guest}`")
                }));
                // What has been found so far is in use as well, and better explained.
                let path = format!("/dev/{part}");
                if users.is_empty() && host.is_taken(&path) {
                    users.push(format!(
                        "{path} is in use; `fuser -v {path}` may show by whom"
                    ));
                }
            }
        }
        ensure!(
            users.is_empty(),
            "dom0 uses the disk at {}: {}; it cannot be given away until that ends",
            self.bdf,
            users.join(", ")
        );
        Ok(())
    }

    /// The disks that dom0's driver has made of the function: `nvme0n1`, `vda`.
    fn block_devices(&self, host: &mut impl Host) -> Vec<String> {
        let mut disks = Vec::new();
        for controller in host.list(&self.bdf.sysfs("nvme")).unwrap_or_default() {
            let folder = self.bdf.sysfs(&format!("nvme/{controller}"));
            let names = host.list(&folder).unwrap_or_default();
            let names = names.iter().filter(|name| name.starts_with("nvme"));
            disks.extend(names.map(|name| without_path(name)));
        }
        let functions = host.list(&self.bdf.sysfs("")).unwrap_or_default();
        for virtio in functions.iter().filter(|name| name.starts_with("virtio")) {
            let folder = self.bdf.sysfs(&format!("{virtio}/block"));
            disks.extend(host.list(&folder).unwrap_or_default());
        }
        disks
    }
}

/// The guest that dom0 itself, or its QEMU, serves the disk or partition `name` to.
fn served(host: &mut impl Host, name: &str) -> Option<String> {
    let number = host.read(&format!("/sys/class/block/{name}/dev"));
    let number = number.ok().and_then(|text| {
        let (major, minor) = text.trim().split_once(':')?;
        let hex = |part: &str| part.parse::<u32>().map(|part| format!("{part:x}"));
        Some(format!("{}:{}", hex(major).ok()?, hex(minor).ok()?))
    });
    let backends = format!("{}/backend", store::home(0));
    let nodes = store::tree(host, &backends);
    for (path, value) in &nodes {
        let found = path.rsplit_once('/').and_then(|(device, key)| {
            let place = device.strip_prefix(&backends)?;
            Some((device, key, place))
        });
        let Some((device, key, place)) = found else {
            continue;
        };
        let mut place = place.split('/').skip(1);
        let (Some("vbd" | "qdisk"), Some(guest)) = (place.next(), place.next()) else {
            continue;
        };
        // XenbusState: 6 is closed.
        let closed = nodes.get(&format!("{device}/state"));
        if closed.is_some_and(|state| state == "6") {
            continue;
        }
        let is_it = match key {
            "physical-device" => number.as_ref() == Some(value),
            // `/dev/sda1`, `aio:/dev/sda1`; or a link such as those of /dev/disk.
            "params" => value.find('/').is_some_and(|at| {
                let file = &value[at..];
                file == format!("/dev/{name}") || host.link(file).is_some_and(|to| to == name)
            }),
            _ => false,
        };
        if is_it {
            return Some(guest.to_string());
        }
    }
    None
}

/// A multipath name such as `nvme0c1n1`, as the disk that dom0 shows: `nvme0n1`.
fn without_path(name: &str) -> String {
    let path = name.find('c').zip(name.rfind('n'));
    match path {
        Some((c, n)) if c < n => format!("{}{}", &name[..c], &name[n..]),
        _ => name.to_string(),
    }
}

fn partitions(host: &mut impl Host, disk: &str) -> Vec<String> {
    let names = host.list(&format!("/sys/class/block/{disk}"));
    let mut names = names.unwrap_or_default();
    names.retain(|name| name.starts_with(disk));
    names
}

/// Whether `device` is the disk at `path` or a partition of it.
fn is_part(device: &str, path: &str) -> bool {
    let Some(rest) = device.strip_prefix(path) else {
        return false;
    };
    let digits = rest.strip_prefix('p').unwrap_or(rest);
    digits.bytes().all(|b| b.is_ascii_digit())
        && (rest.is_empty()
            || rest.starts_with('p')
            || path.ends_with(|c: char| !c.is_ascii_digit()))
}

fn number(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

fn wide(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{BDF, Fake};

    #[test]
    fn addresses_are_read_with_and_without_a_domain() {
        for text in ["0000:01:00.0", "01:00.0", "1:0.0"] {
            assert_eq!(text.parse::<Bdf>().expect(text).to_string(), "0000:01:00.0");
        }
        assert_eq!(
            "ffff:ff:1f.7".parse::<Bdf>().expect("one").to_string(),
            "ffff:ff:1f.7"
        );
        for bad in [
            "",
            "01:00",
            "01:20.0",
            "01:00.8",
            "1:2:3:4.5",
            "01:00.0,seize=1",
            "x:00.0",
            "+1:00.0",
        ] {
            assert!(bad.parse::<Bdf>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_nvme_controller_is_known_with_its_driver_and_registers() {
        let mut host = Fake::with_nvme("nvme");
        let device = Device::inspect(&mut host, BDF.parse().expect("an address"));
        let device = device.expect("a disk");
        assert_eq!((device.kind, device.is_assignable()), (Kind::Nvme, false));
        let frames = device.registers(&mut host).expect("registers");
        assert_eq!((frames.first, frames.pages), (0xfebf8, 4));
    }

    #[test]
    fn a_disk_that_dom0_uses_is_not_given_away() {
        let bdf = BDF.parse().expect("an address");
        let refused = |change: &dyn Fn(&mut Fake)| {
            let mut host = Fake::with_nvme("nvme");
            change(&mut host);
            let device = Device::inspect(&mut host, bdf);
            device.expect_err("it is used").to_string()
        };
        let mounted = refused(&|host| host.put("/proc/mounts", "/dev/nvme0n1p2 / ext4 rw 0 0\n"));
        assert!(mounted.contains("/dev/nvme0n1p2 is mounted"), "{mounted}");
        let swap = refused(&|host| host.put("/proc/swaps", "/dev/nvme0n1 partition 1 0 -2\n"));
        assert!(swap.contains("/dev/nvme0n1 is swap space"), "{swap}");
        let held = refused(&|host| {
            host.put("/sys/class/block/nvme0n1/nvme0n1p1/partition", "1");
            host.put("/sys/class/block/nvme0n1p1/holders/dm-0", "");
        });
        assert!(held.contains("/dev/nvme0n1p1 is part of dm-0"), "{held}");
        let taken = refused(&|host| {
            host.put("/sys/class/block/nvme0n1/nvme0n1p1/partition", "1");
            host.taken.push("/dev/nvme0n1p1".into());
        });
        assert!(taken.contains("/dev/nvme0n1p1 is in use"), "{taken}");
        let mut other = Fake::with_nvme("nvme");
        other.put("/proc/mounts", "/dev/nvme0n10 / ext4 rw 0 0\n");
        assert!(Device::inspect(&mut other, bdf).is_ok());
    }

    #[test]
    fn a_disk_that_dom0_serves_to_guests_is_not_given_away() {
        let bdf = BDF.parse().expect("an address");
        let inspect = |device: &str, key: &str, value: &str, state: &str| {
            let mut host = Fake::with_nvme("nvme");
            host.put("/sys/class/block/nvme0n1/nvme0n1p1/partition", "1");
            host.put("/sys/class/block/nvme0n1p1/dev", "259:26\n");
            host.store("/local/domain/0/backend", "");
            let backend = format!("/local/domain/0/backend/{device}");
            host.store(&format!("{backend}/{key}"), value);
            host.store(&format!("{backend}/state"), state);
            Device::inspect(&mut host, bdf)
        };
        for (device, key, value) in [
            ("vbd/7/51712", "params", "/dev/nvme0n1p1"),
            ("vbd/7/51712", "params", "/dev/nvme0n1"),
            ("vbd/7/51712", "physical-device", "103:1a"),
            ("qdisk/7/51712", "params", "aio:/dev/nvme0n1p1"),
        ] {
            let error = inspect(device, key, value, "4").expect_err("a guest has it");
            let text = error.to_string();
            assert!(text.contains("is a disk of guest 7"), "{value}: {text}");
            assert!(inspect(device, key, value, "6").is_ok(), "no longer");
        }
        for (device, key, value) in [
            ("vbd/7/51712", "params", "/dev/nvme0n10"),
            ("vbd/7/51712", "physical-device", "103:1"),
            ("vif/7/0", "params", "/dev/nvme0n1"),
            ("vbd/7/51712", "mode", "/dev/nvme0n1"),
        ] {
            assert!(inspect(device, key, value, "4").is_ok(), "{value}");
        }
    }

    #[test]
    fn what_is_no_disk_or_has_no_usable_registers_is_refused() {
        let bdf: Bdf = BDF.parse().expect("an address");
        let mut host = Fake::with_nvme("nvme");
        host.put(&bdf.sysfs("class"), "0x020000\n");
        assert!(Device::inspect(&mut host, bdf).is_err());
        let absent = "0000:07:00.0".parse().expect("an address");
        let error = Device::inspect(&mut host, absent).expect_err("none there");
        assert!(error.to_string().contains("lspci -D"), "{error}");
        for bar in [
            "0x0 0x0 0x0",
            "0xfebf8000 0xfebfbfff 0x20140204",
            "0x0000c000 0x0000cfff 0x101",
            "0xfebf8100 0xfebf81ff 0x200",
            "nonsense",
        ] {
            let mut host = Fake::with_nvme("nvme");
            host.put(&bdf.sysfs("resource"), bar);
            let device = Device::inspect(&mut host, bdf).expect("a disk");
            assert!(device.registers(&mut host).is_err(), "{bar}");
        }
    }

    #[test]
    fn partitions_and_multipath_names_are_known() {
        assert!(is_part("/dev/vda", "/dev/vda") && is_part("/dev/vda1", "/dev/vda"));
        assert!(is_part("/dev/nvme0n1p12", "/dev/nvme0n1"));
        assert!(!is_part("/dev/nvme0n11", "/dev/nvme0n1") && !is_part("/dev/vdab", "/dev/vda"));
        assert_eq!(without_path("nvme0c3n1"), "nvme0n1");
        assert_eq!(without_path("nvme12n1"), "nvme12n1");
    }
}
