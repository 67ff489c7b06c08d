//! Whether dom0 itself uses a disk: has it mounted, swaps to it, builds on it, has it open, by
//! whichever of its devices, or serves it to guests. What could not be looked at counts as a reason to
//! refuse.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::fault::FaultKind;
use crate::host::{Host, Node, found};
use crate::pci::Bdf;
use crate::store::{self, Nodes};

/// Makes sure that dom0 does not use the disk at `bdf`.
///
/// # Errors
/// If it does, or if that cannot be found out.
pub(crate) fn ensure_unused(host: &mut impl Host, bdf: Bdf) -> Result<()> {
    let disks = block_devices(host, bdf)?;
    let mut users = Vec::new();
    for (file, what) in [("/proc/mounts", "mounted"), ("/proc/swaps", "swap space")] {
        // A kernel without swap has no such file.
        let text = found(host.read(file)).with_context(|| format!("cannot read {file}"))?;
        let text = text.unwrap_or_default();
        for disk in &disks {
            let path = format!("/dev/{disk}");
            let used = text.lines().filter_map(|line| line.split(' ').next());
            let mut used = used.filter(|device| is_part(device, &path));
            users.extend(used.next().map(|device| format!("{device} is {what}")));
        }
    }
    let backends = match disks.is_empty() {
        true => Nodes::new(),
        false => store::tree(host, BACKENDS)?,
    };
    for disk in &disks {
        let parts = partitions(host, disk)?;
        for part in std::iter::once(disk.clone()).chain(parts) {
            let holders = names(host, &format!("/sys/class/block/{part}/holders"))?;
            let holders = holders
                .iter()
                .map(|h| format!("/dev/{part} is part of {h}"));
            users.extend(holders);
            users.extend(served(host, &backends, &part)?.map(|guest| {
                format!("/dev/{part} is a disk of guest {guest}; see `xl block-list {guest}`")
            }));
            // What has been found so far is in use as well, and better explained.
            let path = format!("/dev/{part}");
            if let Some(image) = looped(host, &path)? {
                users.push(format!("{path} is behind {image} (`losetup -d {image}`)"));
            }
            if users.is_empty() {
                let taken = host.is_taken(&path);
                if taken.with_context(|| format!("cannot find out whether {path} is in use"))? {
                    users.push(format!(
                        "{path} is in use; `fuser -v {path}` may show by whom"
                    ));
                }
            }
        }
    }
    if users.is_empty() {
        let nodes = nodes(host, bdf, &disks)?;
        users = openers(host, &nodes)?;
    }
    ensure!(
        users.is_empty(),
        FaultKind::Refused.error(format!(
            "dom0 uses the disk at {bdf}: {}\nit cannot be given away until that ends",
            users.join(", ")
        ))
    );
    Ok(())
}

/// The names in a folder; none if it is not there.
fn names(host: &mut impl Host, folder: &str) -> Result<Vec<String>> {
    let names = found(host.list(folder)).with_context(|| format!("cannot look into {folder}"))?;
    Ok(names.unwrap_or_default())
}

/// The disks that dom0's driver has made of the function: `nvme0n1`, `vda`.
fn block_devices(host: &mut impl Host, bdf: Bdf) -> Result<Vec<String>> {
    let mut disks = Vec::new();
    for controller in names(host, &bdf.sysfs("nvme"))? {
        let names = names(host, &bdf.sysfs(&format!("nvme/{controller}")))?;
        let names = names.iter().filter(|name| name.starts_with("nvme"));
        disks.extend(names.map(|name| without_path(name)));
    }
    let functions = names(host, &bdf.sysfs(""))?;
    for virtio in functions.iter().filter(|name| name.starts_with("virtio")) {
        disks.extend(names(host, &bdf.sysfs(&format!("{virtio}/block")))?);
    }
    Ok(disks)
}

/// How long a program may have a device open that only looks at it, as udev's do.
const GLANCE: Duration = Duration::from_secs(2);
/// How often to look whether it still has.
const LOOK: Duration = Duration::from_millis(250);

