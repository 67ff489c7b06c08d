//! A disk's PCI function as dom0 sees it in sysfs: what it is, who drives it, and where BAR 0 is.
//! Whether dom0 uses the disk is for `usage` to find out.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::host::{Host, found};
use crate::{assign, usage};

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
pub(crate) enum PciKind {
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
pub(crate) struct PciDevice {
    /// Where it is.
    pub(crate) bdf: Bdf,
    /// What it is.
    pub(crate) kind: PciKind,
    /// Who drives it in dom0.
    pub(crate) driver: Option<String>,
}

impl PciDevice {
    /// The driver that holds functions for other domains.
    pub(crate) const PCIBACK: &str = "pciback";

    /// Looks at a function, and makes sure that it is a disk that dom0 can give away.
    ///
    /// # Errors
    /// If there is none, it is no disk, or dom0 uses it.
    pub(crate) fn inspect(host: &mut impl Host, bdf: Bdf) -> Result<Self> {
        let mut file = |name: &str| {
            let path = bdf.sysfs(name);
            found(host.read(&path)).with_context(|| format!("cannot read {path}"))
        };
        let Some(class) = file("class")? else {
            bail!("there is no PCI device {bdf}; `lspci -D | grep -i nvme` lists NVMe disks");
        };
        let vendor = file("vendor")?.unwrap_or_default();
        let functions = file("sriov_numvfs")?.unwrap_or_default();
        ensure!(
            matches!(functions.trim(), "" | "0"),
            "{bdf} has {} virtual functions, which would end with it: `echo 0 > {}` ends them",
            functions.trim(),
            bdf.sysfs("sriov_numvfs")
        );
        let kind = match (number(&class), number(&vendor)) {
            (Some(NVME), _) => PciKind::Nvme,
            (Some(SCSI | STORAGE), Some(VIRTIO_VENDOR)) => PciKind::Virtio,
            _ => bail!(
                "PCI device {bdf} has class {}, which is no NVMe controller (0x010802) and no \
                 virtio disk; `lspci -D` shows what there is",
                class.trim()
            ),
        };
        let driver = assign::driver(host, bdf)?;
        usage::ensure_unused(host, bdf)?;
        Ok(Self { bdf, kind, driver })
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
        let path = bdf.sysfs("resource");
        let text = host.read(&path);
        let text = text.with_context(|| format!("cannot read {path}"))?;
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
}

/// Where the memory BARs are that a file `resource` lists, in whole pages. Those behind a bridge of
/// their own, such as the ROM, come after the first six and are left out.
pub(crate) fn memory(resource: &str) -> Vec<Frames> {
    let bar = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().map_while(wide).collect();
        let [start, end, flags] = numbers[..] else {
            return None;
        };
        let set = flags & MEMORY != 0 && flags & UNSET == 0 && start != 0 && end > start;
        let (first, last) = (start / PAGE, end / PAGE);
        set.then(|| Frames {
            first,
            pages: (last - first).saturating_add(1),
        })
    };
    resource.lines().take(6).filter_map(bar).collect()
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
        let device = PciDevice::inspect(&mut host, BDF.parse().expect("an address"));
        let device = device.expect("a disk");
        assert_eq!(
            (device.kind, device.is_assignable()),
            (PciKind::Nvme, false)
        );
        let frames = device.registers(&mut host).expect("registers");
        assert_eq!((frames.first, frames.pages), (0xfebf8, 4));
    }

    /// Flags are those of Linux' ioport.h: 0x100 I/O ports, 0x200 memory, 0x2000_0000 without an address.
    #[test]
    fn memory_is_every_page_that_a_bar_touches_and_no_port() {
        let frames = |line: &str| memory(line).first().map(|f| (f.first, f.pages));
        assert_eq!(frames("0xfebf0000 0xfebf3fff 0x140204"), Some((0xfebf0, 4)));
        assert_eq!(frames("0xfebf8100 0xfebf81ff 0x200"), Some((0xfebf8, 1)));
        assert_eq!(frames("0xfebf8f00 0xfebf90ff 0x200"), Some((0xfebf8, 2)));
        for none in [
            "0xc000 0xc0ff 0x40101",
            "0x10000 0x1ffff 0x101",
            "0xfebf0000 0xfebf3fff 0x20000200",
            "0x0 0x3fff 0x200",
            "0xfebf0000 0xfebf0000 0x200",
            "0xfebf0000 0xfebeffff 0x200",
            "0xfebf0000 0xfebf3fff",
        ] {
            assert_eq!(frames(none), None, "{none}");
        }
        let six = "0x0 0x0 0x0\n".repeat(6) + "0xfebf0000 0xfebf3fff 0x200\n";
        assert!(memory(&six).is_empty(), "the ROM is behind the BARs");
    }

    #[test]
    fn a_virtio_disk_is_known_by_vendor_and_either_class() {
        let bdf: Bdf = BDF.parse().expect("an address");
        for (class, vendor, is_disk) in [
            ("0x010000\n", "0x1af4\n", true),
            ("0x018000\n", "0x1af4\n", true),
            ("0x010000\n", "0x1000\n", false),
            ("0x020000\n", "0x1af4\n", false),
        ] {
            let mut host = Fake::with_nvme("pciback");
            host.put(&bdf.sysfs("class"), class);
            host.put(&bdf.sysfs("vendor"), vendor);
            let device = PciDevice::inspect(&mut host, bdf).map(|device| device.kind);
            assert_eq!(
                device.ok(),
                is_disk.then_some(PciKind::Virtio),
                "{class}{vendor}"
            );
        }
    }

    #[test]
    fn what_is_no_disk_or_has_no_usable_registers_is_refused() {
        let bdf: Bdf = BDF.parse().expect("an address");
        let mut host = Fake::with_nvme("nvme");
        host.put(&bdf.sysfs("class"), "0x020000\n");
        assert!(PciDevice::inspect(&mut host, bdf).is_err());
        let mut host = Fake::with_nvme("nvme");
        host.put(&bdf.sysfs("sriov_numvfs"), "0\n");
        assert!(PciDevice::inspect(&mut host, bdf).is_ok());
        host.put(&bdf.sysfs("sriov_numvfs"), "2\n");
        let error = PciDevice::inspect(&mut host, bdf).expect_err("it has some");
        let text = error.to_string();
        assert!(text.contains("2 virtual functions"), "{text}");
        let absent = "0000:07:00.0".parse().expect("an address");
        let error = PciDevice::inspect(&mut host, absent).expect_err("none there");
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
            let device = PciDevice::inspect(&mut host, bdf).expect("a disk");
            assert!(device.registers(&mut host).is_err(), "{bar}");
        }
    }
}
