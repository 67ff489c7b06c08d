//! The crates whose tests are tried.

use anyhow::{Result, ensure};

/// A crate whose tests are tried.
pub(super) struct Tested {
    /// What it is called on the command line and in the table.
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    /// Where its sources are.
    pub(super) folder: &'static str,
    /// Other packages whose tests are its tests, too.
    pub(super) also: &'static [&'static str],
}

const fn driver(name: &'static str, package: &'static str, folder: &'static str) -> Tested {
    Tested {
        name,
        package,
        folder,
        also: &[],
    }
}

/// All of them; smaller ones first. testkit and the fuzz targets are tests themselves.
pub(super) const CRATES: [Tested; 15] = [
    driver("config", "spindle-config", "drivers/config"),
    driver("pci", "spindle-pci", "drivers/pci"),
    driver("hw", "spindle-hw", "drivers/hw"),
    driver("status", "spindle-status", "drivers/status"),
    driver("kept", "spindle-kept", "drivers/kept"),
    driver("limits", "spindle-limits", "drivers/limits"),
    driver("lvm", "spindle-lvm", "drivers/lvm"),
    Tested {
        also: &["spindle-control"],
        ..driver("block", "spindle-block", "drivers/block")
    },
    driver("datapath", "spindle-datapath", "kernel/datapath"),
    driver("control", "spindle-control", "kernel/control"),
    driver("virtio", "spindle-virtio", "drivers/virtio"),
    driver("xen", "spindle-xen", "drivers/xen"),
    driver("ctl", "spindlectl", "ctl"),
    driver("nvme", "spindle-nvme", "drivers/nvme"),
    Tested {
        also: &["spindle-control"],
        ..driver("blkif", "spindle-blkif", "drivers/blkif")
    },
];

/// The crates of these names, or all.
///
/// # Errors
/// There is no crate of such a name.
pub(super) fn choose(names: &[String]) -> Result<Vec<&'static Tested>> {
    let is = |tested: &Tested, name: &str| name == tested.name || name == tested.package;
    for name in names {
        let known = CRATES.map(|tested| tested.name).join(" ");
        ensure!(
            CRATES.iter().any(|tested| is(tested, name)),
            "no crate is called \"{name}\"; there are: {known}"
        );
    }
    let asked = |tested: &&Tested| names.is_empty() || names.iter().any(|name| is(tested, name));
    Ok(CRATES.iter().filter(asked).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::Context;

    use super::*;
    use crate::root;

    #[test]
    fn every_crate_is_where_it_is_said_to_be() -> Result<()> {
        for tested in &CRATES {
            let manifest = root().join(tested.folder).join("Cargo.toml");
            let text = fs::read_to_string(&manifest)?;
            let name = format!("name = \"{}\"", tested.package);
            assert!(text.contains(&name), "{}", manifest.display());
        }
        Ok(())
    }

    #[test]
    fn no_driver_is_left_out() -> Result<()> {
        for folder in fs::read_dir(root().join("drivers"))? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            let name = folder.file_name();
            let name = name.to_str().context("a name")?;
            let is_test = name == "testkit" || name == "fuzz";
            let folder = format!("drivers/{name}");
            let is_tried = CRATES.iter().any(|tested| tested.folder == folder);
            assert_ne!(is_tried, is_test, "{folder}");
        }
        Ok(())
    }

    #[test]
    fn a_crate_goes_by_either_name_and_others_are_refused() -> Result<()> {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            choose(&names).map(|chosen| chosen.iter().map(|c| c.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["spindle-xen", "ctl"])?, ["xen", "ctl"]);
        assert_eq!(names(&[])?.len(), CRATES.len());
        assert!(names(&["testkit"]).is_err());
        Ok(())
    }
}