/// All devices by which a program can reach the disks: block devices, partitions, the controller,
/// and the namespaces' character devices (`/dev/ng0n1`), which are there for those that dom0 knows no
/// block device for as well. Gives their names.
fn nodes(host: &mut impl Host, bdf: Bdf, disks: &[String]) -> Result<Vec<(String, Node)>> {
    let mut files = Vec::new();
    for disk in disks {
        for part in std::iter::once(disk.clone()).chain(partitions(host, disk)?) {
            files.push((format!("/sys/class/block/{part}/dev"), part));
        }
        if let Some(number) = disk.strip_prefix("nvme") {
            let generic = format!("ng{number}");
            files.push((format!("/sys/class/nvme-generic/{generic}/dev"), generic));
        }
    }
    for controller in names(host, &bdf.sysfs("nvme"))? {
        for name in names(host, &bdf.sysfs(&format!("nvme/{controller}")))? {
            if name.starts_with("ng") {
                files.push((bdf.sysfs(&format!("nvme/{controller}/{name}/dev")), name));
            }
        }
        files.push((bdf.sysfs(&format!("nvme/{controller}/dev")), controller));
    }
    let mut nodes = Vec::new();
    for (file, name) in files {
        let number = found(host.read(&file)).with_context(|| format!("cannot read {file}"))?;
        let number = number.and_then(|text| {
            let (major, minor) = text.trim().split_once(':')?;
            Some(Node {
                block: file.starts_with("/sys/class/block/"),
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        });
        nodes.extend(number.map(|node| (name, node)));
    }
    Ok(nodes)
}

/// The programs that have one of `nodes` open, and not only for a glance.
fn openers(host: &mut impl Host, nodes: &[(String, Node)]) -> Result<Vec<String>> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Vec<Node> = nodes.iter().map(|(_, node)| *node).collect();
    let deadline = host.now().saturating_add(GLANCE);
    loop {
        let openers = host.openers(&numbers);
        let openers = openers.context("cannot find out which programs have the disk open")?;
        if openers.is_empty() || host.now() >= deadline {
            let of = |node: Node| nodes.iter().find(|(_, other)| *other == node);
            let text = openers.iter().map(|opener| {
                let name = of(opener.node).map_or("it", |(name, _)| name);
                let program = crate::tables::text(&opener.program);
                format!("{program} (process {}) has /dev/{name} open", opener.id)
            });
            return Ok(text.collect());
        }
        host.sleep(LOOK);
    }
}

/// The loop device on top of the device at `path`: the kernel has that open, not a program.
fn looped(host: &mut impl Host, path: &str) -> Result<Option<String>> {
    const ALL: &str = "/sys/class/block";
    for name in names(host, ALL)? {
        if !name.starts_with("loop") {
            continue;
        }
        let file = format!("{ALL}/{name}/loop/backing_file");
        // Most are not in use.
        let behind = found(host.read(&file)).with_context(|| format!("cannot read {file}"))?;
        if behind.is_some_and(|behind| behind.trim_end() == path) {
            return Ok(Some(format!("/dev/{name}")));
        }
    }
    Ok(None)
}

/// Where dom0's own backends are.
const BACKENDS: &str = "/local/domain/0/backend";

/// The guest that dom0 itself, or its QEMU, serves the disk or partition `name` to.
fn served(host: &mut impl Host, nodes: &Nodes, name: &str) -> Result<Option<String>> {
    let file = format!("/sys/class/block/{name}/dev");
    let number = found(host.read(&file)).with_context(|| format!("cannot read {file}"))?;
    let number = number.and_then(|text| {
        let (major, minor) = text.trim().split_once(':')?;
        let hex = |part: &str| part.parse::<u32>().map(|part| format!("{part:x}"));
        Some(format!("{}:{}", hex(major).ok()?, hex(minor).ok()?))
    });
    for (path, value) in nodes {
        let found = path.rsplit_once('/').and_then(|(device, key)| {
            let place = device.strip_prefix(BACKENDS)?;
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
            // `/dev/sda1`, `aio:/dev/sda1`; or links to it, such as those of /dev/disk.
            "params" => match value.find('/').map(|at| &value[at..]) {
                Some(file) => leads_to(host, file, name)?,
                None => false,
            },
            _ => false,
        };
        if is_it {
            return Ok(Some(guest.to_string()));
        }
    }
    Ok(None)
}

/// Whether a path is that of the device `name`, by any number of links.
fn leads_to(host: &mut impl Host, file: &str, name: &str) -> Result<bool> {
    let device = format!("/dev/{name}");
    if file == device {
        return Ok(true);
    }
    let real = crate::host::found(host.real(file));
    let real = real.with_context(|| format!("cannot find out where {file} leads"))?;
    Ok(real.is_some_and(|real| real == device))
}

/// A multipath name such as `nvme0c1n1`, as the disk that dom0 shows: `nvme0n1`.
fn without_path(name: &str) -> String {
    let path = name.find('c').zip(name.rfind('n'));
    match path {
        Some((c, n)) if c < n => format!("{}{}", &name[..c], &name[n..]),
        _ => name.to_string(),
    }
}

fn partitions(host: &mut impl Host, disk: &str) -> Result<Vec<String>> {
    let mut names = names(host, &format!("/sys/class/block/{disk}"))?;
    names.retain(|name| name.starts_with(disk));
    Ok(names)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{BDF, Fake};
    use crate::host::Opener;

    #[test]
    fn a_disk_that_dom0_uses_is_not_given_away() {
        let bdf = BDF.parse().expect("an address");
        let refused = |change: &dyn Fn(&mut Fake)| {
            let mut host = Fake::with_nvme("nvme");
            change(&mut host);
            let device = ensure_unused(&mut host, bdf);
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
        let looped = refused(&|host| {
            host.put("/sys/class/block/loop3/loop/backing_file", "/dev/nvme0n1\n");
            host.put("/sys/class/block/loop4/size", "0\n");
        });
        assert!(looped.contains("losetup -d /dev/loop3"), "{looped}");
        let mut other = Fake::with_nvme("nvme");
        other.put(
            "/sys/class/block/loop3/loop/backing_file",
            "/dev/nvme0n10\n",
        );
        other.put("/proc/mounts", "/dev/nvme0n10 / ext4 rw 0 0\n");
        assert!(ensure_unused(&mut other, bdf).is_ok());
    }

    #[test]
    fn a_program_that_has_any_device_of_the_disk_open_is_found() {
        let bdf: Bdf = BDF.parse().expect("an address");
        let disk = || {
            let mut host = Fake::with_nvme("nvme");
            host.put("/sys/class/block/nvme0n1/nvme0n1p1/partition", "1");
            for (file, number) in [
                ("/sys/class/block/nvme0n1/dev".into(), "259:0\n"),
                ("/sys/class/block/nvme0n1p1/dev".into(), "259:1\n"),
                ("/sys/class/nvme-generic/ng0n1/dev".into(), "240:0\n"),
                (bdf.sysfs("nvme/nvme0/dev"), "241:0\n"),
                // A namespace without a block device.
                (bdf.sysfs("nvme/nvme0/ng0n2/dev"), "240:1\n"),
            ] {
                host.put(&file, number);
            }
            host
        };
        for (block, major, minor, name) in [
            (true, 259, 0, "nvme0n1"),
            (true, 259, 1, "nvme0n1p1"),
            (false, 240, 0, "ng0n1"),
            (false, 240, 1, "ng0n2"),
            (false, 241, 0, "nvme0"),
        ] {
            let node = Node {
                block,
                major,
                minor,
            };
            let opener = |node| Opener {
                node,
                program: "qemu\x1b[2J".into(),
                id: 77,
            };
            let mut host = disk();
            host.openers.push(opener(node));
            let error = ensure_unused(&mut host, bdf).expect_err("it is open");
            let words = format!("(process 77) has /dev/{name} open");
            let text = error.to_string();
            assert!(text.contains(&words) && !text.contains('\x1b'), "{text}");
            host.open_until = host.now() + Duration::from_secs(1);
            ensure_unused(&mut host, bdf).expect("only a glance");
            // The same number among the other kind of devices.
            let mut host = disk();
            host.openers.push(opener(Node {
                block: !block,
                ..node
            }));
            ensure_unused(&mut host, bdf).expect("another device");
        }
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
            ensure_unused(&mut host, bdf)
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
        // By links of links.
        let mut host = Fake::with_nvme("nvme");
        host.put("/dev/mapper/data", "->/dev/disk/by-id/nvme-x");
        host.put("/dev/disk/by-id/nvme-x", "->/dev/nvme0n1");
        let backend = "/local/domain/0/backend/vbd/7/51712";
        host.store(&format!("{backend}/params"), "/dev/mapper/data");
        host.store(&format!("{backend}/state"), "4");
        let error = ensure_unused(&mut host, bdf).expect_err("a guest has it");
        assert!(error.to_string().contains("a disk of guest 7"), "{error}");
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
    fn partitions_and_multipath_names_are_known() {
        assert!(is_part("/dev/vda", "/dev/vda") && is_part("/dev/vda1", "/dev/vda"));
        assert!(is_part("/dev/nvme0n1p12", "/dev/nvme0n1"));
        assert!(!is_part("/dev/nvme0n11", "/dev/nvme0n1") && !is_part("/dev/vdab", "/dev/vda"));
        assert_eq!(without_path("nvme0c3n1"), "nvme0n1");
        assert_eq!(without_path("nvme12n1"), "nvme12n1");
        assert_eq!(without_path("nbc0"), "nbc0");
    }
}
