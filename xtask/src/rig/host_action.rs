//! What a scenario can ask of the host while it runs, by the mark `host`: to act on the machine
//! through QEMU's monitor, or to look at a disk's image. The answer goes down the line to dom0. (Who
//! ended a guest is known to `ends`, and asked for in `talk`.)

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::channel::Mark;
use super::monitor::Monitor;
use super::{disk, drives};

/// MiB.
const MIB: u64 = 1 << 20;

/// Does what the mark asks for, on a machine whose images are in `dir`; gives the answer. `logs`
/// is a place for files that are not kept.
pub(super) fn perform(mark: &Mark, monitor: &Monitor, dir: &Path, logs: &Path) -> Result<String> {
    let name = mark.get("disk");
    let image = || {
        let image = drives::image(dir, name);
        ensure!(
            is_plain(name) && image.exists(),
            "there is no disk {name:?}"
        );
        Ok(image)
    };
    let done = |()| String::from("done");
    match mark.get("action") {
        "resize" => {
            image()?;
            monitor.resize(name, number(mark, "mib")? * MIB).map(done)
        }
        "throttle" => {
            image()?;
            monitor.throttle(name, number(mark, "bytes")?).map(done)
        }
        "warn" => {
            let bits = u8::try_from(number(mark, "bits")?)?;
            monitor.warn(drives::CONTROLLER, bits).map(done)
        }
        "hold" => {
            image()?;
            monitor.hold(name).map(done)
        }
        "release" => {
            image()?;
            monitor.release(name).map(done)
        }
        "pull" => {
            let controller = mark.get("controller");
            ensure!(is_plain(controller), "there is no {controller:?}");
            monitor.pull(controller).map(done)
        }
        // KiB of the image that are not holes.
        "allocated" => Ok((image()?.metadata()?.blocks() / 2).to_string()),
        "sum" => {
            let (start, len) = (number(mark, "start")?, number(mark, "mib")?);
            disk::range_sum(&image()?, start * MIB, len * MIB)
        }
        "check" => disk::check(&image()?),
        "tree" => disk::tree_sum(&image()?, &logs.join("tree")),
        other => bail!("the host does not know how to {other:?}"),
    }
}

/// Whether it can be a part of a path or of a command to QEMU.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn number(mark: &Mark, key: &str) -> Result<u64> {
    let value = mark.get(key);
    value
        .parse()
        .with_context(|| format!("{key}={value:?} is no number"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn answer(text: &str) -> String {
        let dir = std::env::temp_dir().join(format!("spindle-host-action-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        disk::create(&drives::image(&dir, "nvme"), 4 * MIB).expect("an image");
        let monitor = Monitor::add(&mut Command::new("qemu"), &dir);
        let mark = Mark::parse(text).expect("a mark");
        let answer = perform(&mark, &monitor, &dir, &dir);
        std::fs::remove_dir_all(&dir).expect("removed");
        answer.unwrap_or_else(|error| format!("{error:#}"))
    }

    #[test]
    fn only_known_actions_on_disks_that_there_are_are_performed() {
        assert_eq!(answer("host action=allocated disk=nvme"), "0");
        assert_eq!(
            answer("host action=sum disk=nvme start=1 mib=1"),
            "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"
        );
        for (action, refused) in [
            ("host action=allocated disk=../nvme", "no disk"),
            ("host action=resize disk=other mib=1", "no disk"),
            ("host action=throttle disk=nvme bytes=few", "no number"),
            ("host action=warn bits=256", "out of range"),
            ("host action=hold disk=other", "no disk"),
            ("host action=pull controller=a/b", "there is no"),
            ("host action=quit", "does not know"),
            // It would be done, were QEMU there.
            ("host action=resize disk=nvme mib=1", "monitor"),
        ] {
            let answer = answer(action);
            assert!(answer.contains(refused), "{action}: {answer}");
        }
    }
}
