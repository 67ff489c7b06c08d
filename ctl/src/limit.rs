//! `limit`: sets or shows the limits and the weight of a guest's disk, or of a group of disks.
//!
//! The order is a node in xenstore that the kernel reads and clears. It begins with a word that the
//! answer, another node, begins with, too.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spindle_limits::IoLimits;
use spindle_status::path;

use crate::host::Host;
use crate::order;
use crate::spindle::{self, PublishedDisk, Spindle};
use crate::store;
use crate::tables;

/// Sets the limits of `whose`, `GUEST/DISK` or `@GROUP`, as far as `words` names them; gives what holds
/// then, in words.
///
/// # Errors
/// If there is no such Spindle or disk, if the words are no limits, if the Spindle refuses or does not
/// answer within `patience`, or if xenstore does not answer.
pub(crate) fn limit(
    host: &mut impl Host,
    name: &str,
    whose: &str,
    words: &[String],
    patience: Duration,
) -> Result<String> {
    let all = Spindle::all(host)?;
    let spindle = spindle::named(&all, name)?;
    let subject = subject(spindle, whose)?;
    let words = words.join(":");
    let mut limits = IoLimits::default();
    limits.set_all(&words)?;
    ensure!(
        !limits.names_group() || !subject.starts_with('@'),
        "a group is in no other group"
    );
    if !words.is_empty() {
        ensure!(
            spindle.ready,
            "{name} does not serve yet: wait until `spindlectl list` says that it does"
        );
        let order = format!("{} {subject} {words}", host.now().as_nanos());
        let nodes = (path::LIMIT, path::LIMITED);
        order::give(host, spindle, nodes, &order, ("limits", patience))?;
    }
    let of = subject.replace('/', "-");
    let node = format!("{}/{}/{of}", store::home(spindle.id), path::LIMITS);
    let holds = store::read(host, &node)?.unwrap_or_default();
    Ok(tables::text(&holds))
}

/// Who is meant, as the kernel names it.
fn subject(spindle: &Spindle, whose: &str) -> Result<String> {
    if let Some(group) = whose.strip_prefix('@') {
        IoLimits::default().set_all(&format!("group={group}"))?;
        return Ok(whose.into());
    }
    let (guest, vdev) = whose.split_once('/').with_context(|| {
        format!("\"{whose}\" is neither GUEST/DISK, such as web/xvda, nor @GROUP")
    })?;
    let is_it = |disk: &&PublishedDisk| {
        let named = disk.guest_name == guest || disk.guest.to_string() == guest;
        named && (disk.vdev == vdev || disk.device.to_string() == vdev)
    };
    let mut found = spindle.disks.iter().filter(is_it);
    let name = &spindle.name;
    let disk = found.next().with_context(|| {
        format!(
            "{name} serves no disk {vdev} to a guest {guest}; `spindlectl list` shows who has which"
        )
    })?;
    ensure!(
        found.next().is_none(),
        "{whose} means several disks of {name}; name the guest by its number"
    );
    Ok(format!("{}/{}", disk.guest, disk.device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn set(host: &mut Fake, whose: &str, words: &[&str]) -> Result<String> {
        let words: Vec<_> = words.iter().map(|&word| word.to_string()).collect();
        limit(host, "spindle", whose, &words, PATIENCE)
    }

    #[test]
    fn limits_are_set_by_names_and_shown() {
        let mut host = Fake::serving();
        assert_eq!(set(&mut host, "web/xvda", &[]).unwrap(), "");
        let words = ["iops=500", "weight=2"];
        let said = set(&mut host, "web/xvda", &words).unwrap();
        assert_eq!(said, "iops=500:weight=2");
        assert_eq!(set(&mut host, "5/51712", &[]).unwrap(), "iops=500:weight=2");
        let said = set(&mut host, "@db", &["bandwidth=5M"]).unwrap();
        assert_eq!(said, "bandwidth=5M");
        let orders = host.calls.iter().filter(|call| call.changes);
        let orders: Vec<_> = orders.map(|call| call.text.as_str()).collect();
        let node = "xenstore-write /local/domain/3/data/spindle/limit";
        assert_eq!(orders.len(), 2);
        assert!(orders[0].starts_with(node) && orders[0].ends_with(" 5/51712 iops=500:weight=2'"));
        assert!(orders[1].ends_with(" @db bandwidth=5M'"), "{}", orders[1]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason_before_anything_is_asked() {
        let mut host = Fake::serving();
        for (whose, words, text) in [
            ("web/xvdb", "iops=5", "serves no disk xvdb to a guest web"),
            ("web", "iops=5", "neither GUEST/DISK"),
            ("@a/b", "iops=5", "no value for group"),
            ("web/xvda", "iops=0", "no value for iops"),
            ("web/xvda", "iop=5", "\"iop\" is no limit"),
            ("@db", "group=a", "a group is in no other group"),
        ] {
            let error = set(&mut host, whose, &[words]).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let words = ["iops=5".to_string()];
        let error = limit(&mut host, "other", "web/xvda", &words, PATIENCE).unwrap_err();
        assert!(error.to_string().starts_with("no Spindle named other"));
        assert!(!host.made("xenstore-write"));
        // And what the kernel refuses.
        host.store("/local/domain/3/backend/vbd/5/51728/state", "2");
        host.store("/local/domain/3/backend/vbd/5/51728/dev", "xvdb");
        let error = set(&mut host, "web/xvdb", &["iops=5"])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "spindle: refused: 5/51728 has no disk here");
        host.deaf = true;
        let error = set(&mut host, "web/xvda", &["iops=5"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("has not answered within 10 s"), "{error}");
    }
}
