//! `set`: sets options while a Spindle runs, of which nothing else depends on what they were, and says of
//! the others why not and what to do. They hold over a death and an update of the kernel.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use spindle_config::Config;
use spindle_status::path;

use crate::fault::FaultKind;
use crate::host::Host;
use crate::order;
use crate::spindle::{self, Spindle};
use crate::store;
use crate::tables;

/// Why an option cannot be set while the kernel runs, by how it begins, and what to do.
const OTHERS: [(&str, &str, &str); 10] = [
    (
        "limits",
        "disks have limits of their own by then",
        "`spindlectl limit NAME GUEST/DISK` sets them",
    ),
    (
        "group",
        "groups have limits of their own by then",
        "`spindlectl limit NAME @GROUP` sets them",
    ),
    ("queues", "guests have been offered queues", ""),
    (
        "ring_order",
        "guests have been offered rings of that size",
        "",
    ),
    (
        "path",
        "guests have agreed on how their memory is reached",
        "",
    ),
    ("io_timeout", "controllers are started with it", ""),
    ("partitions", "tables are read as disks are found", ""),
    (
        "drill",
        "who may have the kernel die is decided before it serves",
        "",
    ),
    (
        "ram",
        "memory is given to RAM disks before anything else",
        "",
    ),
    ("n", "disks are found as the kernel starts", ""),
];

/// Sets options, if there are any; gives those that are set.
///
/// # Errors
/// If there is no such Spindle or option, if it cannot be set now, or if there is no answer in time.
pub(crate) fn set(
    host: &mut impl Host,
    name: &str,
    words: &[String],
    patience: Duration,
) -> Result<String> {
    let all = Spindle::all(host)?;
    let spindle = spindle::named(&all, name)?;
    for word in words {
        check(name, word)?;
    }
    let node = format!("{}/{}", store::home(spindle.id), path::SETTINGS);
    let mut settings = store::read(host, &node)?.unwrap_or_default();
    ensure!(
        words.is_empty() || spindle.ready,
        "{name} does not serve yet: wait until `spindlectl list` says that it does"
    );
    for word in words {
        let order = format!("{} {word}", host.now().as_nanos());
        let nodes = (path::SETTING, path::SET);
        order::give(host, spindle, nodes, &order, ("settings", patience))?;
        settings = merged(&settings, word);
        let kept = store::write(host, &node, &settings);
        kept.with_context(|| format!("{word} holds, but would not outlive a death of the kernel"))?;
    }
    Ok(tables::text(&settings))
}

/// Whether an option can be set while the kernel runs, to that value.
fn check(name: &str, word: &str) -> Result<()> {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    Config::default().set(key, Some(value))?;
    if matches!(key, "log" | "poll_us") {
        return Ok(());
    }
    let other = OTHERS.iter().find(|(begins, ..)| key.starts_with(begins));
    let Some((_, why, next)) = other else {
        bail!("{key} cannot be set while {name} runs");
    };
    let next = match *next {
        "" => format!(
            "put it into the options of the domain (`create --set {key}=...`) and restart that"
        ),
        next => next.replace("NAME", name),
    };
    Err(FaultKind::Refused.error(format!(
        "{key} cannot be set while {name} runs: {why}\n{next}"
    )))
}

/// These options with one more, in place of what it was.
fn merged(settings: &str, word: &str) -> String {
    let key = word.split('=').next().unwrap_or_default();
    let others = settings.split_ascii_whitespace();
    let others = others.filter(|other| other.split('=').next() != Some(key));
    others.chain([word]).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const PATIENCE: Duration = Duration::from_secs(10);
    const KEPT: &str = "/local/domain/3/data/spindle/settings";

    fn ordered(host: &mut Fake, words: &[&str]) -> Result<String> {
        let words: Vec<_> = words.iter().map(|&word| word.to_string()).collect();
        set(host, "spindle", &words, PATIENCE)
    }

    #[test]
    fn options_are_set_and_kept_for_the_next_life() {
        let mut host = Fake::serving();
        assert_eq!(ordered(&mut host, &[]).expect("none"), "");
        assert_eq!(
            ordered(&mut host, &["log=debug", "poll_us=50"]).expect("set"),
            "log=debug poll_us=50"
        );
        assert_eq!(
            ordered(&mut host, &["log=warn"]).expect("set"),
            "poll_us=50 log=warn"
        );
        assert_eq!(host.state.store[KEPT], "poll_us=50 log=warn");
        assert_eq!(
            ordered(&mut host, &[]).expect("those"),
            "poll_us=50 log=warn"
        );
    }

    #[test]
    fn what_cannot_be_set_is_refused_by_name_before_anything_is_asked() {
        let mut host = Fake::serving();
        for (word, text) in [
            (
                "queues=2",
                "queues cannot be set while spindle runs: guests have been offered queues\nput it",
            ),
            (
                "limits=iops=5",
                "`spindlectl limit spindle GUEST/DISK` sets them",
            ),
            ("drill=on", "decided before it serves"),
            ("ram0=1M", "memory is given to RAM disks"),
            ("null0=1M", "disks are found"),
            ("path=copy", "agreed on"),
            ("io_timeout=5", "started with it"),
            ("partitions=off", "tables are read"),
            ("ring_order=1", "rings of that size"),
            ("group=a:iops=5", "`spindlectl limit spindle @GROUP`"),
            ("nvme0=e0000,4", "disks are found"),
            ("log=loud", "is no value for log"),
            ("lgo=info", "did you mean \"log\"?"),
        ] {
            let error = ordered(&mut host, &[word]).expect_err(word).to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(!host.made("xenstore-write"));
        assert!(set(&mut host, "other", &[], PATIENCE).is_err());
        // What it refuses or does not answer is not kept.
        host.deaf = true;
        let error = ordered(&mut host, &["log=info"]).expect_err("no answer");
        assert!(
            error.to_string().contains("has not answered within 10 s"),
            "{error}"
        );
        assert!(!host.state.store.contains_key(KEPT));
    }
}
