//! `rescan`: has a running Spindle look at its disks again, and prints what it says of them.
//!
//! It is asked in xenstore by a node that only has to be written. The answer is a node that starts
//! with the number of answers so far, so that it is another one each time, and has a line for each
//! controller or disk, and for each volume that could not follow what its table or metadata say by now.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spindle_status::orders::Rescanned;
use spindle_status::path;

use crate::fault::FaultKind;
use crate::host::Host;
use crate::spindle::{self, Spindle};
use crate::store;

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// Asks the Spindle of this name; gives what it says of its disks, or of `disk` alone.
///
/// # Errors
/// If there is none that serves, if it has no such disk, if there is no answer within `patience`, or
/// if xenstore does not answer.
pub(crate) fn rescan(
    host: &mut impl Host,
    name: &str,
    disk: Option<&str>,
    patience: Duration,
) -> Result<String> {
    let all = Spindle::all(host)?;
    let spindle = spindle::named(&all, name)?;
    if !spindle.ready {
        let why = format!("{name} does not serve yet: it looks at its disks when it starts");
        return Err(FaultKind::Refused.error(why));
    }
    let node = |path: &str| format!("{}/{path}", store::home(spindle.id));
    let before = store::read(host, &node(path::RESCANNED))?;
    let deadline = host.now().saturating_add(patience);
    store::write(host, &node(path::RESCAN), "1").with_context(|| format!("cannot ask {name}"))?;
    let answer = loop {
        let answer = store::read(host, &node(path::RESCANNED))?;
        if answer != before
            && let Some(answer) = answer
        {
            break answer;
        }
        ensure!(!host.interrupted(), "interrupted before {name} answered");
        if host.now() >= deadline {
            return Err(FaultKind::Late.error(format!(
                "{name} was asked, but has not answered within {} s\nits console shows what it does",
                patience.as_secs()
            )));
        }
        host.sleep(LOOK);
    };
    let lines = Rescanned::parse(&answer).unwrap_or_default().lines;
    let Some(disk) = disk else {
        return Ok(lines.join("\n"));
    };
    let of_disk = |line: &String| {
        let word = line.split(' ').next().unwrap_or_default();
        word == disk || word.ends_with(':') && is_on(word.trim_end_matches(':'), disk)
    };
    let lines: Vec<_> = lines.into_iter().filter(of_disk).collect();
    if lines.is_empty() {
        return Err(FaultKind::Absent.error(format!("{name} has no controller or disk {disk}")));
    }
    Ok(lines.join("\n"))
}

/// Whether a volume of this name may be on a controller or disk: logical volumes may be on any.
fn is_on(volume: &str, disk: &str) -> bool {
    let rest = volume.strip_prefix(disk);
    volume.contains('/') || rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create::{Failing, create};
    use crate::fake::{Fake, wanted};
    use crate::plan::{Plan, Route};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn serving() -> Fake {
        let mut host = Fake::with_nvme("nvme");
        let plan = Plan::new(&mut host, &wanted(Route::Hvm), None).expect("a plan");
        create(&mut host, &plan, PATIENCE, Failing::Undo, &mut |_| {}).expect("created");
        host
    }

    #[test]
    fn a_spindle_that_serves_is_asked_and_its_answer_is_given() {
        let mut host = Fake::with_nvme("nvme");
        let error = rescan(&mut host, "spindle", None, PATIENCE).unwrap_err();
        assert!(error.to_string().starts_with("no Spindle named spindle"));
        let mut host = serving();
        for _ in 0..2 {
            let before = host.calls.len();
            let answer = rescan(&mut host, "spindle", None, PATIENCE).expect("an answer");
            assert_eq!(answer, "nvme0 works\nnvme1 is lost: gone");
            let changes = host.calls[before..].iter().filter(|call| call.changes);
            let calls: Vec<_> = changes.map(|call| call.text.as_str()).collect();
            assert_eq!(
                calls,
                ["xenstore-write /local/domain/3/data/spindle/rescan 1"]
            );
        }
        let one = rescan(&mut host, "spindle", Some("nvme1"), PATIENCE).expect("an answer");
        assert_eq!(one, "nvme1 is lost: gone");
        let error = rescan(&mut host, "spindle", Some("nvme"), PATIENCE).unwrap_err();
        assert!(error.to_string().contains("has no controller or disk nvme"));
        assert!(rescan(&mut host, "other", None, PATIENCE).is_err());
    }

    #[test]
    fn what_stays_as_it_was_on_a_disk_is_named_with_that() {
        for (volume, disk, expected) in [
            ("nvme0n1p2", "nvme0", true),
            ("nvme0n1p2", "nvme0n1", true),
            ("nvme10n1", "nvme1", false),
            ("vda1", "vdb", false),
            ("vg0/web", "nvme0", true),
        ] {
            assert_eq!(is_on(volume, disk), expected, "{volume}, {disk}");
        }
    }

    #[test]
    fn one_that_does_not_answer_is_not_waited_for_without_end() {
        let mut host = serving();
        rescan(&mut host, "spindle", None, PATIENCE).expect("an answer");
        host.deaf = true;
        let before = host.now();
        let error = rescan(&mut host, "spindle", None, PATIENCE).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("has not answered within 30 s"), "{text}");
        let took = host.now() - before;
        assert!((PATIENCE..2 * PATIENCE).contains(&took), "{took:?}");
    }
}
