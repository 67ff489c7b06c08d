//! Orders that a running Spindle takes from a node in xenstore and answers in another, both of which begin
//! with the same word.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::host::Host;
use crate::spindle::Spindle;
use crate::store;
use crate::tables;

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Writes `order` to the node `to`, and waits for its answer in the node `from`; gives what that says
/// besides that it is done.
///
/// # Errors
/// If the Spindle refuses, if it does not answer within `patience`, which a version without `what` does not,
/// or if xenstore does not answer.
pub(crate) fn give(
    host: &mut impl Host,
    spindle: &Spindle,
    (to, from): (&str, &str),
    order: &str,
    (what, patience): (&str, Duration),
) -> Result<String> {
    let name = &spindle.name;
    let Some(said) = ask(host, spindle, (to, from), order, patience)? else {
        bail!(
            "{name} has not answered within {} s: its version may know no {what} (`spindlectl list`), \
             or its control core hangs",
            patience.as_secs()
        );
    };
    match said.strip_prefix("done") {
        Some(more) => Ok(tables::text(more.trim_start_matches(", "))),
        None => bail!("{name}: {}", tables::text(&said)),
    }
}

/// The same; gives whatever the answer is behind its word, or nothing if there is none in time.
///
/// # Errors
/// If xenstore does not answer.
pub(crate) fn ask(
    host: &mut impl Host,
    spindle: &Spindle,
    (to, from): (&str, &str),
    order: &str,
    patience: Duration,
) -> Result<Option<String>> {
    let name = &spindle.name;
    let node = |path: &str| format!("{}/{path}", store::home(spindle.id));
    let word = order.split(' ').next().unwrap_or_default();
    let deadline = host.now().saturating_add(patience);
    store::write(host, &node(to), order).with_context(|| format!("cannot ask {name}"))?;
    loop {
        let answer = store::read(host, &node(from))?.unwrap_or_default();
        if let Some((_, said)) = answer
            .split_once(' ')
            .filter(|(answered, _)| *answered == word)
        {
            return Ok(Some(said.to_string()));
        }
        ensure!(!host.interrupted(), "interrupted before {name} answered");
        if host.now() >= deadline {
            return Ok(None);
        }
        host.sleep(LOOK);
    }
}
